use std::sync::atomic::Ordering;

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::route::testing::{CONTEXT, get, known, member, request, table};
use crate::route::{Failure, Knowledge, Member, ReadyzOutcome, explain};
use crate::tls::IdentityClass;

fn load(server: &Server) -> usize {
    server.outstanding.load(Ordering::Relaxed)
}

/// The names in the order in which the servers are asked.
fn order(plan: &Plan<'_>) -> Vec<String> {
    let mut tried = ServerSet::EMPTY;
    let mut names = Vec::new();
    while let Some((server, _)) = plan.next(tried) {
        tried = tried.union(plan.table().set_of(&server));
        names.push(server.name.to_string());
    }
    names
}

fn three() -> RouteTable {
    table([
        member("a", true, &["v1 pods"]),
        member("b", false, &["v1 pods"]),
        member("c", false, &["v1 pods", "new/v1 things"]),
    ])
}

#[test]
fn the_local_server_goes_first_and_the_capable_ones_stand_in_for_it() {
    let table = three();
    let b = &table.members()[1].server;
    b.outstanding.store(3, Ordering::Relaxed);
    let asked = |path: &str, context| order(&plan(&get(path), &table, context));
    assert_eq!(asked("/api/v1/pods", CONTEXT), ["a", "c", "b"]);
    assert_eq!(asked("/apis/new/v1/things", CONTEXT), ["c"]);
    assert_eq!(asked("/apis/x/v1/ys", CONTEXT), ["a", "c", "b"]);
    assert_eq!(asked("/apis", CONTEXT), ["a", "c", "b"]);
    assert_eq!(asked("/readyz", CONTEXT), ["a"]);
    let marked = Context {
        hop_marked: true,
        ..CONTEXT
    };
    let off = Context {
        interoperability: false,
        ..CONTEXT
    };
    for context in [marked, off] {
        assert_eq!(asked("/apis/new/v1/things", context), ["a"]);
    }
}

#[test]
fn who_is_preferred_goes_before_all_others() {
    let table = three();
    let c = std::slice::from_ref(&table.members()[2].server);
    let info = get("/openapi/v2");
    let plan = plan(&info, &table, CONTEXT).preferring(c, Reason::OpenApiNewest);
    assert_eq!(plan.reason(), Reason::OpenApiNewest);
    assert_eq!(order(&plan)[..2], ["c", "a"]);
    let (server, reason) = plan.next(plan.first()).unwrap();
    assert_eq!((&*server.name, reason), ("a", Reason::NonResource));
    table.members()[2]
        .server
        .set_proved(IdentityClass::FrontProxy, false);
    let plan = super::plan(&info, &table, CONTEXT).preferring(c, Reason::OpenApiNewest);
    assert_eq!(plan.reason(), Reason::NonResource);
    assert_eq!(order(&plan), ["a", "b"]);
}

#[test]
fn nobody_is_asked_for_what_only_an_absent_local_server_could_say() {
    let table = table([member("b", false, &["v1 pods"])]);
    let info = get("/readyz");
    let plan = plan(&info, &table, CONTEXT);
    assert_eq!(order(&plan), [""; 0]);
    assert_eq!(plan.reason(), Reason::CapableServerUnreachable);
    assert!(explain(&plan).starts_with("/readyz -> 503 (capable_server_unreachable: "));
}

/// What one server of a random table is like.
#[derive(Clone, Debug)]
struct Like {
    keys: Vec<&'static str>,
    knowledge: Knowledge,
    health: u8,
    proved: [bool; 2],
    load: usize,
}

const CLASSES: [IdentityClass; 2] = [IdentityClass::FrontProxy, IdentityClass::Bare];

fn like() -> impl Strategy<Value = Like> {
    let keys = proptest::sample::subsequence(
        vec![
            "v1 pods get,list",
            "v1 pods/resize get,patch",
            "g/v1 things",
            "g/v2 things get",
        ],
        0..=4,
    );
    let knowledge = proptest::sample::select(vec![
        Knowledge::Never,
        Knowledge::Absent,
        Knowledge::Confirmed,
        Knowledge::Confirmed,
        Knowledge::Down,
        Knowledge::Unconfirmed,
    ]);
    let likely = || proptest::bool::weighted(0.8);
    (keys, knowledge, 0..4_u8, [likely(), likely()], 0..3_usize).prop_map(
        |(keys, knowledge, health, proved, load)| Like {
            keys,
            knowledge,
            health,
            proved,
            load,
        },
    )
}

fn server_like(index: usize, local: bool, like: &Like) -> Member {
    let member = known(
        member(&format!("s{index}"), local, &like.keys),
        like.knowledge,
    );
    let server = &member.server;
    match like.health {
        0 => server.failed(Failure::Refused),
        1 => server.probed(ReadyzOutcome::NotReady),
        _ => {}
    }
    for (class, proved) in CLASSES.into_iter().zip(like.proved) {
        server.set_proved(class, proved);
    }
    server.outstanding.store(like.load, Ordering::Relaxed);
    member
}

proptest! {
    /// Whatever is known of servers, and whatever is asked: the first choice and the reason that `explain` prints are those that forwarding
    /// follows.
    #[test]
    fn what_explain_prints_is_what_forwarding_does(
        servers in proptest::collection::vec(like(), 0..6),
        local in proptest::option::weighted(0.8, 0..6_usize),
        (method, target) in proptest::sample::select(vec![
            ("GET", "/api/v1/pods"),
            ("POST", "/api/v1/pods"),
            ("GET", "/api/v1/namespaces/n/pods/p/resize"),
            ("OPTIONS", "/apis/g/v1/things"),
            ("DELETE", "/apis/g/v2/things/x"),
            ("GET", "/apis/none/v1/things"),
            ("GET", "/readyz"),
            ("GET", "/"),
            ("GET", "/apis"),
            ("GET", "/apis/g"),
            ("GET", "/apis/g/v2"),
            ("GET", "/openapi/v3/apis/g/v1"),
        ]),
        hop_marked in proptest::bool::weighted(0.1),
        interoperability in proptest::bool::weighted(0.9),
        class in proptest::sample::select(CLASSES.to_vec()),
        prefers in proptest::option::weighted(0.2, proptest::collection::vec(0..6_usize, 1..3)),
    ) {
        let members = servers.iter().enumerate();
        let table = table(members.map(|(i, like)| server_like(i, Some(i) == local, like)));
        let info = request(Method::from_bytes(method.as_bytes()).unwrap(), target);
        let context = Context { hop_marked, interoperability, class };
        let mut plan = plan(&info, &table, context);
        if let Some(prefers) = prefers {
            let server = |index: usize| Some(table.member(index)?.server.clone());
            let servers: Vec<_> = prefers.into_iter().filter_map(server).collect();
            plan = plan.preferring(&servers, Reason::OpenApiOnPeer);
        }

        let line = explain(&plan);
        let (_, told) = line.split_once(" -> ").unwrap();
        let (first, rest) = told.split_once(" (").unwrap();
        let (code, _) = rest.split_once(':').unwrap();
        prop_assert_eq!(code, plan.reason().as_str());
        let names = first.trim_start_matches("local server ");
        let names: Vec<_> = names.split(',').next().unwrap().split(" or ").collect();

        // Who of equals is asked is drawn each time.
        for _ in 0..2 * servers.len() + 1 {
            let Some((server, reason)) = plan.next(ServerSet::EMPTY) else {
                prop_assert_eq!(&names, &["503"]);
                prop_assert_eq!(code, Reason::CapableServerUnreachable.as_str());
                break;
            };
            prop_assert!(names.contains(&&*server.name), "{} in {line}", server.name);
            prop_assert_eq!(code, reason.as_str());
            prop_assert!(server.local || !first.starts_with("local server "), "{line}");
            let busier = |name: &&str| {
                let named = table.members().iter().find(|m| &*m.server.name == *name);
                named.is_some_and(|m| load(&m.server) >= load(&server))
            };
            prop_assert!(names.iter().all(busier), "{} in {line}", server.name);
        }

        // Nobody twice, and nobody else than the local server without a proof.
        let order = order(&plan);
        let mut distinct = order.clone();
        distinct.sort();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), order.len());
        for member in table.members() {
            let proved = member.server.proved(class) || member.server.local;
            prop_assert!(proved || !order.iter().any(|name| *name == *member.server.name));
        }
    }
}
