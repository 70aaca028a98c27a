//! The moment after an answer on a connection that is never quiet for long, found by looks so close together that a request and its
//! answer fall between different ones. Pure; time is passed in.
//!
//! The kernel counts how long a connection was quiet in ticks of up to 10 ms, so that a client with 200 requests per second is never
//! quiet by that clock, although it has 4 ms without a request after each answer.

use std::time::{Duration, Instant};

use super::seen::{ANSWER, Traffic};

/// So long a connection is looked at in one go: several times what a client of that kind has between two requests.
pub(super) const WATCHED: Duration = Duration::from_millis(25);
/// The time between two looks.
pub(super) const APART: Duration = Duration::from_micros(50);
/// An answer may be written in parts, its header first. It is whole if nothing follows for so long.
const WHOLE: Duration = Duration::from_millis(1);

/// What the looks of one go have seen.
#[derive(Debug)]
pub(super) struct Close {
    last: Option<Traffic>,
    /// What the server had written when a request was seen to come alone; `None`: none was, or two may be under way.
    asked: Option<u64>,
    /// When something was last received or written.
    moved: Instant,
}

impl Close {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: None,
            asked: None,
            moved: now,
        }
    }

    /// Takes one look. True if the request that was seen to come is answered, the answer is whole, and nothing has come since. `queued`:
    /// bytes wait to be read or sent.
    pub(super) fn take(&mut self, traffic: Traffic, queued: bool, now: Instant) -> bool {
        let Some(last) = self.last.replace(traffic) else {
            self.moved = now;
            return false;
        };
        if traffic.received != last.received {
            let answered = self.is_answered(&last);
            // What was written in the same interval may have been before or after it. Who asks before there is an answer has two requests
            // under way, and the next answer may be to either.
            let alone = traffic.written == last.written && (self.asked.is_none() || answered);
            self.asked = alone.then_some(traffic.written);
        }
        if traffic != last {
            self.moved = now;
        }
        let whole = now.saturating_duration_since(self.moved) >= WHOLE;
        whole && !queued && self.is_answered(&traffic)
    }

    fn is_answered(&self, now: &Traffic) -> bool {
        self.asked
            .is_some_and(|written| now.written.saturating_sub(written) >= ANSWER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at these microseconds, with what was received and written by then; returns when the moment came.
    fn looks(all: &[(u64, u64, u64)]) -> Option<u64> {
        let start = Instant::now();
        let mut close = Close::new(start);
        let mut moments = all.iter().filter(|(at, received, written)| {
            let traffic = Traffic {
                received: *received,
                written: *written,
            };
            close.take(traffic, false, start + Duration::from_micros(*at))
        });
        moments.next().map(|(at, ..)| *at)
    }

    #[test]
    fn a_request_that_comes_alone_and_is_answered() {
        let (asked, answered) = ((100, 1050, 5000), (600, 1050, 5400));
        let start = (0, 1000, 5000);
        assert_eq!(looks(&[start, asked, answered, (1500, 1050, 5400)]), None);
        assert_eq!(
            looks(&[start, asked, answered, (1600, 1050, 5400)]),
            Some(1600)
        );
        // Its body follows its header.
        let more = [
            start,
            asked,
            answered,
            (1500, 1050, 9000),
            (2400, 1050, 9000),
        ];
        assert_eq!(looks(&more), None);
        // Only the acknowledgement of something.
        assert_eq!(
            looks(&[start, asked, (600, 1050, 5050), (3000, 1050, 5050)]),
            None
        );
    }

    #[test]
    fn what_was_under_way_before_is_not_taken_for_answered() {
        // An answer without a request that was seen.
        assert_eq!(
            looks(&[(0, 1000, 5000), (100, 1000, 5400), (3000, 1000, 5400)]),
            None
        );
        // A request and an answer between two looks.
        assert_eq!(
            looks(&[(0, 1000, 5000), (100, 1050, 5400), (3000, 1050, 5400)]),
            None
        );
        // Two requests, and the answer to one of them.
        let two = [
            (0, 1000, 5000),
            (100, 1050, 5000),
            (200, 1100, 5000),
            (600, 1100, 5400),
            (3000, 1100, 5400),
        ];
        assert_eq!(looks(&two), None);
        // After the next request that comes alone all is clear again, as far as can be seen.
        let next = [(3100, 1150, 5400), (3600, 1150, 5800), (4700, 1150, 5800)];
        assert_eq!(looks(&[&two[..], &next[..]].concat()), Some(4700));
    }

    #[test]
    fn what_waits_in_a_queue_is_under_way() {
        let start = Instant::now();
        let at = |micros| start + Duration::from_micros(micros);
        let traffic = |received, written| Traffic { received, written };
        let mut close = Close::new(start);
        assert!(!close.take(traffic(1000, 5000), false, at(0)));
        assert!(!close.take(traffic(1050, 5000), true, at(100)));
        assert!(!close.take(traffic(1050, 5400), false, at(600)));
        assert!(!close.take(traffic(1050, 5400), true, at(2000)));
        assert!(close.take(traffic(1050, 5400), false, at(2100)));
    }
}
