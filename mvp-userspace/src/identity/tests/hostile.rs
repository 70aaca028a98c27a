//! Certificates that are too large, broken, changed or made to cost work.

use super::certificates::{ders, rejected, x509};
use rustls::pki_types::CertificateDer;

use crate::identity::certificate::{MAX_CERTIFICATE, MAX_CHAIN, Rejection};
use crate::identity::examine::{
    FrontProxyVerdict, PeerCertificates, X509Verdict, examine, fuzz_certificate,
};
use crate::identity::testing::{World, now};
use crate::tls::testing::{ca, client, padding, self_signed, signed_by};

#[test]
fn too_much_is_refused_unread() {
    let world = World::new();
    let leaf = signed_by(client("alice", &[]), &world.ca);
    let many = vec![leaf.der.clone(); 1000];
    assert_eq!(
        examine(&many, &world.trust, now()).x509,
        X509Verdict::Rejected(Rejection::ChainTooLong(1000))
    );
    let peer = PeerCertificates::new(Some(&many)).unwrap();
    assert!(matches!(
        peer.identity(&world.trust, now()).x509,
        X509Verdict::Rejected(Rejection::ChainTooLong(_))
    ));
    assert!(matches!(
        examine(&many[..MAX_CHAIN], &world.trust, now()).x509,
        X509Verdict::User(_)
    ));
    let mut params = client("alice", &[]);
    params.custom_extensions = vec![padding(MAX_CERTIFICATE)];
    assert_eq!(
        rejected(x509(&[&signed_by(params, &world.ca)], &world)),
        Rejection::TooLarge
    );
}

#[test]
fn garbage_is_malformed_anywhere_in_the_chain() {
    let world = World::new();
    let leaf = signed_by(client("alice", &[]), &world.ca).der;
    for garbage in [
        &b""[..],
        b"\x30",
        b"\x30\x80",
        b"not a certificate",
        &leaf[..leaf.len() - 1],
        &[&leaf[..], &[0]].concat(),
    ] {
        let garbage = CertificateDer::from(garbage.to_vec());
        for chain in [vec![garbage.clone()], vec![leaf.clone(), garbage.clone()]] {
            let examined = examine(&chain, &world.trust, now());
            assert_eq!(examined.x509, X509Verdict::Rejected(Rejection::Malformed));
            assert_eq!(
                examined.front_proxy,
                FrontProxyVerdict::Rejected(Rejection::Malformed)
            );
        }
    }
    assert_eq!(
        examine(&[], &world.trust, now()).x509,
        X509Verdict::Rejected(Rejection::Malformed)
    );
}

#[test]
fn any_changed_bit_changes_the_verdict() {
    let world = World::new();
    let leaf = signed_by(client("alice", &["devs"]), &world.ca).der;
    for bit in (0..leaf.len() * 8).step_by(11) {
        let mut changed = leaf.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        let verdict = examine(&[changed.into()], &world.trust, now()).x509;
        assert!(
            matches!(verdict, X509Verdict::Rejected(_)),
            "bit {bit}: {verdict:?}"
        );
    }
}

#[test]
fn lookalike_issuers_are_bounded_work() {
    // Same subject and issuer everywhere: every certificate is a candidate issuer of every other.
    let world = World::new();
    let twins: Vec<_> = (0..MAX_CHAIN).map(|_| self_signed(ca("twin"))).collect();
    let leaf = signed_by(client("alice", &[]), &twins[0]);
    let mut chain = ders(&[&leaf]);
    chain.extend(twins[1..].iter().map(|twin| twin.der.clone()));
    assert!(matches!(
        examine(&chain, &world.trust, now()).x509,
        X509Verdict::Rejected(_)
    ));
}

#[test]
fn fuzz_entry_takes_whole_and_cut_lists() {
    let world = World::new();
    let mut data = Vec::new();
    for der in [
        &world.ca.der,
        &signed_by(client("alice", &[]), &world.ca).der,
    ] {
        data.extend(u16::try_from(der.len()).unwrap().to_be_bytes());
        data.extend(der.as_ref());
    }
    for end in (0..data.len()).step_by(7) {
        fuzz_certificate(&data[..end]);
    }
    fuzz_certificate(&data);
}
