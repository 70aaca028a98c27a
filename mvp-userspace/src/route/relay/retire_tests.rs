//! When relayed connections end, and how.

use proptest::prelude::*;

use super::super::testing::{GOOD, NEW, OLD, World};
use super::*;
use crate::codes::assert_documented;
use crate::route::Failure;
use crate::route::testing::{known, member, table};

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The verdict about a connection to the second server of `world`.
fn verdict_of(world: &World, change: impl FnOnce(&mut RelayedFacts<'_>)) -> RelayFate {
    let member = world.table.member(1).unwrap();
    let mut facts = RelayedFacts {
        server: &member.server,
        served: member.apis.as_ref().unwrap(),
        lost_key_for: None,
        not_superset_for: None,
        probe: Some(GOOD),
        silent_for: second(0),
    };
    change(&mut facts);
    retire(&[facts], &world.view())[0]
}

#[test]
fn kept_while_all_holds() {
    assert_eq!(verdict_of(&World::upgrade(), |_| {}), RelayFate::Keep);
    // What stops only new ones.
    let mut world = World::upgrade();
    world.hot = false;
    assert_eq!(
        verdict_of(&world, |one| one.probe = None),
        RelayFate::Keep,
        "probes stop when nobody asks"
    );
    assert_eq!(
        verdict_of(&world, |one| {
            one.probe = Some(ProbeFacts {
                unchanged_for: second(0),
                ..GOOD
            });
        }),
        RelayFate::Keep,
        "a renewed certificate does not concern a connection that is made"
    );
    assert_eq!(
        verdict_of(&world, |one| {
            one.lost_key_for = Some(second(2));
            one.not_superset_for = Some(second(2));
        }),
        RelayFate::Keep,
        "a CRD on its way"
    );
}

#[test]
fn each_condition_by_itself() {
    use RelayFate::{Now, WhenSilent};
    use RetireReason::*;
    let upgrade = World::upgrade;
    let with = |change: fn(&mut World)| {
        let mut world = World::upgrade();
        change(&mut world);
        verdict_of(&world, |_| {})
    };
    let probe = |change: fn(&mut ProbeFacts)| {
        verdict_of(&upgrade(), |one| {
            let mut facts = GOOD;
            change(&mut facts);
            one.probe = Some(facts);
        })
    };
    let gone = member("cp-x", false, NEW);
    for (expected, found) in [
        (
            Now(LostKey),
            verdict_of(&upgrade(), |one| one.lost_key_for = Some(GRACE)),
        ),
        (
            WhenSilent(NotSuperset),
            verdict_of(&upgrade(), |one| one.not_superset_for = Some(GRACE)),
        ),
        (
            WhenSilent(ServerGone),
            retire(
                &[RelayedFacts {
                    server: &gone.server,
                    served: gone.apis.as_ref().unwrap(),
                    lost_key_for: Some(GRACE),
                    not_superset_for: None,
                    probe: None,
                    silent_for: second(0),
                }],
                &upgrade().view(),
            )[0],
        ),
        (
            WhenSilent(LocalSuffices),
            with(|w| *w = World::of([member("cp-a", true, NEW), member("cp-b", false, NEW)])),
        ),
        (
            WhenSilent(ServerNotConfirmed),
            with(|w| {
                *w = World::of([
                    member("cp-a", true, OLD),
                    known(member("cp-b", false, NEW), Knowledge::Unconfirmed),
                ]);
            }),
        ),
        (
            WhenSilent(ServerUnavailable),
            with(|w| w.table.member(1).unwrap().server.failed(Failure::Refused)),
        ),
        (WhenSilent(OtherCa), probe(|facts| facts.same_ca = false)),
        (
            WhenSilent(NameNotCovered),
            probe(|facts| facts.valid_for_name = false),
        ),
        (WhenSilent(Draining), with(|w| w.draining = true)),
        (WhenSilent(Share), with(|w| w.open = 1)),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn due_at_once_or_in_a_silent_moment() {
    let silent = RelayFate::WhenSilent(RetireReason::Draining);
    assert!(!silent.is_due(second(4)));
    assert!(silent.is_due(SILENCE));
    assert!(RelayFate::Now(RetireReason::LostKey).is_due(second(0)));
    assert!(!RelayFate::Keep.is_due(second(1000)));
    assert_eq!(RelayFate::Keep.reason(), None);
}

#[test]
fn a_key_is_lost_only_if_another_serves_it() {
    let before = member("cp-b", false, NEW);
    let served = before.apis.clone().unwrap();
    let lost = |now_serves: &[&str], other: &[&str]| {
        let mut now = member("cp-b", false, now_serves);
        now.server = before.server.clone();
        let table = table([member("cp-a", true, other), now]);
        lost_key(&before.server, &served, &table)
    };
    let bare = member("cp-b", false, &["v1 bindings x"]);
    let listed_without_verbs = |now_serves: &[&str]| {
        let mut now = member("cp-b", false, now_serves);
        now.server = bare.server.clone();
        let table = table([member("cp-a", true, &["v1 bindings x"]), now]);
        lost_key(&bare.server, bare.apis.as_ref().unwrap(), &table)
    };
    assert!(listed_without_verbs(OLD) && !listed_without_verbs(&["v1 bindings x"]));
    assert!(!lost(NEW, OLD));
    assert!(!lost(NEW, &["v1 other get"]), "a key it never had");
    assert!(!lost(OLD, OLD), "gone everywhere");
    assert!(lost(OLD, NEW));
    assert!(lost(&["v1 pods get,list,watch"], NEW), "a subresource");
    assert!(
        lost(&["v1 pods get,list", "v1 pods/resize get,patch"], NEW),
        "a verb"
    );
}

#[test]
fn documentation_lists_every_reason_and_no_other() {
    let codes = RetireReason::ALL.iter().map(|r| (r.as_str(), r.meaning()));
    assert_documented("relay.md", "Why a relayed connection is ended", codes);
}

proptest! {
    /// Too many relayed connections: exactly those too many go, and the most silent ones.
    #[test]
    fn the_share_takes_the_silent_ones(
        silent in prop::collection::vec(0u64..100, 0..30),
        open in 1usize..60,
        share in 0.05f64..=1.0,
    ) {
        let mut world = World::upgrade();
        world.open = open;
        world.max_share = share;
        let member = world.table.member(1).unwrap();
        let facts: Vec<_> = silent
            .iter()
            .map(|silent| RelayedFacts {
                server: &member.server,
                served: member.apis.as_ref().unwrap(),
                lost_key_for: None,
                not_superset_for: None,
                probe: Some(GOOD),
                silent_for: second(*silent),
            })
            .collect();
        let verdicts = retire(&facts, &world.view());
        prop_assert_eq!(verdicts.len(), facts.len());
        let kept: Vec<_> = (0..facts.len()).filter(|i| verdicts[*i] == RelayFate::Keep).collect();
        let room = (share * open as f64).floor() as usize;
        prop_assert_eq!(kept.len(), facts.len().min(room));
        let loudest_gone = (0..facts.len())
            .filter(|i| verdicts[*i] != RelayFate::Keep)
            .map(|i| silent[i])
            .min();
        if let Some(gone) = loudest_gone {
            prop_assert!(kept.iter().all(|i| silent[*i] <= gone));
        }
    }
}
