//! Events on the Node object, for whoever looks at the node before looking at the agent: `kubectl describe node`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::history::{Event, Kind};
use crate::text::printable;

/// Events that wait to be written; more are left out, since nothing can be written then.
const WAITING: usize = 32;
/// Events of one matter are written no more often than this, and then the newest of them.
const APART: Duration = Duration::from_secs(10);
/// A write that takes longer is given up: what waits is newer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two lines of the log that say that events cannot be written.
const COMPLAINT: Duration = Duration::from_secs(3600);
/// Bytes of an event's `note` and of its `action` (kubernetes/pkg/apis/core/validation/events.go).
const NOTE: usize = 1024;
const ACTION: usize = 128;
/// Bytes of the sign that something was cut off.
const CUT: usize = '…'.len_utf8();
/// Who reports, in every event.
const CONTROLLER: &str = "mvp";

/// Takes what has happened; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct NodeEvents(mpsc::Sender<Event>);

impl NodeEvents {
    /// Writes events on this Node from now on, on this runtime.
    pub(crate) fn start(client: Client, node: &str) -> Self {
        let (sender, told) = mpsc::channel(WAITING);
        tokio::spawn(write(client, node.to_owned(), told));
        Self(sender)
    }

    /// An event that is of no interest there, or for which there is no room, is left out.
    pub(crate) fn tell(&self, event: &Event) {
        if interest(event).is_some() {
            let _ = self.0.try_send(event.clone());
        }
    }
}

async fn write(client: Client, node: String, mut told: mpsc::Receiver<Event>) {
    let writer = Writer::new(client, node);
    let mut gate = Gate::default();
    let mut complained: Option<Instant> = None;
    loop {
        let next = match gate.opens() {
            None => told.recv().await.map(Some),
            Some(at) => tokio::time::timeout_at(at, told.recv())
                .await
                .map_or(Some(None), |event| event.map(Some)),
        };
        // The agent has ended.
        let Some(event) = next else { return };
        for event in gate.pass(event, Instant::now()) {
            let Err(error) = writer.write(&event).await else {
                continue;
            };
            // A server that restarts, or that nobody reaches, says so elsewhere; what it answers an operator can change.
            let refused = matches!(error, Unwritten::Refused(_));
            if refused && complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                complained = Some(Instant::now());
                tracing::warn!(%error, "an event on the Node is not written (deploy/rbac.yaml grants it); nothing else depends on it");
            } else {
                tracing::debug!(%error, "an event on the Node is not written");
            }
        }
    }
}

/// Writes what it is given.
struct Writer {
    client: Client,
    reporter: Reporter,
    recorder: Recorder,
    regarding: ObjectReference,
}

impl Writer {
    fn new(client: Client, node: String) -> Self {
        let reporter = Reporter {
            controller: CONTROLLER.to_owned(),
            instance: Some(node.clone()),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter.clone()),
            client,
            reporter,
            regarding: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(node.clone()),
                // As kubelet does: `kubectl describe node` looks for this.
                uid: Some(node),
                ..ObjectReference::default()
            },
        }
    }

    async fn write(&self, event: &Event) -> Result<(), Unwritten> {
        let Some(written) = written(event) else {
            return Ok(());
        };
        let publish = async {
            match event.kind {
                // A recorder counts what comes again in the first object, under its first note. Each file is to have a note of its own.
                Kind::CertificateNearEnd => {
                    let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
                    recorder.publish(&written, &self.regarding).await
                }
                _ => self.recorder.publish(&written, &self.regarding).await,
            }
        };
        match tokio::time::timeout(PATIENCE, publish).await {
            Ok(Ok(())) => Ok(()),
            // It was sent twice, and the first one arrived.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(Unwritten::Refused(status.to_string())),
            Ok(Err(error)) => Err(Unwritten::Unreached(error.to_string())),
            Err(_) => Err(Unwritten::Unreached(format!(
                "no answer within {PATIENCE:?}"
            ))),
        }
    }
}

/// Why an event was not written.
#[derive(Debug, thiserror::Error)]
enum Unwritten {
    /// A server's answer: rights are missing, most likely.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered.
    #[error("{0}")]
    Unreached(String),
}

/// What events are about: a kind, and of certificates the file.
type Matter = (Kind, String);

/// Which events are written when. Pure; time is passed in.
#[derive(Debug, Default)]
struct Gate {
    /// When a matter was written; forgotten once it may be written again.
    last: BTreeMap<Matter, Instant>,
    waiting: BTreeMap<Matter, Event>,
    /// That connections are taken again is of interest only if it was said that they are not.
    passing: bool,
}

impl Gate {
    /// When the first of those that wait may be written.
    fn opens(&self) -> Option<Instant> {
        let matters = self.waiting.keys();
        matters
            .filter_map(|matter| Some(*self.last.get(matter)? + APART))
            .min()
    }

    /// Takes an event, if there is one, and returns those that are to be written now, in the order of their time.
    fn pass(&mut self, event: Option<Event>, now: Instant) -> Vec<Event> {
        if let Some(event) = event {
            // What is no longer true is not written after what is.
            if let Some(opposite) = opposite(event.kind) {
                self.waiting.retain(|(kind, _), _| *kind != opposite);
            }
            self.waiting
                .insert((event.kind, event.subject.clone()), event);
        }
        self.last.retain(|_, at| now < *at + APART);
        let (later, due) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(matter, _)| self.last.contains_key(matter));
        self.waiting = later;
        let due: BTreeMap<Matter, Event> = due;
        let mut events: Vec<Event> = due.into_values().collect();
        events.sort_by_key(|event| event.at_ms);
        events.retain(|event| match event.kind {
            Kind::PassingBy => {
                self.passing = true;
                true
            }
            Kind::TakesConnections => std::mem::take(&mut self.passing),
            _ => true,
        });
        for event in &events {
            self.last.insert((event.kind, event.subject.clone()), now);
        }
        events
    }
}

/// What an event of this kind ends.
fn opposite(kind: Kind) -> Option<Kind> {
    Some(match kind {
        Kind::GuardArmed => Kind::GuardIdle,
        Kind::GuardIdle => Kind::GuardArmed,
        Kind::PassingBy => Kind::TakesConnections,
        Kind::TakesConnections => Kind::PassingBy,
        _ => return None,
    })
}

/// `None`: nobody who looks at the Node needs to know.
fn interest(event: &Event) -> Option<(EventType, &'static str)> {
    Some(match event.kind {
        Kind::GuardArmed => (EventType::Normal, "UpgradeSigns"),
        Kind::GuardIdle => (EventType::Normal, "NoUpgradeSigns"),
        // An agent that starts or ends passes by for a moment, as it should.
        Kind::PassingBy if matches!(event.value.as_str(), "starting" | "draining") => return None,
        Kind::PassingBy => (EventType::Warning, "PassingBy"),
        Kind::TakesConnections => (EventType::Normal, "TakesConnections"),
        Kind::CertificateNearEnd => (EventType::Warning, "CertificateNearEnd"),
        _ => return None,
    })
}

fn written(event: &Event) -> Option<KubeEvent> {
    let (type_, reason) = interest(event)?;
    let about = match event.subject.as_str() {
        "" => String::new(),
        subject => format!("{subject}: "),
    };
    let detail = match event.detail.as_str() {
        "" => String::new(),
        detail => format!(" ({detail})"),
    };
    let note = format!("{about}{}{detail}", event.kind.meaning());
    // What comes again for the same reasons is counted in one object; with other reasons it has an object, and a note, of its own.
    let action = match event.value.as_str() {
        "" => event.kind.as_str(),
        reasons => reasons,
    };
    let short = |text: &str, most: usize| printable(text, most - CUT).into_owned();
    Some(KubeEvent {
        type_,
        reason: reason.to_owned(),
        note: Some(short(&note, NOTE)),
        action: short(action, ACTION),
        secondary: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, at: u64, value: &str) -> Event {
        Event::new(at, kind, "", "because", value)
    }

    fn at(passed: &[Event]) -> Vec<u64> {
        passed.iter().map(|event| event.at_ms).collect()
    }

    #[test]
    fn a_kind_that_comes_again_and_again_is_written_now_and_then_and_with_its_newest() {
        let mut gate = Gate::default();
        let start = Instant::now();
        let mut pass = |seconds: u64, event: Option<Event>| {
            gate.pass(event, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(&pass(0, Some(event(Kind::GuardArmed, 1, "")))), [1]);
        assert_eq!(at(&pass(1, Some(event(Kind::GuardIdle, 2, "")))), [2]);
        for n in 3..9 {
            assert!(pass(2, Some(event(Kind::GuardArmed, n, ""))).is_empty());
        }
        assert_eq!(at(&pass(9, None)), [] as [u64; 0]);
        assert_eq!(at(&pass(10, None)), [8], "the last word is true");
        assert!(pass(30, None).is_empty());
        assert_eq!(gate.opens(), None);
        assert!(gate.last.is_empty(), "nothing is kept for ever");
    }

    #[test]
    fn what_is_no_longer_true_is_not_written_after_what_is() {
        let mut gate = Gate::default();
        let start = Instant::now();
        let mut pass = |seconds: u64, event: Option<Event>| {
            gate.pass(event, start + Duration::from_secs(seconds))
        };
        assert_eq!(at(&pass(0, Some(event(Kind::GuardArmed, 1, "")))), [1]);
        assert_eq!(at(&pass(1, Some(event(Kind::GuardIdle, 2, "")))), [2]);
        assert!(pass(5, Some(event(Kind::GuardArmed, 3, ""))).is_empty());
        assert!(pass(6, Some(event(Kind::GuardIdle, 4, ""))).is_empty());
        assert!(pass(7, Some(event(Kind::GuardArmed, 5, ""))).is_empty());
        assert_eq!(at(&pass(10, None)), [5]);
        assert!(pass(30, None).is_empty(), "the guard is armed");
    }

    #[test]
    fn every_certificate_is_written() {
        let mut gate = Gate::default();
        let now = Instant::now();
        for (ms, file) in [(1, "/pki/a.crt"), (2, "/pki/b.crt")] {
            let event = Event::new(ms, Kind::CertificateNearEnd, file, "ends in 1d", "");
            assert_eq!(at(&gate.pass(Some(event), now)), [ms], "{file}");
        }
    }

    #[test]
    fn an_agent_that_starts_and_ends_is_no_news() {
        assert!(interest(&event(Kind::PassingBy, 1, "starting")).is_none());
        assert!(interest(&event(Kind::PassingBy, 1, "draining")).is_none());
        assert!(interest(&event(Kind::PassingBy, 1, "full")).is_some());
        assert!(interest(&event(Kind::ServerSeen, 1, "")).is_none());
        let mut gate = Gate::default();
        let now = Instant::now();
        assert!(
            gate.pass(Some(event(Kind::TakesConnections, 1, "")), now)
                .is_empty()
        );
        assert_eq!(
            at(&gate.pass(Some(event(Kind::PassingBy, 2, "full")), now)),
            [2]
        );
        assert_eq!(
            at(&gate.pass(Some(event(Kind::TakesConnections, 3, "")), now)),
            [3]
        );
    }

    #[test]
    fn what_is_written_fits_into_an_event() {
        let long = Event::new(
            1,
            Kind::CertificateNearEnd,
            &"/pki".repeat(99),
            &"x".repeat(999),
            "",
        );
        let near = written(&long).unwrap();
        assert!(near.note.unwrap().len() <= NOTE);
        assert_eq!(near.reason, "CertificateNearEnd");
        assert_eq!(near.action, "certificate_near_end");
        let signs = ["sets_differ"; 20].join(",");
        let armed = Event::new(1, Kind::GuardArmed, "", "", &signs);
        let armed = written(&armed).unwrap();
        assert!(armed.action.len() <= ACTION);
        assert_eq!(armed.note.as_deref(), Some(Kind::GuardArmed.meaning()));
    }
}
