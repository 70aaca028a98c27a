//! Events, the newest of each kind: a server that goes up and down all night pushes out no event of another kind.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::text::printable;

/// Events of one kind that are kept.
pub const EACH: usize = 64;
/// Bytes of a server's or a file's name.
const SUBJECT: usize = 160;
/// Bytes of what is said about it.
const DETAIL: usize = 320;

/// Something that happened on this node.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Milliseconds since 1970, by the node's clock.
    pub at_ms: u64,
    /// What happened; unknown kinds of a later version are not shown.
    pub kind: Kind,
    /// The server's name or the file to which it happened; empty: the agent itself.
    #[serde(default)]
    pub subject: String,
    /// What people read.
    #[serde(default)]
    pub detail: String,
    /// What holds since then, for programs: a server's version, the reasons of the guard or for passing by; often empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// The newest events, in the order of their time. Bounded in number by kind, and in the length of each text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ring {
    events: VecDeque<Event>,
}

impl Event {
    /// Whatever servers, files and clients are called: short, and without characters that a terminal would obey.
    pub fn new(at_ms: u64, kind: Kind, subject: &str, detail: &str, value: &str) -> Self {
        Self {
            at_ms,
            kind,
            subject: printable(subject, SUBJECT).into_owned(),
            detail: printable(detail, DETAIL).into_owned(),
            value: printable(value, SUBJECT).into_owned(),
        }
    }
}

impl Ring {
    /// Adds an event at the place of its time, after those of the same time. One that is there already is not added again.
    pub fn push(&mut self, event: Event) {
        let place = self
            .events
            .partition_point(|other| other.at_ms <= event.at_ms);
        let same = self.events.range(..place).rev();
        if same
            .take_while(|other| other.at_ms == event.at_ms)
            .any(|other| *other == event)
        {
            return;
        }
        let kind = event.kind;
        self.events.insert(place, event);
        let of_kind = |other: &&Event| other.kind == kind;
        if self.events.iter().filter(of_kind).count() > EACH
            && let Some(oldest) = self.events.iter().position(|other| other.kind == kind)
        {
            self.events.remove(oldest);
        }
    }

    /// All events, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter()
    }

    /// How many events are kept; the oldest ones are gone once there are too many.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing has happened yet.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(at_ms: u64, kind: Kind) -> Event {
        Event::new(at_ms, kind, "cp-a", "", "")
    }

    #[test]
    fn a_kind_pushes_out_only_its_own_oldest() {
        let mut ring = Ring::default();
        ring.push(event(1, Kind::GuardArmed));
        for at in 0..1000 {
            ring.push(event(10 + at, Kind::ServerAvailable));
            ring.push(event(10 + at, Kind::ServerUnavailable));
        }
        assert_eq!(ring.len(), 2 * EACH + 1);
        assert_eq!(ring.iter().next(), Some(&event(1, Kind::GuardArmed)));
        assert_eq!(ring.iter().last().map(|event| event.at_ms), Some(1009));
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_the_order_right() {
        let mut ring = Ring::default();
        for at in [5, 9, 7, 7, 1] {
            ring.push(event(at, Kind::GuardIdle));
        }
        let times: Vec<_> = ring.iter().map(|event| event.at_ms).collect();
        assert_eq!(times, [1, 5, 7, 9], "the same event is there once");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn it_is_bounded_ordered_and_keeps_the_newest(
            pushed in proptest::collection::vec((0u64..500, 0..2usize, "[a-zß\u{1b}]{0,330}"), 0..200)
        ) {
            let mut ring = Ring::default();
            for (at, kind, text) in &pushed {
                ring.push(Event::new(*at, Kind::ALL[*kind], text, text, text));
            }
            prop_assert!(ring.iter().map(|event| event.at_ms).is_sorted());
            for kind in Kind::ALL {
                let kept: Vec<_> = ring.iter().filter(|event| event.kind == *kind).collect();
                prop_assert!(kept.len() <= EACH);
                // The newest is never the one that goes.
                let newest = pushed.iter().filter(|(_, of, _)| Kind::ALL[*of] == *kind).map(|(at, ..)| *at).max();
                prop_assert_eq!(kept.last().map(|event| event.at_ms), newest);
            }
            for event in ring.iter() {
                let longest = event.subject.len().max(event.detail.len()).max(event.value.len());
                prop_assert!(longest <= DETAIL + '…'.len_utf8());
                prop_assert!(!event.detail.chars().any(char::is_control));
            }
        }
    }
}
