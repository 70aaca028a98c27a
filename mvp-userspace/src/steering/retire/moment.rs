//! When a connection that a client made with kube-apiserver itself may be ended. Pure; time is passed in.
//!
//! From outside TLS a moment without a request cannot be distinguished from one in which the server works on its answer, but some
//! moments are better than others: the server has answered, nothing is under way, and it has been quiet for a while. The required quiet
//! time falls over the window, so that a connection that is never silent for long still leaves, in the best moment that it has.

use std::time::Duration;

/// Quiet that is asked for at the beginning of the window. Long, so that most connections are ended where it cannot disturb.
pub const QUIET_FIRST: Duration = Duration::from_secs(5);
/// Quiet that is asked for at the end of the window. A request on a local network takes less from its first to its last byte,
/// unless the server thinks; then the client spoke last.
pub const QUIET_LAST: Duration = Duration::from_millis(20);
/// Quiet that is asked for after the window. The kernel keeps the times in ticks of 1 to 10 ms.
pub(super) const QUIET_LATE: Duration = Duration::from_millis(5);
/// Silence after which no request is thought to be under way on a connection of which too little was seen: a third of the window, between
/// [`QUIET_FIRST`] and this. Few requests take longer, and those of which nothing is seen for so long can be told from no request by nothing.
const SILENCE_MOST: Duration = Duration::from_secs(10);
/// Share of the window over which connections begin to be eligible, so that their clients do not all come back at once.
const SPREAD: f64 = 1.0 / 3.0;
/// Share of the window after which only [`QUIET_LAST`] is asked for.
const LOWEST: f64 = 0.8;

/// From when it is urgent: over so long connections begin to be eligible with [`QUIET_LAST`], and after so much more with
/// [`QUIET_LATE`]. Together less than a kube-apiserver takes from its start to its first ready answer.
const URGENT_SPREAD: Duration = Duration::from_secs(2);
const URGENT_SOON: Duration = Duration::from_secs(1);

/// The shortest time between two looks at the kernel's connections.
const STEP: Duration = Duration::from_millis(10);
/// A look may take one part in so many of the thread's time: the kernel walks its table of connections for it.
const SHARE: u32 = 5;
/// Once there has been nothing to end for so long, only connections that passed the agent by meanwhile are left to find.
const SETTLED: Duration = Duration::from_secs(1);
/// Between two looks for those, while the guard is armed and while it is idle: nothing is mixed then, and idle is to cost nothing.
const LATER_ARMED: Duration = Duration::from_secs(1);
const LATER_IDLE: Duration = Duration::from_secs(10);

/// Within so long every connection is ended when an operator says so.
const HURRY: Duration = Duration::from_secs(5);

/// What the kernel says of a connection at one moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpFigures {
    /// Time since data was last sent or received.
    pub quiet: Duration,
    /// The server sent an answer after it last received something: every request seen so far may have been answered.
    pub answered: bool,
    /// Bytes were received that the server has not read, or sent that the client has not acknowledged.
    pub in_flight: bool,
}

/// Why a connection is ended at this moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Nothing speaks for a request under way.
    Quiet,
    /// The window is over, and a request may be cut: the client waits for an answer, or bytes are under way.
    Late,
}

/// The window of one retirement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Schedule {
    /// From the beginning until every connection should be gone; those that never had a good moment by then are ended within as
    /// much again. Zero: only connections that are silent for [`QUIET_FIRST`] are ended, and others stay for ever.
    pub within: Duration,
}

impl Schedule {
    /// The silence that bears out that nothing is under way, where the counts of bytes do not tell.
    pub fn silence(&self) -> Duration {
        (self.within / 3).clamp(QUIET_FIRST, SILENCE_MOST)
    }

    /// Whether a connection is to be ended now that an operator has said so, that long ago: as after a window of five seconds, so that
    /// a connection with a request under way has that long to have it answered.
    pub fn due_hurried(since: Duration, figures: &TcpFigures) -> Option<Due> {
        let over = Self { within: HURRY };
        over.due(HURRY.saturating_add(since), 0.0, figures)
    }

    /// Whether a connection is to be ended now. `since`: from the beginning, or from when the connection was first seen.
    /// `phase`: a number in 0..1 of the connection's own, which spreads the connections over the window.
    pub fn due(&self, since: Duration, phase: f64, figures: &TcpFigures) -> Option<Due> {
        let idle = !figures.in_flight && figures.answered;
        if self.within.is_zero() {
            let silent = !figures.in_flight && figures.quiet >= QUIET_FIRST;
            return silent.then_some(Due::Quiet);
        }
        if since >= self.within.saturating_mul(2) {
            return Some(if idle { Due::Quiet } else { Due::Late });
        }
        if since >= self.within {
            // For half of the time after the window still only where the server has answered.
            let late = since >= self.within.mul_f64(1.5);
            let quiet = !figures.in_flight && figures.quiet >= QUIET_LATE;
            return match (quiet, figures.answered) {
                (true, true) => Some(Due::Quiet),
                (true, false) if late => Some(Due::Late),
                _ => None,
            };
        }
        let asked = self.quiet_asked(since, phase)?;
        (idle && figures.quiet >= asked).then_some(Due::Quiet)
    }

    /// As [`Self::due`], or sooner: `urgent` is the time since a server has ended, whose next version is about to serve, or since servers
    /// have differed in what they serve. A false 404 is worse than a moment that is not the best; no request is cut for it all the same.
    pub fn due_urgent(
        &self,
        urgent: Duration,
        since: Duration,
        phase: f64,
        figures: &TcpFigures,
    ) -> Option<Due> {
        let own = urgent.checked_sub(URGENT_SPREAD.mul_f64(phase.clamp(0.0, 1.0)));
        let asked = match own {
            None => None,
            Some(_) if self.within.is_zero() => None,
            Some(own) if own < URGENT_SOON => Some(QUIET_LAST),
            Some(_) => Some(QUIET_LATE),
        };
        let idle = !figures.in_flight && figures.answered;
        match asked {
            Some(asked) if idle && figures.quiet >= asked => Some(Due::Quiet),
            _ => self.due(since, phase, figures),
        }
    }

    /// Whether a connection that is still here is looked at closely (`close`), since it may never be quiet by the kernel's clock:
    /// once the window is over, or it has been urgent for as long as others take to leave.
    pub fn closely(&self, urgent: Option<Duration>, since: Duration) -> bool {
        let pressing = urgent.is_some_and(|urgent| urgent >= URGENT_SPREAD + URGENT_SOON);
        !self.within.is_zero() && (pressing || since >= self.within)
    }

    /// The pause before the next look. `since`: from the beginning of the retirement. `empty`: for how long there has been nothing to end.
    /// `look`: how long the last look took.
    pub fn pause(&self, since: Duration, empty: Duration, armed: bool, look: Duration) -> Duration {
        let over = since > self.within.saturating_mul(2);
        let rare = if armed { LATER_ARMED } else { LATER_IDLE };
        let pause = match (empty >= SETTLED, over) {
            (true, _) => rare,
            // Whoever is still here has a request under way, or the window is without an end.
            (false, true) => LATER_ARMED,
            (false, false) => STEP,
        };
        pause.max(look.saturating_mul(SHARE))
    }

    /// The quiet that is asked for within the window; `None`: the connection's turn has not come.
    fn quiet_asked(&self, since: Duration, phase: f64) -> Option<Duration> {
        let progress = since.div_duration_f64(self.within);
        let begin = phase.clamp(0.0, 1.0) * SPREAD;
        if progress < begin {
            return None;
        }
        let own = ((progress - begin) / (LOWEST - begin)).clamp(0.0, 1.0);
        let fall = QUIET_LAST.div_duration_f64(QUIET_FIRST).powf(own);
        Some(QUIET_FIRST.mul_f64(fall).max(QUIET_LAST))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Schedule = Schedule {
        within: Duration::from_secs(30),
    };

    fn figures(quiet_ms: u64, answered: bool, in_flight: bool) -> TcpFigures {
        TcpFigures {
            quiet: Duration::from_millis(quiet_ms),
            answered,
            in_flight,
        }
    }

    #[test]
    fn the_quiet_that_is_asked_for_falls_from_five_seconds_to_twenty_milliseconds() {
        let asked = |ms| WINDOW.quiet_asked(Duration::from_millis(ms), 0.0).unwrap();
        assert_eq!(asked(0), QUIET_FIRST);
        assert!(asked(6_000) < Duration::from_millis(1_300));
        assert!(asked(12_000) < Duration::from_millis(350));
        assert_eq!(asked(24_000), QUIET_LAST);
        assert_eq!(asked(29_999), QUIET_LAST);
    }

    #[test]
    fn looks_are_rare_where_there_is_nothing_to_end() {
        let seconds = Duration::from_secs;
        let look = Duration::from_millis(1);
        let pause = |since, empty, armed| WINDOW.pause(seconds(since), seconds(empty), armed, look);
        assert_eq!(pause(0, 0, true), STEP);
        assert_eq!(pause(29, 0, true), STEP);
        assert_eq!(pause(3, 2, true), LATER_ARMED);
        assert_eq!(pause(3, 2, false), LATER_IDLE);
        assert_eq!(pause(61, 0, false), LATER_ARMED, "somebody is still here");
        assert_eq!(
            WINDOW.pause(seconds(1), Duration::ZERO, true, seconds(1)),
            seconds(5),
            "a look takes no more than its share"
        );
    }

    #[test]
    fn silence_that_bears_something_out_is_a_third_of_the_window_within_bounds() {
        let silence = |seconds| {
            let within = Duration::from_secs(seconds);
            Schedule { within }.silence().as_secs()
        };
        assert_eq!([0, 10, 24, 30, 300].map(silence), [5, 5, 8, 10, 10]);
    }

    #[test]
    fn a_request_that_the_server_thinks_about_is_not_cut_within_the_window() {
        let thinking = figures(20_000, false, false);
        assert_eq!(WINDOW.due(Duration::from_secs(29), 0.0, &thinking), None);
        assert_eq!(WINDOW.due(Duration::from_secs(44), 0.0, &thinking), None);
        let late = WINDOW.due(Duration::from_secs(45), 0.0, &thinking);
        assert_eq!(late, Some(Due::Late));
    }

    #[test]
    fn an_operator_waits_for_an_answer_but_not_for_long() {
        let due = |ms, quiet, answered| {
            let since = Duration::from_millis(ms);
            Schedule::due_hurried(since, &figures(quiet, answered, false))
        };
        assert_eq!(due(0, 5, true), Some(Due::Quiet));
        assert_eq!(due(0, 4, true), None);
        assert_eq!(due(2_400, 2_400, false), None, "the server thinks");
        assert_eq!(due(2_500, 2_500, false), Some(Due::Late));
        assert_eq!(due(5_000, 0, false), Some(Due::Late));
    }

    #[test]
    fn what_is_urgent_leaves_within_three_seconds_wherever_it_has_a_moment() {
        let due = |ms, phase, quiet, answered| {
            let urgent = Duration::from_millis(ms);
            let since = urgent + Duration::from_secs(3);
            WINDOW.due_urgent(urgent, since, phase, &figures(quiet, answered, false))
        };
        // By the window alone 20 requests each second are ended after 20 s.
        assert_eq!(
            WINDOW.due(Duration::from_secs(6), 1.0, &figures(45, true, false)),
            None
        );
        assert_eq!(due(0, 0.0, 45, true), Some(Due::Quiet));
        assert_eq!(due(1_999, 1.0, 45, true), None, "spread");
        assert_eq!(due(2_000, 1.0, 45, true), Some(Due::Quiet));
        assert_eq!(due(2_999, 1.0, 5, true), None);
        assert_eq!(due(3_000, 1.0, 5, true), Some(Due::Quiet));
        assert_eq!(due(20_000, 1.0, 20_000, false), None, "the server thinks");
        let stay = Schedule {
            within: Duration::ZERO,
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(
            stay.due_urgent(hour, hour, 0.5, &figures(4_999, true, false)),
            None
        );
    }

    #[test]
    fn who_is_still_here_is_looked_at_closely() {
        let second = Duration::from_secs(1);
        assert!(!WINDOW.closely(None, 29 * second) && WINDOW.closely(None, 30 * second));
        assert!(!WINDOW.closely(Some(2 * second), second));
        assert!(WINDOW.closely(Some(3 * second), 4 * second));
        let stay = Schedule {
            within: Duration::ZERO,
        };
        assert!(!stay.closely(Some(60 * second), 60 * second));
    }

    #[test]
    fn without_a_window_only_long_silence_ends_a_connection() {
        let never = Schedule {
            within: Duration::ZERO,
        };
        let hour = Duration::from_secs(3600);
        assert_eq!(never.due(hour, 0.5, &figures(4_999, true, false)), None);
        assert_eq!(never.due(hour, 0.5, &figures(9_000, true, true)), None);
        let silent = never.due(hour, 0.5, &figures(5_000, false, false));
        assert_eq!(silent, Some(Due::Quiet));
    }

    proptest! {
        /// What is due stays due as time passes and as the connection becomes quieter.
        #[test]
        fn time_and_quiet_only_help(
            since in 0u64..70_000, more in 0u64..10_000, phase in 0.0f64..1.0,
            quiet in 0u64..10_000, quieter in 0u64..10_000, server: bool, flight: bool,
        ) {
            let now = WINDOW.due(Duration::from_millis(since), phase, &figures(quiet, server, flight));
            let later = WINDOW.due(
                Duration::from_millis(since + more), phase, &figures(quiet + quieter, server, flight));
            prop_assert!(now.is_none() || later.is_some());
        }

        /// Before the end of the window nothing is ended in which a request may be under way; at twice the window all is.
        #[test]
        fn nothing_is_cut_in_the_window_and_all_is_gone_at_twice_of_it(
            since in 0u64..90_000, phase in 0.0f64..1.0, quiet in 0u64..60_000, server: bool, flight: bool,
        ) {
            let figures = figures(quiet, server, flight);
            let due = WINDOW.due(Duration::from_millis(since), phase, &figures);
            if since < 30_000 && (flight || !server) {
                prop_assert_eq!(due, None);
            }
            if since < 45_000 {
                prop_assert_ne!(due, Some(Due::Late));
            }
            if since >= 60_000 {
                prop_assert!(due.is_some());
            }
            if due == Some(Due::Quiet) {
                prop_assert!(server && !flight);
            }
        }

        /// If many connections are silent, only a few of them end in any tenth of a second.
        #[test]
        fn silent_connections_leave_one_after_another(seed in 1u64..1000) {
            let mut ended = [0u32; 101];
            let mut phase = seed as f64 / 1000.0;
            for _ in 0..2000 {
                // The golden ratio spreads evenly, as a good hash does.
                phase = (phase + 0.618_033_988_749_894_9).fract();
                let tick = (0..=100).find(|tick| {
                    let since = Duration::from_millis(tick * 100);
                    WINDOW.due(since, phase, &figures(10_000, true, false)).is_some()
                });
                let tick = tick.and_then(|tick| usize::try_from(tick).ok());
                prop_assert!(tick.is_some());
                ended[tick.unwrap_or(0)] += 1;
            }
            prop_assert!(ended.iter().all(|count| *count <= 40), "{ended:?}");
        }
    }
}
