//! The guard by example, then by every sequence of events that proptest thinks of.

use proptest::prelude::*;

use super::*;
use crate::codes::assert_documented;

const SETTLE: Duration = Duration::from_secs(60);

const QUIET: Signs = Signs {
    starting: false,
    steering_off: false,
    sets_differ: false,
    versions_differ: false,
    server_broken: false,
    server_not_ready: false,
    lease_changed: false,
    manifest_changed: false,
    agent_armed: false,
    cluster_armed: false,
};

const DIFFER: Signs = Signs {
    sets_differ: true,
    ..QUIET
};

#[derive(Clone, Copy, Debug)]
enum Event {
    Observe(Signs),
    Operator(Operator),
}

struct Run {
    guard: Guard,
    start: Instant,
}

impl Run {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            guard: Guard::new(SETTLE, start),
            start,
        }
    }

    /// Idle since second 60.
    fn settled() -> Self {
        let mut run = Self::new();
        run.observe(0, QUIET);
        run.observe(60, QUIET);
        run
    }

    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    fn observe(&mut self, second: u64, signs: Signs) -> Option<String> {
        let at = self.at(second);
        self.guard.observe(signs, at).map(text)
    }

    fn say(&mut self, second: u64, word: Operator) -> Option<String> {
        let at = self.at(second);
        self.guard.operator(word, at).map(text)
    }
}

fn text(transition: Transition) -> String {
    let to = if transition.to_armed { "armed" } else { "idle" };
    format!("{to}: {}", transition.reasons)
}

#[test]
fn nothing_settles_before_every_server_was_asked() {
    let start = Instant::now();
    let mut guard = Guard::new(Duration::from_secs(1), start);
    let unasked = Signs {
        starting: true,
        ..QUIET
    };
    for seconds in 0..10 {
        let now = start + Duration::from_secs(seconds);
        assert_eq!(guard.observe(unasked, now), None);
    }
    let asked = start + Duration::from_secs(10);
    assert_eq!(guard.observe(QUIET, asked), None);
    let idle = guard.observe(QUIET, asked + Duration::from_secs(1));
    assert!(idle.is_some_and(|transition| !transition.to_armed));
}

#[test]
fn an_upgrade() {
    let mut run = Run::new();
    assert!(run.guard.is_armed());
    assert_eq!(run.guard.state().reasons().to_string(), "starting");
    assert_eq!(run.observe(5, QUIET), None);
    assert_eq!(run.observe(64, QUIET), None);
    assert_eq!(run.observe(65, QUIET).as_deref(), Some("idle: settled"));
    // The manifest changes, the server goes, comes back newer, and the others follow.
    let changed = Signs {
        manifest_changed: true,
        ..QUIET
    };
    assert_eq!(
        run.observe(100, changed).as_deref(),
        Some("armed: manifest_changed")
    );
    let down = Signs {
        server_broken: true,
        ..QUIET
    };
    assert_eq!(run.observe(101, down), None);
    let skew = Signs {
        sets_differ: true,
        versions_differ: true,
        ..QUIET
    };
    assert_eq!(run.observe(130, skew), None);
    assert_eq!(
        run.guard.standing().to_string(),
        "sets_differ,versions_differ"
    );
    let versions = Signs {
        versions_differ: true,
        ..QUIET
    };
    assert_eq!(run.observe(200, versions), None);
    assert_eq!(run.observe(300, QUIET), None);
    assert_eq!(
        run.guard.state(),
        State::Armed {
            since: run.at(100),
            reasons: GuardReasons::one(GuardReason::VersionsDiffer),
            idle_at: Some(run.at(360)),
        }
    );
    assert!(run.guard.standing().is_empty());
    assert_eq!(run.observe(359, QUIET), None);
    assert_eq!(run.observe(360, QUIET).as_deref(), Some("idle: settled"));
}

#[test]
fn flapping_never_disarms_early() {
    let mut run = Run::new();
    let flap = Signs {
        server_not_ready: true,
        ..QUIET
    };
    for second in 0..1000 {
        let signs = if second % 59 == 0 { flap } else { QUIET };
        assert_eq!(run.observe(second, signs), None, "{second}");
    }
}

#[test]
fn an_operator_goes_first_until_the_word_is_withdrawn() {
    let mut run = Run::settled();
    assert_eq!(
        run.say(70, Operator::Arm).as_deref(),
        Some("armed: operator_armed")
    );
    assert_eq!(run.observe(300, QUIET), None, "the word stands");
    assert_eq!(
        run.say(301, Operator::Auto).as_deref(),
        Some("idle: settled")
    );
    assert_eq!(
        run.observe(302, DIFFER).as_deref(),
        Some("armed: sets_differ")
    );
    assert_eq!(
        run.say(303, Operator::Disarm).as_deref(),
        Some("idle: operator_disarmed")
    );
    assert_eq!(run.observe(304, DIFFER), None, "the word stands");
    assert_eq!(run.guard.standing().to_string(), "sets_differ");
    assert_eq!(
        run.say(305, Operator::Auto).as_deref(),
        Some("armed: sets_differ")
    );
    // Disarmed and quiet, but not settled: back to the signs is back to armed.
    run.say(306, Operator::Disarm);
    run.observe(307, QUIET);
    assert_eq!(
        run.say(308, Operator::Auto).as_deref(),
        Some("armed: sets_differ")
    );
    assert_eq!(run.observe(367, QUIET).as_deref(), Some("idle: settled"));
}

#[test]
fn documentation_lists_every_reason_and_no_other() {
    let codes = GuardReason::ALL.iter().map(|r| (r.as_str(), r.meaning()));
    assert_documented("relay.md", "Guard reasons", codes);
    assert!(GuardReason::ALL.len() <= 16, "GuardReasons is 16 bits");
}

fn signs() -> impl Strategy<Value = Signs> {
    // Quiet half of the time, or nothing would ever settle.
    prop_oneof![
        Just(QUIET),
        prop::array::uniform10(prop::bool::weighted(0.2)).prop_map(|bits| {
            let [
                starting,
                steering_off,
                sets_differ,
                versions_differ,
                server_broken,
                server_not_ready,
                lease_changed,
                manifest_changed,
                agent_armed,
                cluster_armed,
            ] = bits;
            Signs {
                starting,
                steering_off,
                sets_differ,
                versions_differ,
                server_broken,
                server_not_ready,
                lease_changed,
                manifest_changed,
                agent_armed,
                cluster_armed,
            }
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => signs().prop_map(Event::Observe),
        1 => prop_oneof![
            Just(Operator::Arm),
            (1u64..100).prop_map(|seconds| Operator::ArmFor(Duration::from_secs(seconds))),
            Just(Operator::Disarm),
            Just(Operator::Auto),
            Just(Operator::Auto),
        ]
        .prop_map(Event::Operator),
    ]
}

#[test]
fn an_operators_word_may_have_an_end() {
    let mut run = Run::settled();
    let half_an_hour = Operator::ArmFor(Duration::from_secs(1800));
    assert_eq!(
        run.say(100, half_an_hour).as_deref(),
        Some("armed: operator_armed")
    );
    let idle_at = |run: &Run| match run.guard.state() {
        State::Armed { idle_at, .. } => idle_at,
        State::Idle { .. } => None,
    };
    assert_eq!(idle_at(&run), Some(run.at(1900)));
    assert_eq!(run.observe(1000, DIFFER), None);
    assert_eq!(idle_at(&run), None, "a sign stands");
    assert_eq!(run.observe(1100, QUIET), None);
    assert_eq!(run.observe(1899, QUIET), None);
    assert_eq!(run.observe(1900, QUIET).as_deref(), Some("idle: settled"));
    // While a sign stands the end changes nothing.
    run.say(2000, half_an_hour);
    assert_eq!(run.observe(3800, DIFFER), None);
    assert_eq!(run.guard.state().reasons().to_string(), "sets_differ");
    // The next word takes its place, and so does one without an end.
    run.say(4000, half_an_hour);
    run.say(4001, Operator::Arm);
    assert_eq!(run.observe(9000, QUIET), None);
    assert!(run.guard.is_armed());
}

proptest! {
    #[test]
    fn any_sequence_of_events(events in prop::collection::vec((0u64..50, event()), 1..80)) {
        let mut run = Run::new();
        let mut second = 0;
        // What the specification says, kept apart: the last observation with a sign, the first without, the word.
        let (mut quiet_since, mut word, mut standing) = (None, Operator::Auto, Signs::default());
        standing.sets_differ = true;
        let (mut settled, mut said_at) = (false, 0);
        for (pause, event) in events {
            second += pause;
            let now = run.at(second);
            let before = run.guard.is_armed();
            if let Operator::ArmFor(time) = word
                && second >= said_at + time.as_secs()
            {
                word = Operator::Auto;
            }
            let transition = match event {
                Event::Observe(signs) => {
                    standing = signs;
                    if signs == QUIET {
                        let since = *quiet_since.get_or_insert(second);
                        settled |= second - since >= SETTLE.as_secs();
                    } else {
                        quiet_since = None;
                        settled = false;
                    }
                    run.guard.observe(signs, now)
                }
                Event::Operator(said) => {
                    (word, said_at) = (said, second);
                    run.guard.operator(said, now)
                }
            };
            let armed = run.guard.is_armed();
            // Never idle while a sign stands, never idle before all has been quiet for the settling time.
            match word {
                Operator::Arm | Operator::ArmFor(_) => prop_assert!(armed),
                Operator::Disarm => prop_assert!(!armed),
                Operator::Auto => prop_assert_eq!(armed, !settled),
            }
            prop_assert!(word == Operator::Disarm || standing == QUIET || armed);
            prop_assert_eq!(run.guard.standing().is_empty(), standing == QUIET);
            // A transition is told if and only if there is one, with its reasons.
            prop_assert_eq!(transition.is_some(), before != armed);
            prop_assert!(!run.guard.state().reasons().is_empty());
            if let Some(transition) = transition {
                prop_assert_eq!(transition.to_armed, armed);
                prop_assert_eq!(transition.at, now);
                prop_assert_eq!(transition.reasons, run.guard.state().reasons());
                let (State::Idle { since, .. } | State::Armed { since, .. }) = run.guard.state();
                prop_assert_eq!(since, now);
            }
            if let State::Armed { idle_at: Some(at), .. } = run.guard.state()
                && !matches!(word, Operator::ArmFor(_))
            {
                prop_assert!(at > now || second - quiet_since.unwrap_or(second) >= SETTLE.as_secs());
            }
        }
    }
}
