//! Whether the server has answered what a client sent, as far as the kernel's counts of bytes show it. Pure.
//!
//! That the server spoke last is not enough: over HTTP/2 it also acknowledges settings and pings and opens windows, while it
//! still thinks about a request. Those are small, and an answer is not.

use std::time::{Duration, Instant};

use crate::net::Established;

/// An answer has at least so many bytes: a TLS record with the fields that every kube-apiserver sends (date, audit-id, the two
/// of priority and fairness) has more. Less than this is an acknowledgement of a ping (17 bytes and 22 of the TLS record,
/// RFC 9113 section 6.7 and RFC 8446 section 5.2) or two WINDOW_UPDATEs (13 bytes each).
pub(super) const ANSWER: u64 = 100;
/// A further answer on a connection may be as small as this, if it has no body yet: that a watch is open. Its fields but for the audit-id
/// are in the header table by then (RFC 7541 section 2.3.2). Two WINDOW_UPDATEs in one record have 48 bytes.
const SMALL: u64 = 60;
/// The acknowledgement of a ping, by which a client asks whether the connection is alive (client-go after 30 s without a frame).
const PONG: u64 = 39;

/// Bytes that a server has received and written on a connection so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Traffic {
    pub received: u64,
    pub written: u64,
}

/// What the looks so far have seen of one connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    /// When it was first seen.
    pub first: Instant,
    last: Traffic,
    /// What the server had written when the client was last seen to have sent something; `None`: it never was.
    asked: Option<u64>,
    /// Something before that had not been answered then.
    behind: bool,
}

impl Traffic {
    /// The counts of a connection as the kernel has them now.
    pub(super) fn of(connection: &Established) -> Self {
        Self {
            received: connection.bytes_received(),
            written: connection.bytes_written(),
        }
    }
}

impl Seen {
    /// A connection that was not there at the look before.
    pub(super) fn first(now: Instant, traffic: Traffic) -> Self {
        Self {
            first: now,
            last: traffic,
            asked: None,
            behind: false,
        }
    }

    /// The same connection at the next look.
    pub(super) fn again(&self, traffic: Traffic) -> Self {
        let (asked, behind) = match traffic.received == self.last.received {
            true => (self.asked, self.behind),
            // What was written since the last look may have been before or after what the client sent.
            false => (Some(self.last.written), !self.is_answered(&self.last)),
        };
        Self {
            first: self.first,
            last: traffic,
            asked,
            behind,
        }
    }

    /// As if it had been seen for the first time so much later.
    pub(super) fn delay(&mut self, time: Duration) {
        self.first += time;
    }

    /// Whether the answer that was written since the client last sent something may be to what it had sent before: between two looks
    /// an answer was written that was still awaited at the first of them, and something came from the client.
    pub(super) fn may_be_of_before(&self) -> bool {
        self.behind
    }

    /// Whether what the server has written since the client last sent something may be all that is to come: an answer without a body, or
    /// the acknowledgement of a ping. Only a long silence can bear that out.
    pub(super) fn may_be_answered(&self, now: &Traffic) -> bool {
        let Some(asked) = self.asked else {
            return self.is_answered(now);
        };
        let since = now.written.saturating_sub(asked);
        now.received == self.last.received && (since == PONG || since >= SMALL)
    }

    /// Whether the client was seen to send something, so that what the server wrote since can be told from what it wrote before.
    pub(super) fn is_known(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether the server has written an answer since the client last sent something. True of a connection on which the client
    /// was never seen to send ([`Self::is_known`]): only a long silence can bear that out, since the server may have acknowledged settings
    /// after a request about which it thinks.
    pub(super) fn is_answered(&self, now: &Traffic) -> bool {
        if now.received != self.last.received {
            return false;
        }
        self.asked
            .is_none_or(|written| now.written.saturating_sub(written) >= ANSWER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(received: u64, written: u64) -> Traffic {
        Traffic { received, written }
    }

    #[test]
    fn an_acknowledgement_is_no_answer() {
        let seen = Seen::first(Instant::now(), traffic(1000, 5000));
        assert!(
            seen.is_answered(&traffic(1000, 5000)),
            "nothing is known of it"
        );
        // A request, of which the server has said only that the window is open.
        let asked = seen.again(traffic(6000, 5070));
        assert!(!asked.is_answered(&traffic(6000, 5070)));
        assert!(
            !asked
                .again(traffic(6000, 5070))
                .is_answered(&traffic(6000, 5099))
        );
        assert!(
            asked
                .again(traffic(6000, 5070))
                .is_answered(&traffic(6000, 5400))
        );
    }

    #[test]
    fn an_answer_that_was_awaited_already_may_not_be_to_what_came_with_it() {
        let quick = Seen::first(Instant::now(), traffic(1000, 5000)).again(traffic(1100, 5300));
        assert!(!quick.may_be_of_before(), "nothing was awaited");
        let slow = quick.again(traffic(1200, 5300));
        assert!(!slow.may_be_of_before());
        // The slow one is answered, and the next request comes at once.
        let next = slow.again(traffic(1300, 5600));
        assert!(next.is_answered(&traffic(1300, 5600)) && next.may_be_of_before());
        assert!(next.again(traffic(1300, 5900)).may_be_of_before());
        // One more, after that was answered as far as is known.
        assert!(!next.again(traffic(1400, 6200)).may_be_of_before());
    }

    #[test]
    fn a_watch_that_was_opened_and_a_ping_may_be_answered_by_few_bytes() {
        let asked = Seen::first(Instant::now(), traffic(1000, 5000)).again(traffic(1050, 5000));
        let after = |written: u64| asked.may_be_answered(&traffic(1050, 5000 + written));
        assert!(after(39) && after(72) && after(300));
        // Nothing, an opened window, two of them in one record.
        assert!(!after(0) && !after(35) && !after(48));
        assert!(!asked.may_be_answered(&traffic(1060, 5072)), "asked again");
        assert!(!asked.is_answered(&traffic(1050, 5072)));
    }

    #[test]
    fn what_comes_between_two_looks_counts_as_asked_for() {
        let seen = Seen::first(Instant::now(), traffic(1000, 5000)).again(traffic(1100, 5300));
        assert!(seen.is_answered(&traffic(1100, 5300)));
        // Another request since the look.
        assert!(!seen.is_answered(&traffic(1150, 5300)));
        let again = seen.again(traffic(1150, 5300));
        assert!(!again.is_answered(&traffic(1150, 5300)));
        assert_eq!(again.first, seen.first);
    }
}
