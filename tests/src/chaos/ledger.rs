//! What clients saw during one row of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was asked.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Of a type that every server serves.
    Read,
    /// Of a type that only new servers serve.
    ReadNew,
    /// Of a type that every server serves.
    Write,
    /// Of a type that only new servers serve.
    WriteNew,
    /// Of a discovery document.
    Discovery,
    /// Of a collection, until it ends.
    Watch,
}

/// What a client may not see, or only for a reason.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Wrong {
    /// A 404 that denies a type which a server serves.
    FalseNotFound,
    /// A discovery document that lacks what a server serves.
    Shrunk,
    /// A write whose connection ended, or which was answered with a failure that does not say that nothing was done.
    InDoubt,
    /// No connection.
    NoConnection,
    /// A read that found no answer, after all that client-go does for it.
    NoAnswer,
    /// No answer in the time of the most patient client.
    TimedOut,
    /// 429 or 5xx, after all that client-go does.
    Unavailable,
    /// A watch that could not be resumed from where it was.
    Expired,
    /// Any other answer.
    Other,
}

/// Something wrong.
#[derive(Clone, Debug)]
pub struct Event {
    /// What was asked.
    pub kind: Kind,
    /// What was seen.
    pub wrong: Wrong,
    /// Index of the front that was asked.
    pub front: usize,
    /// When the request was sent.
    pub sent: Instant,
    /// When its answer, or its connection, ended.
    pub ended: Instant,
    /// What came, for people.
    pub text: String,
}

/// The requests of one row; shared by all clients.
#[derive(Debug, Default)]
pub struct Ledger {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, (Kind, usize, Instant)>>,
    seen: Mutex<Seen>,
}

/// What the clients of a row saw together.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Answered or not, by kind.
    pub requests: BTreeMap<Kind, u64>,
    /// Sent again, by clients.
    pub repeats: u64,
    /// The slowest request that was answered rightly: how long it took, its kind, and its front.
    pub slowest: Option<(Duration, Kind, usize)>,
    /// Everything that was wrong, in the order in which it ended.
    pub events: Vec<Event>,
    /// Writes that were confirmed.
    pub confirmed: BTreeSet<String>,
    /// Requests that were due while too many were under way at that front.
    pub left_out: u64,
}

/// A request under way. Its row is not over before it is dropped.
pub struct Open {
    ledger: Arc<Ledger>,
    number: u64,
    pub kind: Kind,
    pub front: usize,
    pub sent: Instant,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::ReadNew => "read of a new type",
            Self::Write => "write",
            Self::WriteNew => "write of a new type",
            Self::Discovery => "discovery",
            Self::Watch => "watch",
        })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FalseNotFound => "false 404",
            Self::Shrunk => "discovery shrunk",
            Self::InDoubt => "write in doubt",
            Self::NoConnection => "no connection",
            Self::NoAnswer => "connection lost",
            Self::TimedOut => "timed out",
            Self::Unavailable => "unavailable",
            Self::Expired => "watch expired",
            Self::Other => "another answer",
        })
    }
}

impl Ledger {
    /// A request is sent now.
    pub fn open(self: &Arc<Self>, kind: Kind, front: usize) -> Open {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        self.open_requests().insert(number, (kind, front, sent));
        Open {
            ledger: Arc::clone(self),
            number,
            kind,
            front,
            sent,
        }
    }

    /// A request was due and not sent, because too many were under way.
    pub fn left_out(&self) {
        self.lock().left_out += 1;
    }

    /// Requests of the row that have no end yet: what, at which front, and for how long.
    pub fn under_way(&self) -> Vec<(Kind, usize, Duration)> {
        let open = self.open_requests();
        let told = |(kind, front, sent): &(Kind, usize, Instant)| (*kind, *front, sent.elapsed());
        open.values().map(told).collect()
    }

    /// Everything up to now.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// Requests that ended, right or wrong.
    pub fn ended(&self) -> u64 {
        self.lock().requests.values().sum()
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.lock().events.len()
    }

    fn open_requests(&self) -> MutexGuard<'_, BTreeMap<u64, (Kind, usize, Instant)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// It was answered as it should be.
    pub fn right(self, repeats: u32) {
        let mut seen = self.ledger.lock();
        let took = (self.sent.elapsed(), self.kind, self.front);
        seen.slowest = seen.slowest.max(Some(took));
        self.count(&mut seen, repeats);
    }

    /// A write was confirmed.
    pub fn confirmed(self, id: String, repeats: u32) {
        self.ledger.lock().confirmed.insert(id);
        self.right(repeats);
    }

    pub fn wrong(self, wrong: Wrong, text: String, repeats: u32) {
        let mut seen = self.ledger.lock();
        seen.events.push(Event {
            kind: self.kind,
            wrong,
            front: self.front,
            sent: self.sent,
            ended: Instant::now(),
            text,
        });
        self.count(&mut seen, repeats);
    }

    fn count(&self, seen: &mut Seen, repeats: u32) {
        *seen.requests.entry(self.kind).or_default() += 1;
        seen.repeats += u64::from(repeats);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.ledger.open_requests().remove(&self.number);
    }
}
