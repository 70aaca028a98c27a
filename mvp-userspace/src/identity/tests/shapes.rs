//! Certificates that webpki refuses and Go's crypto/x509 does not, and the other way round.

use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, NameConstraints, SanType};

use crate::identity::certificate::Rejection;
use crate::identity::examine::{X509Verdict, examine};
use crate::identity::testing::{World, header_config, now, trust};
use crate::identity::trust::HeaderNames;
use crate::identity::user::BadIdentity;
use crate::tls::testing::{
    Identity, ca, client, critical_policies, self_signed, signed_by, unknown_critical, version1,
};

fn verdict(chain: &[&Identity], world: &World) -> X509Verdict {
    let ders: Vec<_> = chain.iter().map(|identity| identity.der.clone()).collect();
    examine(&ders, &world.trust, now()).x509
}

/// The user's name, or why there is none.
fn user(chain: &[&Identity], world: &World) -> Result<String, Rejection> {
    match verdict(chain, world) {
        X509Verdict::User(user) => Ok(user.name().to_owned()),
        X509Verdict::Rejected(rejection) => Err(rejection),
        other => panic!("{other:?}"),
    }
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = client("alice", &["devs"]);
    change(&mut params);
    params
}

#[test]
fn what_kube_apiserver_takes_for_a_user() {
    let world = World::new();
    let alice = Ok("alice".to_owned());
    let old = version1(client("alice", &["devs"]), Some(&world.ca));
    assert_eq!(user(&[&old], &world), alice, "version 1");
    let policies = with(|params| params.custom_extensions = vec![critical_policies()]);
    assert_eq!(user(&[&signed_by(policies, &world.ca)], &world), alice);
    for constraints in [
        BasicConstraints::Unconstrained,
        BasicConstraints::Constrained(0),
    ] {
        let authority = with(|params| params.is_ca = IsCa::Ca(constraints));
        assert_eq!(
            user(&[&signed_by(authority, &world.ca)], &world),
            alice,
            "a CA"
        );
    }
    // Through an intermediate, and with a root of version 1.
    let inner = signed_by(ca("inner"), &world.ca);
    let old = version1(client("alice", &[]), Some(&inner));
    assert_eq!(user(&[&old, &inner], &world), alice);
    let root = version1(ca("root"), None);
    let world = World {
        trust: trust(Some(&[&root]), None),
        ca: root,
        proxy_ca: self_signed(ca("p")),
    };
    assert_eq!(
        user(&[&signed_by(client("alice", &[]), &world.ca)], &world),
        alice
    );
    assert_eq!(
        user(&[&version1(client("alice", &[]), Some(&world.ca))], &world),
        alice
    );
}

#[test]
fn what_it_takes_for_nobody() {
    let world = World::new();
    let unknown = with(|params| params.custom_extensions = vec![unknown_critical()]);
    assert!(matches!(
        user(&[&signed_by(unknown, &world.ca)], &world),
        Err(Rejection::Refused(_))
    ));
    // Nobody is a CA without saying so: version 1 is none in the middle, nor is version 3 without basicConstraints.
    let old = version1(ca("inner"), Some(&world.ca));
    let leaf = signed_by(client("alice", &[]), &old);
    assert!(matches!(
        user(&[&leaf, &old], &world),
        Err(Rejection::Refused(_))
    ));
    let mut params = ca("inner");
    params.is_ca = IsCa::NoCa;
    let silent = signed_by(params, &world.ca);
    let leaf = signed_by(client("alice", &[]), &silent);
    assert!(matches!(
        user(&[&leaf, &silent], &world),
        Err(Rejection::Refused(_))
    ));
    // An unknown critical extension of a CA ends the path as one of the client does.
    let mut params = ca("inner");
    params.custom_extensions = vec![unknown_critical()];
    let strange = signed_by(params, &world.ca);
    let leaf = signed_by(client("alice", &[]), &strange);
    assert!(matches!(
        user(&[&leaf, &strange], &world),
        Err(Rejection::Refused(_))
    ));
    // The right name and the wrong key.
    let impostor = version1(ca("kubernetes"), None);
    assert_eq!(
        user(&[&version1(client("alice", &[]), Some(&impostor))], &world),
        Err(Rejection::UnknownIssuer)
    );
}

#[test]
fn a_second_way_is_found_where_the_first_ends() {
    // Two certificates of one CA: one that its root has not signed, and one that it has.
    let world = World::new();
    let strange = self_signed(ca("elsewhere"));
    let inner = signed_by(ca("inner"), &world.ca);
    let mut again = signed_by(ca("inner"), &strange);
    let leaf = signed_by(client("alice", &[]), &inner);
    for chain in [[&leaf, &again, &inner], [&leaf, &inner, &again]] {
        assert_eq!(user(&chain, &world), Ok("alice".to_owned()));
    }
    again = signed_by(ca("inner"), &world.ca);
    assert_eq!(
        user(&[&leaf, &again], &world),
        Err(Rejection::UnknownIssuer)
    );
}

#[test]
fn name_constraints_bind_alternative_names() {
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let world = World::new();
    let mut params = ca("inner");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
        excluded_subtrees: vec![GeneralSubtree::DnsName("bad.example.com".to_owned())],
    });
    let inner = signed_by(params, &world.ca);
    for (names, allowed) in [
        (vec![], true),
        (vec![dns("a.example.com")], true),
        (vec![dns("a.example.com"), dns("example.org")], false),
        (vec![dns("x.bad.example.com")], false),
        // The name is of a kind that is not constrained.
        (
            vec![SanType::Rfc822Name("a@example.org".try_into().unwrap())],
            true,
        ),
    ] {
        let leaf = signed_by(
            with(|params| params.subject_alt_names = names.clone()),
            &inner,
        );
        assert_eq!(user(&[&leaf, &inner], &world).is_ok(), allowed, "{names:?}");
    }
    // Critical, with a kind of name that Go does not know.
    let mut params = ca("inner");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DirectoryName(
            rcgen::DistinguishedName::new(),
        )],
        excluded_subtrees: vec![],
    });
    let inner = signed_by(params, &world.ca);
    let leaf = signed_by(client("alice", &[]), &inner);
    assert!(matches!(
        user(&[&leaf, &inner], &world),
        Err(Rejection::Refused(_))
    ));
}

#[test]
fn a_user_that_would_arrive_with_less_is_refused() {
    let world = World::new();
    let empty = signed_by(client("alice", &["devs", ""]), &world.ca);
    assert_eq!(
        verdict(&[&empty], &world),
        X509Verdict::Unspeakable(BadIdentity::EmptyGroup)
    );
    let uid = || {
        with(|params| {
            let uid = rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
            params.distinguished_name.push(uid, "1042");
        })
    };
    let named = signed_by(uid(), &world.ca);
    assert_eq!(user(&[&named], &world), Ok("alice".to_owned()));
    let mut header = header_config();
    header.uid_headers = vec![];
    let trust =
        trust(Some(&[&world.ca]), None).with_names(HeaderNames::new(Some(&header)).unwrap());
    let silent = examine(std::slice::from_ref(&named.der), &trust, now());
    assert_eq!(
        silent.x509,
        X509Verdict::Unspeakable(BadIdentity::NoUidHeader)
    );
}
