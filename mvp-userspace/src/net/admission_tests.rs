use proptest::prelude::*;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

fn admission(connections: usize, handshakes: usize) -> Admission {
    Admission::new(AdmissionLimits {
        connections,
        handshakes,
        patience: PATIENCE,
    })
}

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn is_evicted(place: &AdmissionPermit) -> bool {
    !place.admission.lock().held.contains_key(&place.number)
}

fn admit(admission: &Admission, last: u8, now: Instant) -> Result<AdmissionPermit, Shortage> {
    admission.admit(address(last), now, |_| {})
}

#[test]
fn the_oldest_silent_one_of_the_largest_source_makes_room() {
    let admission = admission(100, 4);
    let now = Instant::now();
    let modest = admit(&admission, 1, now).unwrap();
    let greedy = [0; 3].map(|_| admit(&admission, 2, now).unwrap());
    greedy[0].spoke();
    let mut ended = Vec::new();
    let new = admission.admit(address(3), now, |why| ended.push(why));
    assert!(new.is_ok());
    assert_eq!(ended, [Shortage::Handshakes]);
    assert!(!is_evicted(&modest) && !is_evicted(&greedy[0]) && !is_evicted(&greedy[2]));
    assert!(is_evicted(&greedy[1]));
}

/// All clients behind one translator: the silent make room for those who speak.
#[test]
fn within_one_source_the_silent_make_room() {
    let admission = admission(100, 2);
    let now = Instant::now();
    let attacker = admit(&admission, 1, now).unwrap();
    let good = admit(&admission, 1, now).unwrap();
    good.spoke();
    let next = admit(&admission, 1, now).unwrap();
    assert!(is_evicted(&attacker) && !is_evicted(&good));
    next.spoke();
    // Handshakes under way of the same source end each other only after their time.
    assert_eq!(admit(&admission, 1, now).unwrap_err(), Shortage::Handshakes);
    let later = now + PATIENCE + Duration::from_millis(1);
    let late = admit(&admission, 1, later).unwrap();
    assert!(is_evicted(&good) && !is_evicted(&next) && !is_evicted(&late));
}

#[test]
fn half_a_handshake_is_no_shelter_for_the_greedy() {
    let admission = admission(100, 3);
    let now = Instant::now();
    let greedy = [0; 3].map(|_| admit(&admission, 1, now).unwrap());
    for place in &greedy {
        place.spoke();
    }
    let other = admit(&admission, 2, now).unwrap();
    other.spoke();
    assert!(is_evicted(&greedy[0]) && !is_evicted(&other));
}

#[test]
fn those_that_asked_stay() {
    let admission = admission(3, 3);
    let now = Instant::now();
    let places = [0; 3].map(|_| admit(&admission, 1, now).unwrap());
    for place in &places {
        place.spoke();
        place.established();
    }
    places[0].asked();
    places[1].asked();
    assert_eq!(
        admit(&admission, 1, now).unwrap_err(),
        Shortage::Connections
    );
    let other = admit(&admission, 2, now).unwrap();
    assert!(is_evicted(&places[2]));
    other.spoke();
    other.established();
    other.asked();
    let much_later = now + Duration::from_secs(3600);
    for last in 1..4 {
        let refused = admit(&admission, last, much_later).unwrap_err();
        assert_eq!(refused, Shortage::Connections);
    }
    drop(other);
    assert!(admit(&admission, 1, now).is_ok());
}

#[test]
fn room_is_what_is_free_and_what_has_long_been_silent() {
    let admission = admission(10, 4);
    let now = Instant::now();
    assert_eq!(admission.room(now), 4);
    let silent = admit(&admission, 1, now).unwrap();
    let speaking = admit(&admission, 1, now).unwrap();
    speaking.spoke();
    assert_eq!(admission.room(now), 2);
    assert_eq!(admission.room(now + 2 * GRACE), 3);
    drop(silent);
    speaking.established();
    assert_eq!(admission.room(now + 2 * GRACE), 4);
    assert_eq!(admission.handshakes(), 0);
}

#[test]
fn one_machine_is_one_source() {
    let source = |text: &str| Source::of(text.parse().unwrap());
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
}

#[tokio::test]
async fn a_place_learns_of_its_end() {
    let admission = admission(10, 1);
    let now = Instant::now();
    let first = admit(&admission, 1, now).unwrap();
    let _second = admit(&admission, 1, now).unwrap();
    first.evicted().await;
    // What it does afterwards changes nothing.
    first.established();
    drop(first);
    assert_eq!(admission.handshakes(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u8),
    Advance(usize, u8),
    Drop(usize),
    Wait(u16),
    MakeRoom,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4).prop_map(Step::Admit),
        3 => (any::<usize>(), 0u8..3).prop_map(|(which, to)| Step::Advance(which, to)),
        1 => any::<usize>().prop_map(Step::Drop),
        1 => (0u16..3000).prop_map(Step::Wait),
        1 => Just(Step::MakeRoom),
    ]
}

proptest! {
    #[test]
    fn no_limit_is_exceeded_and_all_counts_agree(steps in prop::collection::vec(step(), 1..200)) {
        let admission = admission(6, 4);
        let mut now = Instant::now();
        let mut places: Vec<AdmissionPermit> = Vec::new();
        for step in steps {
            match step {
                Step::Admit(from) => {
                    let room = admission.room(now);
                    let asked: Vec<u64> = stages(&admission, Stage::Asked);
                    let admitted = admit(&admission, from, now);
                    prop_assert!(admitted.is_ok() || room == 0, "refused with room for {room}");
                    prop_assert_eq!(stages(&admission, Stage::Asked), asked, "one that asked was ended");
                    places.extend(admitted.ok());
                }
                Step::Advance(which, to) if !places.is_empty() => {
                    let place = &places[which % places.len()];
                    [AdmissionPermit::spoke, AdmissionPermit::established, AdmissionPermit::asked][usize::from(to)](place);
                }
                Step::Drop(which) if !places.is_empty() => {
                    places.swap_remove(which % places.len());
                }
                Step::Wait(millis) => now += Duration::from_millis(millis.into()),
                Step::MakeRoom => admission.make_room(),
                Step::Advance(..) | Step::Drop(_) => {}
            }
            check(&admission)?;
        }
        places.clear();
        let state = admission.lock();
        prop_assert!(state.held.is_empty() && state.sources.is_empty() && state.silent.is_empty());
        prop_assert!(state.by_handshakes.is_empty() && state.by_connections.is_empty());
    }
}

fn stages(admission: &Admission, stage: Stage) -> Vec<u64> {
    let state = admission.lock();
    let held = state.held.iter().filter(|(_, held)| held.stage == stage);
    let mut numbers: Vec<u64> = held.map(|(number, _)| *number).collect();
    numbers.sort_unstable();
    numbers
}

fn check(admission: &Admission) -> Result<(), TestCaseError> {
    let state = admission.lock();
    let pending = |held: &&Held| matches!(held.stage, Stage::Silent | Stage::Handshake);
    let handshakes = state.held.values().filter(pending).count();
    prop_assert_eq!(handshakes, state.handshakes);
    prop_assert!(handshakes <= state.limits.handshakes);
    prop_assert!(state.held.len() <= state.limits.connections);
    let total: usize = state.by_connections.iter().map(|(count, _)| count).sum();
    prop_assert_eq!(total, state.held.len());
    let total: usize = state.by_handshakes.iter().map(|(count, _)| count).sum();
    prop_assert_eq!(total, handshakes);
    for (source, group) in &state.sources {
        let of = state.held.values().filter(|held| held.source == *source);
        prop_assert_eq!(of.count(), group.connections);
    }
    let silent = state
        .held
        .values()
        .filter(|held| held.stage == Stage::Silent);
    prop_assert_eq!(silent.count(), state.silent.len());
    Ok(())
}
