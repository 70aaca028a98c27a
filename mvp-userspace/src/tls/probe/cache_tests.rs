//! Bounded, single flight, never more often than allowed, whatever is asked and whatever comes back.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const PROBED: Probed = Probed {
    fingerprint: [1; 32],
    valid_for_name: true,
    same_ca: true,
    not_after: 4_000_000_000,
};

const OTHER: Probed = Probed {
    fingerprint: [2; 32],
    same_ca: false,
    ..PROBED
};

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn asked_probed_refreshed_forgotten() {
    let (start, mut cache) = (Instant::now(), ProbeCache::default());
    let at = |seconds| start + second(seconds);
    let target = Target::new("cp-b", Some("kubernetes"));
    assert!(cache.due(at(0)).is_empty());
    assert_eq!(cache.view("cp-b", Some("Kubernetes"), at(0)), None);
    assert_eq!(cache.due(at(0)), std::slice::from_ref(&target));
    assert!(cache.due(at(50)).is_empty(), "one at a time");
    cache.done(&target, Ok(PROBED), at(1));
    let view = |cache: &mut ProbeCache, seconds| {
        let view = cache.view("cp-b", Some("kubernetes"), at(seconds));
        view.map(|v| (v.age.as_secs(), v.unchanged_for.as_secs(), v.same_ca))
    };
    assert_eq!(view(&mut cache, 10), Some((9, 9, true)));
    assert!(cache.due(at(19)).is_empty(), "not more often than that");
    assert_eq!(cache.due(at(20)), std::slice::from_ref(&target));
    cache.done(&target, Ok(PROBED), at(21));
    assert_eq!(view(&mut cache, 70), Some((49, 69, true)));
    // A failure leaves what is known, to age.
    assert_eq!(cache.due(at(70)).len(), 1);
    cache.done(&target, Err(ProbeError::TimedOut), at(71));
    assert_eq!(view(&mut cache, 80), Some((59, 79, true)));
    assert_eq!(
        cache.last_error("cp-b", Some("kubernetes")).as_deref(),
        Some("no handshake in time")
    );
    // Another certificate begins its time anew.
    assert_eq!(cache.due(at(90)).len(), 1);
    cache.done(&target, Ok(OTHER), at(91));
    assert_eq!(view(&mut cache, 92), Some((1, 1, false)));
    assert_eq!(cache.last_error("cp-b", Some("kubernetes")), None);
    // A task that was dropped with its probe.
    assert_eq!(cache.due(at(120)).len(), 1);
    view(&mut cache, 239);
    assert!(cache.due(at(239)).is_empty());
    assert_eq!(cache.due(at(240)).len(), 1);
    cache.done(&target, Ok(OTHER), at(240));
    // Not asked for: no more probes, then forgotten.
    assert!(cache.due(at(300)).is_empty());
    assert_eq!(cache.entries.len(), 1);
    assert!(cache.due(at(239 + 601)).is_empty());
    assert!(cache.entries.is_empty());
    cache.done(&target, Ok(PROBED), at(900));
    assert!(cache.entries.is_empty());
}

#[test]
fn names_in_use_are_never_driven_out() {
    let (start, mut cache) = (Instant::now(), ProbeCache::default());
    for name in 0..MAX_PROBES {
        cache.view("cp-b", Some(&format!("n{name}")), start);
    }
    let later = start + IN_USE;
    assert_eq!(cache.view("cp-b", Some("flood"), later), None);
    assert!(cache.entries.contains_key(&Target::new("cp-b", Some("n0"))));
    assert!(
        !cache
            .entries
            .contains_key(&Target::new("cp-b", Some("flood")))
    );
    let idle = later + second(1);
    cache.view("cp-b", Some("n0"), idle);
    cache.view("cp-b", Some("new"), idle);
    assert!(cache.entries.contains_key(&Target::new("cp-b", Some("n0"))));
    assert!(
        cache
            .entries
            .contains_key(&Target::new("cp-b", Some("new")))
    );
    assert_eq!(cache.entries.len(), MAX_PROBES);
}

#[derive(Clone, Debug)]
enum Event {
    View(u16),
    Due,
    Done(prop::sample::Index, u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u16..400).prop_map(Event::View),
        1 => Just(Event::Due),
        2 => (any::<prop::sample::Index>(), 0u8..3).prop_map(|(which, what)| Event::Done(which, what)),
    ]
}

proptest! {
    #[test]
    fn any_sequence(events in prop::collection::vec((0u64..15, event()), 1..200)) {
        let (start, mut cache) = (Instant::now(), ProbeCache::default());
        let mut now = start;
        let mut under_way: Vec<Target> = Vec::new();
        let mut begun: HashMap<Target, Instant> = HashMap::new();
        let mut seen: HashMap<Target, Instant> = HashMap::new();
        for (pause, event) in events {
            now += second(pause);
            match event {
                Event::View(name) => {
                    let name = format!("n{}", name % 300);
                    let view = cache.view("cp-b", Some(&name), now);
                    let last = seen.get(&Target::new("cp-b", Some(&name)));
                    if let Some(view) = view {
                        prop_assert_eq!(Some(view.age), last.map(|at| now - *at));
                        prop_assert!(view.age <= view.unchanged_for);
                    }
                }
                Event::Due => {
                    for target in cache.due(now) {
                        if let Some(before) = begun.insert(target.clone(), now) {
                            let wait = if under_way.contains(&target) { LOST } else { REFRESH };
                            // A forgotten target may come back sooner only after longer.
                            prop_assert!(now - before >= wait.min(FORGOTTEN), "too soon");
                        }
                        under_way.retain(|one| *one != target);
                        under_way.push(target);
                    }
                }
                Event::Done(which, what) if !under_way.is_empty() => {
                    let target = under_way.swap_remove(which.index(under_way.len()));
                    let known = cache.entries.contains_key(&target);
                    let result = match what {
                        0 => Err(ProbeError::TimedOut),
                        1 => Ok(PROBED),
                        _ => Ok(OTHER),
                    };
                    if result.is_ok() && known {
                        seen.insert(target.clone(), now);
                    }
                    cache.done(&target, result, now);
                }
                Event::Done(..) => {}
            }
            prop_assert!(cache.entries.len() <= MAX_PROBES);
        }
    }
}
