use http::Method;
use proptest::prelude::*;

use super::*;
use crate::route::choose::choose;
use crate::route::testing::{CONTEXT, get, known, member, request, table};
use crate::route::{Failure, Knowledge, ReadyzOutcome};

/// a is local and old, b newer, c newest.
fn skewed() -> RouteTable {
    table([
        member(
            "a",
            true,
            &["v1 pods get,list", "v1 pods/log get", "apps/v1 deployments"],
        ),
        member(
            "b",
            false,
            &[
                "v1 pods get,list,watch",
                "v1 pods/log get",
                "v1 pods/resize",
                "apps/v1 deployments",
                "new/v1 things",
            ],
        ),
        member(
            "c",
            false,
            &[
                "v1 pods get,list,watch",
                "v1 pods/log get",
                "v1 pods/resize",
                "new/v1 things",
                "new/v2 things",
            ],
        ),
    ])
}

/// `local`, `unknown`, `503` or the indices of the servers; then the reason.
fn shown(info: &RequestInfo<'_>, table: &RouteTable) -> String {
    let Decision { target, reason } = decide(info, table, CONTEXT);
    let target = match target {
        Target::Local => "local".into(),
        Target::Unknown => "unknown".into(),
        Target::Unavailable => "503".into(),
        Target::Servers(set) => set
            .iter()
            .map(|i| table.members()[i].server.name.to_string())
            .collect::<String>(),
    };
    format!("{target} {}", reason.as_str())
}

fn fail(table: &RouteTable, index: usize) {
    table.members()[index].server.failed(Failure::Refused);
}

#[test]
fn while_all_are_up() {
    let table = skewed();
    for (method, target, expected) in [
        ("GET", "/api/v1/pods", "local local_serves"),
        (
            "GET",
            "/api/v1/namespaces/n/pods/p/log",
            "local local_serves",
        ),
        ("GET", "/api/v1/pods?watch=1", "bc verb_on_peer"),
        (
            "GET",
            "/api/v1/namespaces/n/pods/p/resize",
            "bc subresource_on_peer",
        ),
        ("GET", "/apis/new/v1/things", "bc peer_serves"),
        ("GET", "/apis/new/v1/things/t/status", "unknown unknown_key"),
        ("GET", "/apis/new/v2/things", "c peer_serves"),
        ("GET", "/apis/none/v1/things", "unknown unknown_key"),
        ("POST", "/api/v1/pods", "local verb_nowhere"),
        ("DELETE", "/apis/new/v2/things", "c verb_nowhere"),
        ("OPTIONS", "/api/v1/pods", "local local_serves"),
        ("OPTIONS", "/apis/new/v2/things", "c peer_serves"),
        ("GET", "/api/v1/proxy/pods/p", "local local_serves"),
        ("GET", "/healthz", "local probe"),
        ("GET", "/metrics", "local probe"),
        ("GET", "/version", "local probe"),
        ("GET", "/", "local non_resource"),
        ("GET", "/api", "local non_resource"),
        ("GET", "/apis", "local non_resource"),
        ("GET", "/api/v1", "local non_resource"),
        ("GET", "/apis/apps/v1", "local non_resource"),
        ("GET", "/apis/new", "bc discovery_on_peer"),
        ("GET", "/apis/new/v1", "bc discovery_on_peer"),
        ("GET", "/apis/new/v2/", "c discovery_on_peer"),
        ("GET", "/openapi/v3/apis/new/v2", "c discovery_on_peer"),
        ("GET", "/openapi/v3", "local non_resource"),
        ("GET", "/openapi/v2", "local non_resource"),
        ("GET", "/apis/none/v1", "local non_resource"),
    ] {
        let info = request(Method::from_bytes(method.as_bytes()).unwrap(), target);
        assert_eq!(shown(&info, &table), expected, "{method} {target}");
    }
}

/// What a server published comes after what any server says, and only if that server can be used.
#[test]
fn what_is_published_comes_last() {
    let published = |keys: &[&str]| member("", false, keys).apis;
    let mut b = known(member("b", false, &[]), Knowledge::Never);
    b.published = published(&["v1 pods", "new/v1 things", "only/v1 things"]);
    let c = member("c", false, &["v1 pods get,list", "new/v1 things get,list"]);
    let table = table([member("a", true, &["v1 pods get,list"]), b, c]);
    let show = |target: &str| shown(&get(target), &table);
    assert_eq!(show("/api/v1/pods"), "local local_serves");
    assert_eq!(show("/apis/new/v1/things"), "c peer_serves");
    assert_eq!(show("/apis/only/v1/things"), "b storage_version");
    assert_eq!(show("/apis/only/v1/things/t/status"), "unknown unknown_key");
    // Neither a document nor the answer to what differs has any of it.
    assert_eq!(show("/apis/only/v1"), "local non_resource");
    assert!(table.lookup(get("/apis/only/v1/things").key()).is_none());
    fail(&table, 2);
    assert_eq!(show("/apis/new/v1/things"), "b storage_version");
    fail(&table, 1);
    assert_eq!(
        show("/apis/only/v1/things"),
        "503 capable_server_unreachable"
    );
}

/// A server's own word stands beside what it published, and is not doubled.
#[test]
fn the_own_word_is_not_published_twice() {
    let mut b = known(member("b", false, &["v1 pods get"]), Knowledge::Unconfirmed);
    b.published = member("", false, &["v1 pods", "new/v1 things"]).apis;
    let table = table([member("a", true, &["v1 nodes get"]), b]);
    let key = |target: &str| table.published(get(target).key());
    assert!(key("/api/v1/pods").is_empty());
    assert_eq!(key("/apis/new/v1/things").len(), 1);
}

#[test]
fn hop_mark_and_switch_keep_everything_local() {
    let table = skewed();
    fail(&table, 0);
    for target in [
        "/apis/new/v1/things",
        "/api/v1/pods",
        "/apis/none/v1/x",
        "/apis/new/v1",
        "/",
    ] {
        for (ctx, reason) in [
            (
                Context {
                    hop_marked: true,
                    ..CONTEXT
                },
                Reason::HopMarked,
            ),
            (
                Context {
                    interoperability: false,
                    ..CONTEXT
                },
                Reason::InteroperabilityOff,
            ),
            (
                Context {
                    hop_marked: true,
                    interoperability: false,
                    class: IdentityClass::FrontProxy,
                },
                Reason::InteroperabilityOff,
            ),
        ] {
            assert_eq!(
                decide(&get(target), &table, ctx),
                Decision {
                    target: Target::Local,
                    reason
                }
            );
        }
    }
}

#[test]
fn while_the_local_server_is_down() {
    let table = skewed();
    table.members()[0].server.probed(ReadyzOutcome::NotReady);
    for (target, expected) in [
        ("/api/v1/pods", "bc local_down"),
        ("/apis/apps/v1/deployments", "b local_down"),
        (
            "/api/v1/namespaces/n/pods/p/resize",
            "bc subresource_on_peer",
        ),
        ("/apis/new/v2/things", "c peer_serves"),
        ("/apis/none/v1/things", "unknown unknown_key"),
        ("/readyz", "local probe"),
        ("/", "bc local_down"),
        ("/apis", "bc local_down"),
        ("/apis/apps/v1", "b local_down"),
        ("/apis/new/v2", "c discovery_on_peer"),
        ("/apis/none/v1", "bc local_down"),
    ] {
        assert_eq!(shown(&get(target), &table), expected, "{target}");
    }
}

#[test]
fn while_peers_are_down() {
    let table = skewed();
    fail(&table, 2);
    assert_eq!(shown(&get("/apis/new/v1/things"), &table), "b peer_serves");
    assert_eq!(
        shown(&get("/apis/new/v2/things"), &table),
        "503 capable_server_unreachable"
    );
    assert_eq!(
        shown(&get("/apis/new/v2"), &table),
        "503 capable_server_unreachable"
    );
    fail(&table, 0);
    fail(&table, 1);
    // A 404 or 405 from one who does not serve it would be false: nobody is asked.
    assert_eq!(
        shown(&get("/api/v1/pods"), &table),
        "503 capable_server_unreachable"
    );
    assert_eq!(
        shown(&request(Method::POST, "/api/v1/pods"), &table),
        "503 capable_server_unreachable"
    );
    assert_eq!(
        shown(&get("/apis/apps/v1"), &table),
        "503 capable_server_unreachable"
    );
    // Nothing is left to go to, so the local server gets its chance.
    assert_eq!(shown(&get("/apis"), &table), "local non_resource");
}

#[test]
fn while_nothing_is_known_of_the_local_server() {
    let table = table([
        known(member("a", true, &[]), Knowledge::Never),
        member("b", false, &["v1 pods get", "v1 pods/log get"]),
    ]);
    assert_eq!(shown(&get("/api/v1/pods/p"), &table), "b local_unknown");
    assert_eq!(shown(&get("/api/v1"), &table), "b discovery_on_peer");
    assert_eq!(shown(&get("/apis/x/v1/ys"), &table), "unknown unknown_key");
    assert_eq!(shown(&get("/apis"), &table), "local non_resource");
    fail(&table, 1);
    assert_eq!(
        shown(&get("/api/v1/pods/p"), &table),
        "unknown local_unknown"
    );
    assert_eq!(shown(&get("/api/v1"), &table), "local non_resource");
}

#[test]
fn old_knowledge_of_the_local_server_stands() {
    for knowledge in [Knowledge::Down, Knowledge::Unconfirmed] {
        let table = table([
            known(member("a", true, &["v1 pods get"]), knowledge),
            member("b", false, &["v1 pods get"]),
        ]);
        assert_eq!(shown(&get("/api/v1/pods/p"), &table), "local local_serves");
    }
}

#[test]
fn without_a_local_server() {
    let table = table([member("b", false, &["v1 pods get"])]);
    assert_eq!(shown(&get("/api/v1/pods/p"), &table), "b peer_serves");
    assert_eq!(shown(&get("/apis"), &table), "b local_down");
    assert_eq!(shown(&get("/apis/x/v1/ys"), &table), "unknown unknown_key");
}

const VERBS: [&str; 4] = ["get", "list", "watch", "create"];

proptest! {
    /// Over all mixtures of capability and health for one key (and its parent), against the rule in words.
    #[test]
    fn a_capable_available_server_is_always_used(
        servers in proptest::collection::vec((proptest::option::of(0usize..16), any::<bool>(), any::<bool>()), 1..6),
        local in proptest::option::of(0usize..6),
        target in proptest::sample::select(vec![
            ("GET", "/apis/g/v1/rs/x/s"), ("POST", "/apis/g/v1/rs/x/s"), ("PUT", "/apis/g/v1/rs/x/s"),
            ("OPTIONS", "/apis/g/v1/rs/x/s"),
        ]),
    ) {
        let members = servers.iter().enumerate().map(|(i, (verbs, parent, up))| {
            let mut keys = Vec::new();
            let listed = verbs.map(|bits| {
                let verbs: Vec<_> = VERBS.into_iter().enumerate().filter(|(v, _)| bits >> v & 1 == 1).map(|(_, v)| v).collect();
                format!("g/v1 rs/s {}", verbs.join(","))
            });
            keys.extend(listed.as_deref());
            if *parent {
                keys.push("g/v1 rs");
            }
            let member = member(&format!("s{i}"), Some(i) == local, &keys);
            if !up {
                member.server.failed(Failure::TimedOut);
            }
            member
        });
        let table = table(members);
        let info = request(Method::from_bytes(target.0.as_bytes()).unwrap(), target.1);
        let decision = decide(&info, &table, CONTEXT);

        let lists = |i: usize| servers[i].0.is_some();
        let with_verb = |i: usize| match target.0 {
            "OPTIONS" => lists(i),
            _ => servers[i].0.is_some_and(|bits| VERBS.iter().enumerate().any(|(v, name)| bits >> v & 1 == 1 && *name == info.verb.as_str())),
        };
        let all = 0..servers.len();
        let any_verb = all.clone().any(with_verb);
        let capable = |i: usize| if any_verb { with_verb(i) } else { lists(i) };
        let usable: Vec<_> = all.clone().filter(|i| capable(*i) && servers[*i].2).collect();
        match decision.target {
            Target::Unknown => prop_assert!(!all.clone().any(lists)),
            Target::Unavailable => {
                prop_assert!(usable.is_empty() && all.clone().any(capable));
            }
            Target::Local => {
                prop_assert!(local.is_some_and(|l| usable.contains(&l)));
            }
            Target::Servers(set) => {
                prop_assert!(!set.is_empty());
                prop_assert_eq!(set, usable.iter().copied().collect());
                prop_assert!(local.is_none_or(|l| !set.contains(l)));
            }
        }
    }
}

#[test]
fn a_server_that_is_not_proved_for_the_caller_is_no_candidate() {
    use crate::route::testing::{member, table};
    let members = || {
        [
            member("a", true, &["v1 pods"]),
            member("b", false, &["new/v1 things"]),
        ]
    };
    let ask = |table: &RouteTable, target: &str, class| {
        let (method, target) = (Method::GET, target.to_owned());
        let info = RequestInfo::parse(&method, &target, None).unwrap();
        let context = Context { class, ..CONTEXT };
        decide(&info, table, context).target
    };
    let (asserted, token) = (IdentityClass::FrontProxy, IdentityClass::Bare);
    let table = table(members());
    let b = Target::Servers(ServerSet::one(1));
    assert_eq!(ask(&table, "/apis/new/v1/things", asserted), b);
    table.members()[1].server.set_proved(asserted, false);
    assert_eq!(
        ask(&table, "/apis/new/v1/things", asserted),
        Target::Unavailable
    );
    assert_eq!(ask(&table, "/apis/new/v1/things", token), b);
    let proved = table.proved(table.all(), asserted);
    assert!(choose(&table, proved, 1).is_some_and(|s| s.local));
    // The local one: others stand in for it, as if it were down.
    table.members()[1].server.set_proved(asserted, true);
    table.members()[0].server.set_proved(asserted, false);
    assert_eq!(ask(&table, "/", asserted), b);
    assert_eq!(ask(&table, "/", token), Target::Local);
    assert_eq!(ask(&table, "/api/v1/pods", asserted), Target::Unavailable);
}
