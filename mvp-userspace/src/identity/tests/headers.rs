use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use crate::config::RequestHeader;
use crate::identity::headers::{hop_marked, rewrite_headers};
use crate::identity::testing::{header_config, trust};
use crate::identity::trust::{HeaderNames, Trust};
use crate::identity::user::User;
use crate::identity::{Caller, HopMark, Stripped};

fn bob(trust: &Trust) -> Arc<User> {
    let strings = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    let extra = vec![
        ("example.org/Scope".to_owned(), strings(&["1", "2"])),
        ("x".to_owned(), strings(&[""])),
    ];
    Arc::new(
        User::new(
            "bob".into(),
            "7".into(),
            strings(&["devs", "ops"]),
            extra,
            trust.names(),
        )
        .unwrap(),
    )
}

fn map(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    map
}

fn lines(map: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = map
        .iter()
        .map(|(n, v)| {
            (
                n.to_string(),
                String::from_utf8_lossy(v.as_bytes()).into_owned(),
            )
        })
        .collect();
    lines.sort();
    lines
}

fn owned(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines
        .iter()
        .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
        .collect()
}

const BOB: [(&str, &str); 7] = [
    ("x-remote-extra-example.org%2f%53cope", "1"),
    ("x-remote-extra-example.org%2f%53cope", "2"),
    ("x-remote-extra-x", ""),
    ("x-remote-group", "devs"),
    ("x-remote-group", "ops"),
    ("x-remote-uid", "7"),
    ("x-remote-user", "bob"),
];

#[test]
fn an_asserted_user_replaces_what_the_client_said() {
    let trust = trust(None, None);
    let mut headers = map(&[
        ("X-Remote-User", "kubernetes-admin"),
        ("X-REMOTE-USER", "twice"),
        ("x_remote_user", "folded"),
        ("x-remote_user", "half folded"),
        ("X-Corp-Login", "a"),
        ("X-Remote-Uid", "0"),
        ("X-Remote-Group", "system:masters"),
        ("X-Corp-Team", "configured with underscores"),
        ("X-Remote-Extra-Scopes", "all"),
        ("X-Remote-Extra-", "no key"),
        ("X_Corp_Fact_a", "x"),
        ("X-Remote-Newkind", "of a later release"),
        ("X-Kubernetes-Peer-Proxied", "true"),
        ("x_kubernetes_peer_proxied", "true"),
        ("Authorization", "Bearer abc"),
        ("Authorization", "Bearer def"),
        ("Impersonate-User", "carol"),
        ("Impersonate-Extra-a", "b"),
        ("X-Remotely", "unrelated"),
        ("Accept", "*/*"),
    ]);
    let stripped = rewrite_headers(&mut headers, &Caller::Asserted(bob(&trust)), &trust);
    assert_eq!(
        stripped,
        Stripped {
            username: 5,
            uid: 1,
            group: 2,
            extra: 3,
            other: 1,
            hop: 2
        }
    );
    assert_eq!(stripped.total(), 14);
    let kept = [
        ("accept", "*/*"),
        ("impersonate-extra-a", "b"),
        ("impersonate-user", "carol"),
        ("x-remotely", "unrelated"),
    ];
    let mut expected = owned(&kept);
    expected.extend(owned(&BOB));
    expected.sort();
    assert_eq!(lines(&headers), expected);
}

#[test]
fn tokens_and_nothing_travel_untouched_but_stripped() {
    let trust = trust(None, None);
    for caller in [Caller::Token, Caller::Anonymous] {
        let mut headers = map(&[
            ("Authorization", "Bearer abc"),
            ("X-Remote-User", "admin"),
            ("Accept", "*/*"),
        ]);
        rewrite_headers(&mut headers, &caller, &trust);
        assert_eq!(
            lines(&headers),
            owned(&[("accept", "*/*"), ("authorization", "Bearer abc")])
        );
    }
}

#[test]
fn names_sent_are_standard_where_configured() {
    let send = |change: &dyn Fn(&mut RequestHeader)| {
        let mut config = header_config();
        change(&mut config);
        let names = HeaderNames::new(Some(&config)).unwrap();
        let extra = vec![("k".to_owned(), vec!["v".to_owned()])];
        let user = User::new("u".into(), "i".into(), vec!["g".into()], extra, &names).unwrap();
        let mut headers = HeaderMap::new();
        user.assert_in(&mut headers);
        lines(&headers)
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    let standard = [
        "x-remote-extra-k",
        "x-remote-group",
        "x-remote-uid",
        "x-remote-user",
    ];
    assert_eq!(send(&|_| {}), standard);
    let own = |config: &mut RequestHeader| {
        config.username_headers = vec!["X-Corp-Login".into(), "X-Other".into()];
        config.group_headers = vec!["X-Corp-Team".into(), "X-Remote-Group".into()];
        config.uid_headers = vec!["X-Corp-Id".into()];
        config.extra_header_prefixes = vec!["X-Corp-Fact-".into()];
    };
    assert_eq!(
        send(&own),
        [
            "x-corp-fact-k",
            "x-corp-id",
            "x-corp-login",
            "x-remote-group",
        ]
    );
}

#[test]
fn names_that_are_none_are_refused_by_key() {
    for bad in ["", "  ", "X Remote User", "X-Remote-User:", "\u{fc}"] {
        let mut config = header_config();
        config.group_headers.push(bad.to_owned());
        let error = HeaderNames::new(Some(&config)).unwrap_err();
        assert_eq!(error.key(), "requestHeader.groupHeaders", "{bad:?}");
    }
}

#[test]
fn the_hop_marker_is_believed_of_front_proxies_only() {
    let trust = trust(None, None);
    let proxy = Caller::FrontProxy(bob(&trust));
    let mark = |values: &[&str], caller: &Caller| {
        hop_marked(
            &map(&values
                .iter()
                .map(|v| ("X-Kubernetes-Peer-Proxied", *v))
                .collect::<Vec<_>>()),
            caller,
        )
    };
    assert_eq!(mark(&["true"], &proxy), HopMark::Honoured);
    assert_eq!(
        mark(&["false", "true"], &proxy),
        HopMark::Honoured,
        "appended to a forged one"
    );
    assert_eq!(mark(&["false"], &proxy), HopMark::Absent);
    assert_eq!(mark(&[], &proxy), HopMark::Absent);
    for caller in [
        Caller::Asserted(bob(&trust)),
        Caller::Token,
        Caller::Anonymous,
    ] {
        assert_eq!(mark(&["true"], &caller), HopMark::Forged);
        assert_eq!(mark(&[""], &caller), HopMark::Forged);
        assert_eq!(mark(&[], &caller), HopMark::Absent);
        assert_eq!(
            hop_marked(&map(&[("x-kubernetes_peer-proxied", "true")]), &caller),
            HopMark::Forged
        );
    }
}

#[test]
fn a_map_that_is_full_ends_with_nobody() {
    let trust = trust(None, None);
    let mut headers = HeaderMap::new();
    // HeaderMap's own limit is on distinct names.
    for index in 0.. {
        let name = HeaderName::from_bytes(format!("h{index}").as_bytes()).unwrap();
        if headers
            .try_append(name, HeaderValue::from_static(""))
            .is_err()
        {
            break;
        }
    }
    let before = headers.len();
    rewrite_headers(&mut headers, &Caller::Asserted(bob(&trust)), &trust);
    assert_eq!(headers.len(), before);
    assert!(!headers.contains_key("x-remote-user") && !headers.contains_key("x-remote-group"));
}

/// Names near the dangerous ones, and any others.
fn name() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "x",
        "X",
        "remote",
        "Remote",
        "user",
        "USER",
        "uid",
        "group",
        "extra",
        "scopes",
        "corp",
        "login",
        "team",
        "fact",
        "kubernetes",
        "peer",
        "proxied",
        "authorization",
        "impersonate",
        "%2f",
        "",
    ]);
    let near =
        (prop::collection::vec(words, 1..6), "[-_]").prop_map(|(words, dash)| words.join(&dash));
    let mixed = prop::sample::select(vec![
        "X_Remote-User",
        "x-remote_Group",
        "X-Remote-Extra_a",
        "X-Remote-User",
        "X-Remote-Uid",
    ]);
    prop_oneof![near, mixed.prop_map(str::to_owned), "[a-zA-Z0-9_-]{1,12}"]
}

proptest! {
    #[test]
    fn whatever_a_client_sends_only_our_words_remain(
        sent in prop::collection::vec((name(), "[ -~]{0,12}"), 0..24),
        who in 0..4usize,
    ) {
        let trust = trust(None, None);
        let caller = match who {
            0 => Caller::Asserted(bob(&trust)),
            1 => Caller::FrontProxy(bob(&trust)),
            2 => Caller::Token,
            _ => Caller::Anonymous,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &sent {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                headers.append(name, value);
            }
        }
        let before = headers.clone();
        let stripped = rewrite_headers(&mut headers, &caller, &trust);

        // Independent of the code under test: fold, then compare with the names as an operator writes them.
        let dangerous = |name: &str| {
            let folded = name.to_lowercase().replace('_', "-");
            folded.starts_with("x-remote-")
                || ["x-corp-login", "x-corp-team", "x-kubernetes-peer-proxied"].contains(&folded.as_str())
                || folded.starts_with("x-corp-fact-")
        };
        let ours: Vec<_> = lines(&headers).into_iter().filter(|(name, _)| dangerous(name)).collect();
        prop_assert_eq!(ours, if who < 2 { owned(&BOB) } else { vec![] });
        let gone = lines(&before).into_iter().filter(|(name, _)| dangerous(name)).count();
        prop_assert_eq!(stripped.total(), gone);
        // And nothing else is touched.
        let rest = |map: &HeaderMap| {
            lines(map).into_iter().filter(|(n, _)| !dangerous(n) && (who >= 2 || n != "authorization")).collect::<Vec<_>>()
        };
        prop_assert_eq!(rest(&headers), rest(&before));
        prop_assert!(who >= 2 || !headers.contains_key("authorization"));
    }
}

#[test]
fn what_servers_publish_is_deleted_too() {
    use crate::identity::proof::{Learned, PublishedNames};
    let published =
        br#"{"kind":"ConfigMap","data":{"requestheader-group-headers":"[\"X-Custom-Group\"]"}}"#;
    let published = PublishedNames::read(published).unwrap();
    let mut world = crate::identity::testing::World::new();
    let sent = || {
        let mut headers = http::HeaderMap::new();
        for name in [
            "x-custom-group",
            "x_custom_group",
            "x-remote-group",
            "accept",
            "x-else",
        ] {
            headers.insert(
                http::HeaderName::from_static(name),
                http::HeaderValue::from_static("v"),
            );
        }
        headers
    };
    let left = |trust: &crate::identity::Trust| {
        let mut headers = sent();
        crate::identity::strip_headers(&mut headers, trust);
        let mut left: Vec<_> = headers
            .keys()
            .map(|name| name.as_str().to_owned())
            .collect();
        left.sort();
        left
    };
    assert_eq!(
        left(&world.trust),
        ["accept", "x-custom-group", "x-else", "x_custom_group"]
    );
    world.trust.learn(Learned::union([Some(&published)]));
    assert_eq!(left(&world.trust), ["accept", "x-else"]);
    // A server whose names cannot be read might believe anything.
    world.trust.learn(Learned::union([Some(&published), None]));
    assert_eq!(left(&world.trust), ["accept"]);
}
