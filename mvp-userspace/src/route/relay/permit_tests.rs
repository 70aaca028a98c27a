//! Every condition by itself keeps a connection from being relayed, and says so.

use proptest::prelude::*;

use super::super::testing::{GOOD, NEW, OLD, World};
use super::*;
use crate::codes::assert_documented;
use crate::config::CERTIFICATE_AGE;
use crate::route::testing::{known, member, table};
use crate::route::{Failure, Server};

const NAME: Option<&str> = Some("kubernetes");

fn inspected(name: Option<&str>, change: impl FnOnce(&mut World)) -> InspectReason {
    let mut world = World::upgrade();
    change(&mut world);
    match decide(&world.hello(name), &world.view()) {
        RelayDecision::Inspect(reason) => reason,
        RelayDecision::Relay { server } => panic!("relayed to {server}"),
    }
}

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn server(world: &World, index: usize) -> &std::sync::Arc<Server> {
    &world.table.member(index).unwrap().server
}

#[test]
fn relayed_if_all_holds() {
    let world = World::upgrade();
    assert_eq!(
        decide(&world.hello(NAME), &world.view()),
        RelayDecision::Relay { server: 1 }
    );
}

#[test]
fn each_condition_by_itself() {
    use InspectReason::*;
    let probe = |change: fn(&mut ProbeFacts)| {
        inspected(NAME, |world| {
            let mut facts = GOOD;
            change(&mut facts);
            world.probes[1] = Some(facts);
        })
    };
    let cp_b = |knowledge| {
        inspected(NAME, |world| {
            *world = World::of([
                member("cp-a", true, OLD),
                known(member("cp-b", false, NEW), knowledge),
            ]);
        })
    };
    for (expected, found) in [
        (RelayOff, inspected(NAME, |w| w.enabled = false)),
        (
            InteroperabilityOff,
            inspected(NAME, |w| w.interoperability = false),
        ),
        (Draining, inspected(NAME, |w| w.draining = true)),
        (NoClientHello, inspected(None, |w| w.readable = false)),
        (NoServerName, inspected(None, |_| {})),
        (
            AsksAboutServer,
            inspected(NAME, |w| w.asks_about_server = true),
        ),
        (NotHot, inspected(NAME, |w| w.hot = false)),
        (
            LocalSuffices,
            inspected(NAME, |w| {
                *w = World::of([member("cp-a", true, NEW), member("cp-b", false, OLD)]);
            }),
        ),
        (
            LocalSuffices,
            inspected(NAME, |w| {
                *w = World::of([member("cp-a", true, NEW), member("cp-b", false, NEW)]);
            }),
        ),
        (
            OthersUnknown,
            inspected(NAME, |w| {
                *w = World::of([
                    known(member("cp-a", true, OLD), Knowledge::Unconfirmed),
                    member("cp-b", false, NEW),
                ]);
            }),
        ),
        (OthersUnknown, cp_b(Knowledge::Unconfirmed)),
        (OthersUnknown, cp_b(Knowledge::Never)),
        (ServerNotConfirmed, cp_b(Knowledge::Down)),
        (
            NoSuperset,
            inspected(NAME, |w| {
                *w = World::of([
                    member("cp-a", true, &["v1 pods get", "v1 old get"]),
                    member("cp-b", false, &["v1 pods get", "v1 new get"]),
                ]);
            }),
        ),
        (
            NoSuperset,
            inspected(NAME, |w| {
                // One verb less than another is not all.
                *w = World::of([
                    member("cp-a", true, &["v1 pods get", "v1 new get"]),
                    member("cp-b", false, &["v1 pods get,list", "v1 new get"]),
                    member("cp-c", false, &["v1 pods get", "v1 new get,list"]),
                ]);
            }),
        ),
        (
            ServerUnavailable,
            inspected(NAME, |w| server(w, 1).failed(Failure::Refused)),
        ),
        (NotProbed, inspected(NAME, |w| w.probes[1] = None)),
        (NotProbed, inspected(NAME, |w| w.probes.clear())),
        (NotProbed, probe(|facts| facts.age = PROBE_AGE + second(1))),
        (OtherCa, probe(|facts| facts.same_ca = false)),
        (NameNotCovered, probe(|facts| facts.valid_for_name = false)),
        (
            CertificateChanged,
            probe(|facts| facts.unchanged_for = second(59)),
        ),
        (Share, inspected(NAME, |w| w.relayed[1] = 5)),
        // Those relayed to servers that are gone count, too.
        (Share, inspected(NAME, |w| w.relayed.push(5))),
        (Share, inspected(NAME, |w| w.open = 1)),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn nameless_clients_are_relayed_if_the_operator_says_so() {
    let mut world = World::upgrade();
    world.without_server_name = true;
    assert_eq!(
        decide(&world.hello(None), &world.view()),
        RelayDecision::Relay { server: 1 }
    );
}

#[test]
fn a_local_server_that_serves_all_but_is_down_does_not_suffice() {
    let world = World::of([
        known(member("cp-a", true, NEW), Knowledge::Down),
        member("cp-b", false, NEW),
    ]);
    assert_eq!(
        decide(&world.hello(NAME), &world.view()),
        RelayDecision::Inspect(InspectReason::LocalSuffices)
    );
    server(&world, 0).failed(Failure::Refused);
    assert_eq!(
        decide(&world.hello(NAME), &world.view()),
        RelayDecision::Relay { server: 1 }
    );
}

#[test]
fn the_server_asked_before_then_the_one_with_the_fewest() {
    let mut world = World::of([
        member("cp-a", true, OLD),
        member("cp-b", false, NEW),
        member("cp-c", false, NEW),
        member("cp-d", false, NEW),
    ]);
    world.open = 100;
    world.relayed = vec![0, 3, 1, 2];
    let choice = |world: &World| decide(&world.hello(NAME), &world.view());
    assert_eq!(choice(&world), RelayDecision::Relay { server: 2 });
    world
        .client
        .forwarded(server(&world, 1), std::time::Instant::now());
    assert_eq!(choice(&world), RelayDecision::Relay { server: 1 });
    server(&world, 1).failed(Failure::Refused);
    assert_eq!(choice(&world), RelayDecision::Relay { server: 2 });
}

#[test]
fn the_reason_is_that_of_the_server_which_came_furthest() {
    let mut world = World::of([
        member("cp-a", true, OLD),
        member("cp-b", false, NEW),
        member("cp-c", false, NEW),
    ]);
    server(&world, 1).failed(Failure::Refused);
    world.probes[2] = Some(ProbeFacts {
        same_ca: false,
        ..GOOD
    });
    assert_eq!(
        decide(&world.hello(NAME), &world.view()),
        RelayDecision::Inspect(InspectReason::OtherCa)
    );
}

#[test]
fn documentation_lists_every_reason_and_no_other() {
    let codes = InspectReason::ALL.iter().map(|r| (r.as_str(), r.meaning()));
    assert_documented("relay.md", "Why a connection is inspected", codes);
}

fn probe() -> impl Strategy<Value = Option<ProbeFacts>> {
    let facts = (
        0u64..80,
        30u64..200,
        prop::bool::weighted(0.9),
        prop::bool::weighted(0.9),
    );
    prop::option::weighted(
        0.9,
        facts.prop_map(|(age, unchanged, same_ca, valid_for_name)| ProbeFacts {
            age: second(age),
            unchanged_for: second(unchanged),
            same_ca,
            valid_for_name,
        }),
    )
}

proptest! {
    /// Whatever the world is like: who is relayed is relayed rightly.
    #[test]
    fn a_relay_keeps_every_condition(
        sets in prop::collection::vec((0usize..4, 0usize..8, any::<bool>()), 1..5),
        probes in prop::collection::vec(probe(), 5),
        relayed in prop::collection::vec(0usize..6, 5),
        open in 1usize..40,
        share in 0.05f64..=1.0,
        switches in prop::array::uniform6(prop::bool::weighted(0.9)),
        named in any::<bool>(),
    ) {
        let sets: Vec<_> = sets;
        let members = sets.iter().enumerate().map(|(index, (set, knowledge, _))| {
            let keys: &[&str] = [&["v1 pods get"][..], &["v1 pods get,list"], OLD, NEW][*set];
            let knowledge = match knowledge {
                0 => Knowledge::Down,
                1 => Knowledge::Unconfirmed,
                _ => Knowledge::Confirmed,
            };
            known(member(&format!("cp-{index}"), index == 0, keys), knowledge)
        });
        let table = table(members);
        for (index, (_, _, healthy)) in sets.iter().enumerate() {
            if !healthy {
                table.member(index).unwrap().server.failed(Failure::Refused);
            }
        }
        let [enabled, interoperability, not_draining, without_server_name, readable, hot] = switches;
        let view = RelayConditions {
            enabled,
            interoperability,
            draining: !not_draining,
            without_server_name,
            max_share: share,
            certificate_age: CERTIFICATE_AGE,
            table: &table,
            probes: &probes,
            relayed: &relayed,
            relayed_total: relayed.iter().sum(),
            open,
        };
        let hello = ClientHelloFacts {
            readable,
            server_name: named.then_some("kubernetes"),
            asks_about_server: false,
            hot,
            client: None,
        };
        if let RelayDecision::Relay { server } = decide(&hello, &view) {
            prop_assert_eq!(impossible(&table), None);
            prop_assert!(enabled && interoperability && not_draining && readable && hot);
            prop_assert!(named || without_server_name);
            let member = table.member(server).unwrap();
            prop_assert!(!member.server.local);
            prop_assert!(table.is_superset(server));
            prop_assert!(member.server.available());
            prop_assert_eq!(member.knowledge, Knowledge::Confirmed);
            let probe = probes[server].unwrap();
            prop_assert!(probe.age <= second(60) && probe.unchanged_for >= second(60));
            prop_assert!(probe.same_ca && probe.valid_for_name);
            prop_assert!((view.relayed_total + 1) as f64 <= share * open as f64);
        }
    }
}
