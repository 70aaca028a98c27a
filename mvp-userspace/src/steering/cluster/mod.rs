//! How agents inform each other: one sees a sign and all arm, so that the last node to notice is as fast as the first; and operators
//! arm all of them at once. They use annotations of one Lease, which `deploy/rbac.yaml` creates: every agent watches it, and their
//! user may change this one object and no other.
//!
//!
//! file | does |
//! |---|---|
//!
//! `words` | what the Lease contains, and what follows from it |
//!
//! `teller` | which signs are published, and how often |
//!
//! `lease` | reads and writes the Lease |

mod lease;
mod teller;
mod words;

pub(super) use lease::Speaking;
pub(crate) use lease::{follow, try_out};

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot};

use crate::steering::{ClusterOrder, GuardReason, GuardReasons, Signs};
use teller::SignPublisher;
use words::{Announcement, Announcements, written};

/// Words that wait to be written; an agent has seldom more than one.
const WAITING: usize = 16;
/// How long an operator waits for the Lease to be written.
const OPERATOR_WAITS: Duration = Duration::from_secs(10);

/// What this agent reads from the others, and what it publishes. Cheap to clone.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    node: String,
    announcements: Mutex<Announcements>,
    publisher: Mutex<SignPublisher>,
    /// Another agent's sign came and no observation has seen it yet.
    news: AtomicBool,
    orders: mpsc::Sender<Order>,
    /// Why the Lease cannot be read and written.
    trouble: Mutex<Trouble>,
    counts: Counts,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    reading: Option<String>,
    writing: Option<String>,
}

/// Counts that only grow.
#[derive(Debug, Default)]
struct Counts {
    told: AtomicU64,
    heard: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn read(&self) -> [(&'static str, u64); 3] {
        let Self {
            told,
            heard,
            failed,
        } = self;
        [("told", told), ("heard", heard), ("failed", failed)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

/// What is to be written.
enum Order {
    Sign(GuardReasons),
    Operator(ClusterOrder, oneshot::Sender<Result<(), String>>),
}

impl Cluster {
    /// For the agent of this node; what is to be written comes out of the receiver, for `follow`.
    pub fn new(node: &str) -> (Self, Speaking) {
        let (orders, speaking) = mpsc::channel(WAITING);
        let inner = Inner {
            node: node.to_owned(),
            announcements: Mutex::new(Announcements::new(node)),
            publisher: Mutex::default(),
            news: AtomicBool::new(false),
            orders,
            trouble: Mutex::default(),
            counts: Counts::default(),
        };
        (Self(Arc::new(inner)), Speaking(speaking))
    }

    /// Adds the signs of others to those that this agent sees, and publishes which of its own are new. Until this agent's guard was idle
    /// once (`settled`) it does not know yet which state is the usual one, and publishes changes of its manifest only.
    pub fn share(&self, signs: &mut Signs, settled: bool) {
        let own = signs.reasons().without(match settled {
            true => GuardReasons::one(GuardReason::SteeringOff),
            false => GuardReasons::ALL.without(GuardReasons::one(GuardReason::ManifestChanged)),
        });
        if let Some(new) = lock(&self.0.publisher).next(own, Instant::now()) {
            // Full: nothing could be written for a long time, and this could not either.
            let _ = self.0.orders.try_send(Order::Sign(new));
        }
        let standing = lock(&self.0.announcements).standing(OffsetDateTime::now_utc());
        let news = self.0.news.swap(false, Ordering::Relaxed);
        signs.agent_armed = news || standing.agent.is_some();
        signs.cluster_armed = standing.operator.is_some();
    }

    /// Has the Lease say an operator's word, and waits until it does. The line is for the operator.
    ///
    /// # Errors
    /// Why it could not be written; no agent has heard of it then.
    pub async fn operator(&self, order: ClusterOrder) -> Result<String, String> {
        let (sender, answer) = oneshot::channel();
        let waits = tokio::time::timeout(OPERATOR_WAITS, async {
            let order = Order::Operator(order, sender);
            self.0.orders.send(order).await.map_err(|_| ENDED)?;
            answer.await.map_err(|_| ENDED)
        });
        match waits.await {
            Ok(Ok(done)) => done?,
            Ok(Err(ended)) => return Err(ended.to_owned()),
            Err(_) => {
                return Err(format!(
                    "the Lease was not written within {OPERATOR_WAITS:?}"
                ));
            }
        }
        Ok(match order {
            ClusterOrder::Arm(time) => format!("all agents are armed for {time:?}"),
            ClusterOrder::Release => "all agents go by the signs again".to_owned(),
        })
    }

    /// The line in the status.
    pub fn line(&self) -> String {
        let trouble = lock(&self.0.trouble).clone();
        let announcements = lock(&self.0.announcements);
        let mut line = format!(
            "signs are shared by the Lease {}/{}",
            lease::NAMESPACE,
            lease::NAME
        );
        for (what, why) in [("read", trouble.reading), ("written", trouble.writing)] {
            if let Some(why) = why {
                line += &format!("; it cannot be {what}: {why}");
            }
        }
        let now = OffsetDateTime::now_utc();
        if let (Some(until), Some(announcement)) = (
            announcements.standing(now).operator,
            announcements.operator(),
        ) {
            line += &format!(
                "; all are armed until {} by an operator at {}",
                written(until),
                announcement.by
            );
        }
        if let Some(announcement) = announcements.last() {
            line += &format!(
                "; last word: {} at {} of {}",
                announcement.because,
                written(announcement.at),
                announcement.by
            );
        }
        line
    }

    /// How many signs and commands were written (`told`), were read (`heard`), or could not be written (`failed`).
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        self.0.counts.read()
    }

    /// The same of an agent that exchanges nothing.
    pub fn no_counts() -> [(&'static str, u64); 3] {
        Counts::default().read()
    }

    fn announcement_for(&self, order: &Order) -> (String, Option<Announcement>) {
        let (node, now) = (&self.0.node, OffsetDateTime::now_utc());
        match order {
            Order::Sign(reasons) => (
                words::key_of(node),
                Some(Announcement::sign(node, *reasons, now)),
            ),
            Order::Operator(ClusterOrder::Arm(time), _) => {
                let announcement = Announcement::operator(node, *time, now);
                (words::OPERATOR.to_owned(), Some(announcement))
            }
            Order::Operator(ClusterOrder::Release, _) => (words::OPERATOR.to_owned(), None),
        }
    }

    fn heard(&self, annotations: &BTreeMap<String, String>) {
        let mut announcements = lock(&self.0.announcements);
        if announcements.take(annotations, OffsetDateTime::now_utc()) {
            self.0.counts.heard.fetch_add(1, Ordering::Relaxed);
            self.0.news.store(true, Ordering::Relaxed);
            let last = announcements.last().cloned();
            drop(announcements);
            if let Some(Announcement { by, because, .. }) = last {
                tracing::info!(by, because, "another agent saw a sign");
            }
        }
    }
}

const ENDED: &str = "the agent ends";

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
