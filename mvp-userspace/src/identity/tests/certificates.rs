use rcgen::{
    BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use crate::identity::certificate::Rejection;
use crate::identity::examine::{FrontProxyVerdict, PeerCertificates, X509Verdict, examine};
use crate::identity::testing::{World, at, now, trust};
use crate::identity::user::BadIdentity;
use crate::tls::testing::{Identity, ca, client, self_signed, signed_by};

pub(super) fn x509(chain: &[&Identity], world: &World) -> X509Verdict {
    examine(&ders(chain), &world.trust, now()).x509
}

pub(super) fn ders(chain: &[&Identity]) -> Vec<CertificateDer<'static>> {
    chain.iter().map(|identity| identity.der.clone()).collect()
}

pub(super) fn rejected(verdict: X509Verdict) -> Rejection {
    match verdict {
        X509Verdict::Rejected(rejection) => rejection,
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn user_as_kube_apiserver_derives_it() {
    let world = World::new();
    let mut params = client("kubernetes-admin", &["system:masters", "devs"]);
    params.distinguished_name.push(
        DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]),
        "1042",
    );
    params
        .distinguished_name
        .push(DnType::OrganizationalUnitName, "not a group");
    let identity = signed_by(params, &world.ca);
    let X509Verdict::User(user) = x509(&[&identity], &world) else {
        panic!("no user")
    };
    assert_eq!(user.name(), "kubernetes-admin");
    assert_eq!(user.groups(), ["system:masters", "devs"]);
    assert_eq!(user.uid(), "1042");
    let [(key, values)] = user.extra() else {
        panic!("extra: {:?}", user.extra())
    };
    assert_eq!(key, "authentication.kubernetes.io/credential-id");
    let [id] = values.as_slice() else {
        panic!("{values:?}")
    };
    let hex = id.strip_prefix("X509SHA256=").unwrap();
    assert!(
        hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
        "{id}"
    );
    // The same certificate means nothing to the request-header authenticator.
    let verdict = examine(&ders(&[&identity]), &world.trust, now()).front_proxy;
    assert_eq!(
        verdict,
        FrontProxyVerdict::Rejected(Rejection::UnknownIssuer)
    );
}

#[test]
fn an_empty_uid_is_an_error() {
    let world = World::new();
    let mut params = client("alice", &[]);
    params
        .distinguished_name
        .push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), "");
    assert_eq!(
        rejected(x509(&[&signed_by(params, &world.ca)], &world)),
        Rejection::BadUid
    );
}

#[test]
fn intermediates_are_used_in_any_order_and_needed() {
    let world = World::new();
    let outer = signed_by(ca("outer"), &world.ca);
    let inner = signed_by(ca("inner"), &outer);
    let leaf = signed_by(client("alice", &[]), &inner);
    assert!(matches!(
        x509(&[&leaf, &inner, &outer], &world),
        X509Verdict::User(_)
    ));
    assert!(matches!(
        x509(&[&leaf, &outer, &inner], &world),
        X509Verdict::User(_)
    ));
    assert_eq!(
        rejected(x509(&[&leaf, &outer], &world)),
        Rejection::UnknownIssuer
    );
    assert_eq!(rejected(x509(&[&leaf], &world)), Rejection::UnknownIssuer);
}

#[test]
fn intermediates_must_be_allowed_to_sign() {
    let world = World::new();
    let plain = signed_by(client("alice", &[]), &world.ca);
    let forged = signed_by(client("kubernetes-admin", &["system:masters"]), &plain);
    assert!(
        matches!(
            rejected(x509(&[&forged, &plain], &world)),
            Rejection::Refused(_)
        ),
        "a user is no CA"
    );

    let mut params = ca("no-signing");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let limited = signed_by(params, &world.ca);
    let leaf = signed_by(client("alice", &[]), &limited);
    assert!(
        matches!(
            rejected(x509(&[&leaf, &limited], &world)),
            Rejection::Refused(_)
        ),
        "key usage forbids"
    );

    let mut params = ca("servers-only");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let servers = signed_by(params, &world.ca);
    let leaf = signed_by(client("alice", &[]), &servers);
    assert_eq!(
        rejected(x509(&[&leaf, &servers], &world)),
        Rejection::WrongUsage
    );
}

#[test]
fn roots_are_checked_as_go_does() {
    let verdict = |change: &dyn Fn(&mut rcgen::CertificateParams), through: bool| {
        let mut params = ca("root");
        change(&mut params);
        let root = self_signed(params);
        let world = World {
            trust: trust(Some(&[&root]), None),
            ca: root,
            proxy_ca: self_signed(ca("p")),
        };
        let inner = signed_by(ca("inner"), &world.ca);
        if through {
            x509(&[&signed_by(client("alice", &[]), &inner), &inner], &world)
        } else {
            x509(&[&signed_by(client("alice", &[]), &world.ca)], &world)
        }
    };
    assert!(matches!(verdict(&|_| {}, true), X509Verdict::User(_)));
    let expired =
        |params: &mut rcgen::CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    rejected(verdict(&expired, false));
    let future =
        |params: &mut rcgen::CertificateParams| params.not_before = date_time_ymd(2090, 1, 1);
    rejected(verdict(&future, false));
    let no_signing =
        |params: &mut rcgen::CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
    rejected(verdict(&no_signing, false));
    let servers = |p: &mut rcgen::CertificateParams| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    };
    rejected(verdict(&servers, false));
    let short = |params: &mut rcgen::CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
    };
    assert!(matches!(verdict(&short, false), X509Verdict::User(_)));
    rejected(verdict(&short, true));
}

#[test]
fn time_decides_both_ways_and_says_until_when() {
    let world = World::new();
    let mut params = client("alice", &[]);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let (begin, end) = (
        params.not_before.unix_timestamp() as u64,
        params.not_after.unix_timestamp() as u64,
    );
    let chain = ders(&[&signed_by(params, &world.ca)]);

    let early = examine(&chain, &world.trust, at(begin - 1));
    assert_eq!(early.x509, X509Verdict::Rejected(Rejection::NotYetValid));
    assert_eq!(early.valid_until(), begin, "it will be valid then");
    let first = examine(&chain, &world.trust, at(begin));
    assert!(matches!(first.x509, X509Verdict::User(_)));
    assert_eq!(
        first.valid_until(),
        end + 1,
        "notAfter is the last valid second"
    );
    assert!(matches!(
        examine(&chain, &world.trust, at(end)).x509,
        X509Verdict::User(_)
    ));
    let late = examine(&chain, &world.trust, at(end + 1));
    assert_eq!(late.x509, X509Verdict::Rejected(Rejection::Expired));
    assert!(late.valid_until() > end + 1);
}

#[test]
fn usage_absent_or_any_is_fine_and_another_is_not() {
    let world = World::new();
    let with = |usages: Vec<ExtendedKeyUsagePurpose>| {
        let mut params = client("alice", &[]);
        params.extended_key_usages = usages;
        x509(&[&signed_by(params, &world.ca)], &world)
    };
    assert!(matches!(with(vec![]), X509Verdict::User(_)));
    assert!(matches!(
        with(vec![ExtendedKeyUsagePurpose::Any]),
        X509Verdict::User(_)
    ));
    let both = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    assert!(matches!(with(both), X509Verdict::User(_)));
    assert_eq!(
        rejected(with(vec![ExtendedKeyUsagePurpose::ServerAuth])),
        Rejection::WrongUsage
    );
}

#[test]
fn other_authorities_mean_nothing() {
    let world = World::new();
    let impostor = self_signed(ca("kubernetes"));
    rejected(x509(
        &[&signed_by(
            client("kubernetes-admin", &["system:masters"]),
            &impostor,
        )],
        &world,
    ));
    rejected(x509(
        &[&self_signed(client(
            "kubernetes-admin",
            &["system:masters"],
        ))],
        &world,
    ));
    rejected(x509(
        &[&signed_by(
            client("front-proxy-client", &[]),
            &world.proxy_ca,
        )],
        &world,
    ));
    rejected(x509(
        &[
            &signed_by(client("a", &[]), &impostor),
            &impostor,
            &world.ca,
        ],
        &world,
    ));
}

#[test]
fn a_certificate_in_the_bundle_is_its_own_path() {
    let alice = self_signed(client("alice", &["devs"]));
    let mut params = client("old", &[]);
    params.not_after = date_time_ymd(2020, 1, 1);
    let old = self_signed(params);
    let mut params = client("web", &[]);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let web = self_signed(params);
    let trust = trust(Some(&[&alice, &old, &web]), None);
    let verdict = |identity: &Identity| examine(&ders(&[identity]), &trust, now()).x509;
    assert!(matches!(verdict(&alice), X509Verdict::User(_)));
    assert_eq!(verdict(&old), X509Verdict::Rejected(Rejection::Expired));
    assert_eq!(verdict(&web), X509Verdict::Rejected(Rejection::WrongUsage));
    // It is not thereby a CA.
    rejected(verdict(&signed_by(client("bob", &[]), &alice)));
}

#[test]
fn without_a_common_name_nobody() {
    let world = World::new();
    assert_eq!(
        x509(
            &[&signed_by(client("", &["system:masters"]), &world.ca)],
            &world
        ),
        X509Verdict::NoName
    );
}

#[test]
fn a_name_that_no_header_carries_exactly_is_refused() {
    let world = World::new();
    for name in [
        "system:admin ",
        " system:admin",
        "a\tb\t",
        "a\nb",
        "a\0",
        "a\x7f",
    ] {
        let verdict = x509(&[&signed_by(client(name, &[]), &world.ca)], &world);
        assert!(
            matches!(
                verdict,
                X509Verdict::Unspeakable(BadIdentity::Illegal("user name", _))
            ),
            "{name:?} {verdict:?}"
        );
    }
    let verdict = x509(
        &[&signed_by(
            client("alice", &["devs\r\nX-Remote-Group: system:masters"]),
            &world.ca,
        )],
        &world,
    );
    assert!(
        matches!(
            verdict,
            X509Verdict::Unspeakable(BadIdentity::Illegal("group", _))
        ),
        "{verdict:?}"
    );
    let X509Verdict::User(zoe) = x509(&[&signed_by(client("zo\u{eb} k", &[]), &world.ca)], &world)
    else {
        panic!()
    };
    assert_eq!(zoe.name(), "zo\u{eb} k");
}

#[test]
fn front_proxies_need_an_allowed_name() {
    let world = World::new();
    let proxy = |name: &str, allowed: &[&str]| {
        let trust = trust(Some(&[&world.ca]), Some((&[&world.proxy_ca], allowed)));
        examine(
            &ders(&[&signed_by(client(name, &[]), &world.proxy_ca)]),
            &trust,
            now(),
        )
        .front_proxy
    };
    assert_eq!(
        proxy("front-proxy-client", &["a", "front-proxy-client"]),
        FrontProxyVerdict::Verified
    );
    assert_eq!(proxy("anything", &[]), FrontProxyVerdict::Verified);
    assert_eq!(proxy("", &[]), FrontProxyVerdict::Verified);
    let refused =
        |name: &str| FrontProxyVerdict::Rejected(Rejection::NameNotAllowed(name.to_owned()));
    assert_eq!(proxy("other", &["front-proxy-client"]), refused("other"));
    assert_eq!(
        proxy("Front-Proxy-Client", &["front-proxy-client"]),
        refused("Front-Proxy-Client")
    );
    assert_eq!(proxy("", &["front-proxy-client"]), refused(""));
}

#[test]
fn without_authorities_a_certificate_says_nothing() {
    let world = World::new();
    let identity = signed_by(client("alice", &[]), &world.ca);
    let examined = examine(&ders(&[&identity]), &trust(None, None), now());
    assert_eq!(examined.front_proxy, FrontProxyVerdict::NotConfigured);
    assert_eq!(examined.x509, X509Verdict::NotConfigured);
}

#[test]
fn an_identity_stands_for_its_trust_and_time() {
    let world = World::new();
    let mut params = client("alice", &[]);
    params.not_after = date_time_ymd(2030, 1, 1);
    let end = params.not_after.unix_timestamp() as u64;
    let peer = PeerCertificates::new(Some(&ders(&[&signed_by(params, &world.ca)]))).unwrap();
    let first = peer.identity(&world.trust, now());
    assert!(matches!(first.x509, X509Verdict::User(_)));
    assert!(
        std::sync::Arc::ptr_eq(&first, &peer.identity(&world.trust, now())),
        "computed once"
    );
    assert!(matches!(
        peer.identity(&world.trust, at(end + 1)).x509,
        X509Verdict::Rejected(Rejection::Expired)
    ));
    assert!(
        matches!(
            peer.identity(&world.trust, now()).x509,
            X509Verdict::User(_)
        ),
        "a clock set back"
    );
    let mut other = trust(Some(&[&world.proxy_ca]), None);
    other.set_generation(2);
    assert!(matches!(
        peer.identity(&other, now()).x509,
        X509Verdict::Rejected(Rejection::UnknownIssuer)
    ));
    assert!(PeerCertificates::new(None).is_none() && PeerCertificates::new(Some(&[])).is_none());
}
