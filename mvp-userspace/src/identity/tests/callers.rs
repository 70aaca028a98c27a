use http::{HeaderMap, HeaderName, HeaderValue};

use crate::identity::certificate::Rejection;
use crate::identity::examine::examine;
use crate::identity::testing::{World, now, trust};
use crate::identity::trust::Trust;
use crate::identity::user::BadIdentity;
use crate::identity::{Caller, CertIdentity, Unauthorized, authenticate};
use crate::tls::IdentityClass;
use crate::tls::testing::{Identity, ca, client, self_signed, signed_by};

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    map
}

fn certificate(identity: &Identity, trust: &Trust) -> CertIdentity {
    examine(std::slice::from_ref(&identity.der), trust, now())
}

const TOKEN: (&str, &str) = ("Authorization", "Bearer abc");

#[test]
fn nothing_is_anonymous_and_a_token_is_a_token() {
    let world = World::new();
    let call = |lines: &[(&str, &str)]| authenticate(None, &headers(lines), &world.trust);
    assert_eq!(call(&[]), Ok(Caller::Anonymous));
    assert_eq!(call(&[TOKEN]), Ok(Caller::Token));
    assert_eq!(
        call(&[("X-Remote-User", "kubernetes-admin")]),
        Ok(Caller::Anonymous),
        "no certificate, no user"
    );
    assert_eq!(Caller::Token.class(), IdentityClass::Bare);
    assert_eq!(Caller::Anonymous.class(), IdentityClass::Bare);
    assert_eq!(Caller::Anonymous.name_for_log(), "system:anonymous");
    assert_eq!(Caller::Token.name_for_log(), "");
}

#[test]
fn a_client_certificate_wins_over_a_token_and_headers() {
    let world = World::new();
    let alice = certificate(
        &signed_by(client("alice", &["devs"]), &world.ca),
        &world.trust,
    );
    let lines = headers(&[
        TOKEN,
        ("X-Remote-User", "kubernetes-admin"),
        ("X-Remote-Group", "system:masters"),
    ]);
    let caller = authenticate(Some(&alice), &lines, &world.trust).unwrap();
    let Caller::Asserted(user) = &caller else {
        panic!("{caller:?}")
    };
    assert_eq!(
        (user.name(), user.groups()),
        ("alice", &["devs".to_owned()][..])
    );
    assert_eq!(caller.class(), IdentityClass::FrontProxy);
    assert!(!caller.is_front_proxy());
    assert_eq!(caller.name_for_log(), "alice");
}

#[test]
fn a_certificate_that_fails_is_unauthorized_unless_there_is_a_token() {
    let world = World::new();
    let bad = certificate(
        &signed_by(client("alice", &[]), &self_signed(ca("other"))),
        &world.trust,
    );
    let call = |lines: &[(&str, &str)]| authenticate(Some(&bad), &headers(lines), &world.trust);
    assert_eq!(
        call(&[]),
        Err(Unauthorized::Certificate(Rejection::UnknownIssuer))
    );
    assert_eq!(
        call(&[("Authorization", "Basic YWxpY2U6eA==")]),
        Err(Unauthorized::Certificate(Rejection::UnknownIssuer))
    );
    assert_eq!(call(&[TOKEN]), Ok(Caller::Token));
    let asserts = [("X-Remote-User", "admin"), TOKEN];
    assert_eq!(call(&asserts), Ok(Caller::Token));
}

#[test]
fn a_front_proxy_names_the_user() {
    let world = World::new();
    let proxy = certificate(
        &signed_by(client("front-proxy-client", &[]), &world.proxy_ca),
        &world.trust,
    );
    let lines = headers(&[
        ("X-Remote-User", ""),
        ("X-Corp-Login", "bob"),
        ("X-Remote-Uid", "7"),
        ("X-Remote-Group", "a,b"),
        ("X-Remote-Group", ""),
        ("x_corp_team", "c"),
        ("X-Remote-Group", "d"),
        ("X-Remote-Extra-Scopes", "s1"),
        ("X-Remote-Extra-Scopes", "s2"),
        ("X-Corp-Fact-Example.org%2fA", ""),
        ("X-Corp-Fact-scopes", "s3"),
        TOKEN,
    ]);
    let caller = authenticate(Some(&proxy), &lines, &world.trust).unwrap();
    let Caller::FrontProxy(user) = &caller else {
        panic!("{caller:?}")
    };
    assert_eq!(user.name(), "bob");
    assert_eq!(user.uid(), "7");
    assert_eq!(user.groups(), ["a,b", "d", "c"]);
    let mut extra = user.extra().to_vec();
    extra.sort();
    let strings = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        extra,
        [
            ("example.org/a".to_owned(), strings(&[""])),
            ("scopes".to_owned(), strings(&["s1", "s2", "s3"]))
        ]
    );
    assert!(caller.is_front_proxy());
    assert_eq!(caller.class(), IdentityClass::FrontProxy);
}

#[test]
fn a_front_proxy_that_names_nobody_is_judged_like_anyone() {
    let world = World::new();
    let proxy = certificate(
        &signed_by(client("front-proxy-client", &[]), &world.proxy_ca),
        &world.trust,
    );
    let call = |lines: &[(&str, &str)]| authenticate(Some(&proxy), &headers(lines), &world.trust);
    // As recorded of kube-apiserver: 401, and with a token the token's user.
    assert_eq!(
        call(&[]),
        Err(Unauthorized::Certificate(Rejection::UnknownIssuer))
    );
    assert_eq!(
        call(&[("X-Remote-Group", "system:masters")]),
        Err(Unauthorized::Certificate(Rejection::UnknownIssuer))
    );
    assert_eq!(
        call(&[("X_Remote_User", "admin")]),
        Err(Unauthorized::Certificate(Rejection::UnknownIssuer))
    );
    assert_eq!(call(&[TOKEN]), Ok(Caller::Token));
}

#[test]
fn a_front_proxy_of_another_name_asserts_nobody() {
    let world = World::new();
    let other = certificate(
        &signed_by(client("other", &[]), &world.proxy_ca),
        &world.trust,
    );
    let lines = headers(&[("X-Remote-User", "kubernetes-admin")]);
    let got = authenticate(Some(&other), &lines, &world.trust);
    assert!(matches!(got, Err(Unauthorized::Certificate(_))), "{got:?}");
}

#[test]
fn one_ca_for_both_and_a_user_who_is_no_proxy() {
    let root = self_signed(ca("one"));
    let trust = trust(Some(&[&root]), Some((&[&root], &["front-proxy-client"])));
    let alice = certificate(&signed_by(client("alice", &[]), &root), &trust);
    let lines = headers(&[("X-Remote-User", "kubernetes-admin")]);
    let caller = authenticate(Some(&alice), &lines, &trust).unwrap();
    assert_eq!(caller.name_for_log(), "alice");
    let proxy = certificate(&signed_by(client("front-proxy-client", &[]), &root), &trust);
    assert_eq!(
        authenticate(Some(&proxy), &lines, &trust)
            .unwrap()
            .name_for_log(),
        "kubernetes-admin"
    );
    assert_eq!(
        authenticate(Some(&proxy), &headers(&[]), &trust)
            .unwrap()
            .name_for_log(),
        "front-proxy-client"
    );
}

#[test]
fn no_authority_and_no_name_are_not_errors() {
    let world = World::new();
    let nameless = signed_by(client("", &["system:masters"]), &world.ca);
    let none = trust(None, None);
    assert_eq!(
        authenticate(Some(&certificate(&nameless, &none)), &headers(&[]), &none),
        Ok(Caller::Anonymous)
    );
    let clients = trust(Some(&[&world.ca]), None);
    assert_eq!(
        authenticate(
            Some(&certificate(&nameless, &clients)),
            &headers(&[]),
            &clients
        ),
        Ok(Caller::Anonymous)
    );
    // With a request-header CA its rejection counts.
    let got = authenticate(
        Some(&certificate(&nameless, &world.trust)),
        &headers(&[]),
        &world.trust,
    );
    assert_eq!(
        got,
        Err(Unauthorized::Certificate(Rejection::UnknownIssuer))
    );
}

#[test]
fn without_a_front_proxy_pair_nobody_is_asserted() {
    let mut world = World::new();
    world.trust.can_assert = false;
    let alice = certificate(&signed_by(client("alice", &[]), &world.ca), &world.trust);
    let got = authenticate(Some(&alice), &headers(&[TOKEN]), &world.trust);
    assert_eq!(got, Err(Unauthorized::CannotAssert));
    assert_eq!(
        authenticate(None, &headers(&[TOKEN]), &world.trust),
        Ok(Caller::Token)
    );
}

#[test]
fn users_that_cannot_be_said_are_refused_even_with_a_token() {
    let world = World::new();
    let bad = certificate(
        &signed_by(client("system:admin ", &[]), &world.ca),
        &world.trust,
    );
    let got = authenticate(Some(&bad), &headers(&[TOKEN]), &world.trust);
    assert!(
        matches!(got, Err(Unauthorized::Identity(BadIdentity::Illegal(..)))),
        "{got:?}"
    );

    let proxy = certificate(
        &signed_by(client("front-proxy-client", &[]), &world.proxy_ca),
        &world.trust,
    );
    let mut lines = headers(&[TOKEN]);
    lines.insert("x-remote-user", HeaderValue::from_bytes(b"b\xffb").unwrap());
    let got = authenticate(Some(&proxy), &lines, &world.trust);
    assert_eq!(
        got,
        Err(Unauthorized::Identity(BadIdentity::NotUtf8("user name")))
    );
    let lines = headers(&[("X-Remote-User", "bob"), ("X-Remote-Extra-%ff", "1")]);
    let got = authenticate(Some(&proxy), &lines, &world.trust);
    assert_eq!(
        got,
        Err(Unauthorized::Identity(BadIdentity::NotUtf8("extra key")))
    );
}

#[test]
fn what_counts_as_a_bearer_token() {
    let world = World::new();
    let is_token = |lines: &[(&str, &str)]| {
        authenticate(None, &headers(lines), &world.trust) == Ok(Caller::Token)
    };
    for yes in ["Bearer a", "bearer a", "BEARER a b", "  Bearer a  "] {
        assert!(is_token(&[("Authorization", yes)]), "{yes:?}");
    }
    for no in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  a",
        "Basic a",
        "Token a",
        "Bearer\ta",
    ] {
        assert!(!is_token(&[("Authorization", no)]), "{no:?}");
    }
    assert!(
        !is_token(&[("Authorization", "Basic x"), ("Authorization", "Bearer a")]),
        "only the first header counts"
    );
}

#[test]
fn what_counts_as_a_websocket_token() {
    let world = World::new();
    let is_token = |upgrade: &str, connection: &str, protocols: &[&str]| {
        let mut lines = vec![("Upgrade", upgrade), ("Connection", connection)];
        lines.extend(protocols.iter().map(|p| ("Sec-WebSocket-Protocol", *p)));
        authenticate(None, &headers(&lines), &world.trust) == Ok(Caller::Token)
    };
    let token = "base64url.bearer.authorization.k8s.io.YWJj";
    assert!(is_token(
        "websocket",
        "Upgrade",
        &[token, "v4.channel.k8s.io"]
    ));
    assert!(is_token(
        "WebSocket",
        "keep-alive, upgrade",
        &[&format!("v4.channel.k8s.io, {token}")]
    ));
    assert!(!is_token("SPDY/3.1", "Upgrade", &[token]));
    assert!(!is_token("websocket", "keep-alive", &[token]));
    assert!(!is_token(
        "websocket",
        "Upgrade",
        &["base64url.bearer.authorization.k8s.io."]
    ));
    assert!(!is_token(
        "websocket",
        "Upgrade",
        &["base64url.bearer.authorization.k8s.io.!!"]
    ));
    assert!(!is_token("websocket", "Upgrade", &["v4.channel.k8s.io"]));
}
