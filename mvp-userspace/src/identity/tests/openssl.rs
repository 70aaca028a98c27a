//! A thousand chains, each judged by OpenSSL as well. Where Go's crypto/x509 is known to judge otherwise, that is said here.

use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;

use crate::identity::certificate::Roots;
use crate::identity::testing::now;
use crate::tls::testing::{
    Identity, ca, client, critical_policies, pem, self_signed, signed_by, unknown_critical,
    version1,
};

const CHAINS: u32 = 1000;

/// What is out of the ordinary with one certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Oddity {
    None,
    Version1,
    Unknown,
    Policies,
    Expired,
    NotYet,
    ForServers,
    ForBoth,
    ForClients,
    /// Says that it is no CA.
    NoCa,
    /// Does not say whether it is one.
    Silent,
    IsCa,
    NoUsage,
    OtherUsage,
    PathLength(u8),
    /// Signed by another key than its issuer's.
    Forged,
    /// Left out of what the client sends.
    Missing,
}

use Oddity::*;

fn oddity(authority: bool) -> impl Strategy<Value = Oddity> {
    let odd = match authority {
        true => vec![
            Version1,
            Unknown,
            Policies,
            Expired,
            NotYet,
            ForServers,
            ForBoth,
            ForClients,
            NoCa,
            Silent,
            NoUsage,
            OtherUsage,
            PathLength(0),
            PathLength(1),
            PathLength(2),
            Forged,
            Missing,
        ],
        false => vec![
            Version1, Unknown, Policies, Expired, NotYet, ForServers, ForBoth, ForClients, NoCa,
            Silent, IsCa, NoUsage, Forged,
        ],
    };
    prop_oneof![3 => Just(None), 1 => prop::sample::select(odd)]
}

fn params(oddity: Oddity, mut params: CertificateParams) -> CertificateParams {
    match oddity {
        Unknown => params.custom_extensions = vec![unknown_critical()],
        Policies => params.custom_extensions = vec![critical_policies()],
        Expired => params.not_after = date_time_ymd(2020, 1, 1),
        NotYet => params.not_before = date_time_ymd(2090, 1, 1),
        ForServers => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
        ForClients => params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
        ForBoth => {
            params.extended_key_usages = vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ];
        }
        NoCa => params.is_ca = IsCa::ExplicitNoCa,
        Silent => params.is_ca = IsCa::NoCa,
        IsCa => params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained),
        NoUsage => params.key_usages = vec![],
        OtherUsage => params.key_usages = vec![KeyUsagePurpose::CrlSign],
        PathLength(length) => {
            params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Constrained(length));
        }
        None | Version1 | Forged | Missing => {}
    }
    params
}

fn make(oddity: Oddity, base: CertificateParams, issuer: Option<&Identity>) -> Identity {
    let params = params(oddity, base);
    match (oddity, issuer) {
        (Version1, issuer) => version1(params, issuer),
        (Forged, Some(_)) => {
            // The issuer's name with another key.
            let impostor = self_signed(ca(FORGED));
            signed_by(params, &impostor)
        }
        (_, Some(issuer)) => signed_by(params, issuer),
        (_, Option::None) => self_signed(params),
    }
}

/// All authorities have one name here, so that whoever signed, the names match.
const FORGED: &str = "authority";

/// The verdict of `openssl verify` for the same purpose at the same time.
fn openssl(folder: &Path, root: &Identity, chain: &[CertificateDer<'_>]) -> bool {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let root = write("root.pem", &root.pem);
    let leaf = write("leaf.pem", &pem(&chain[0]));
    let rest: String = chain[1..].iter().map(|der| pem(der)).collect();
    let rest = write("rest.pem", &rest);
    let mut command = Command::new("openssl");
    command
        .args([
            "verify",
            "-purpose",
            "sslclient",
            "-no-CApath",
            "-no-CAstore",
        ])
        .args(["-attime", &now().as_secs().to_string()])
        .arg("-CAfile")
        .arg(root);
    if chain.len() > 1 {
        command.arg("-untrusted").arg(rest);
    }
    let status = command
        .arg(leaf)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed by `cargo xtask setup`");
    status.success()
}

#[test]
fn a_thousand_chains_are_judged_as_openssl_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::new(Config {
        cases: CHAINS,
        failure_persistence: Option::None,
        ..Config::default()
    });
    let authorities = prop::collection::vec(oddity(true), 1..=3);
    let counts = std::cell::Cell::new((0u32, 0u32));
    let outcome = runner.run(&(authorities, oddity(false)), |(authorities, of_leaf)| {
        // Names differ by the place in the chain, but for forged ones, whose issuer is another of the same name.
        let mut made: Vec<Identity> = Vec::new();
        for (place, oddity) in authorities.iter().enumerate() {
            let next_is_forged = authorities.get(place + 1).unwrap_or(&of_leaf) == &Forged;
            let name = match next_is_forged {
                true => FORGED.to_owned(),
                false => format!("authority {place}"),
            };
            made.push(make(*oddity, ca(&name), made.last()));
        }
        let leaf = make(of_leaf, client("alice", &["devs"]), made.last());
        let mut chain = vec![leaf.der.clone()];
        for (identity, oddity) in made.iter().zip(&authorities).skip(1).rev() {
            if *oddity != Missing {
                chain.push(identity.der.clone());
            }
        }
        let ours = Roots::new(&[made[0].der.clone()]).verify(&chain, now());
        let theirs = openssl(folder.path(), &made[0], &chain);
        // OpenSSL takes whoever may sign certificates for a CA; to Go one of version 3 must say so in basicConstraints.
        if authorities.contains(&Silent) {
            prop_assert!(ours.is_err());
            return Ok(());
        }
        prop_assert_eq!(ours.is_ok(), theirs, "{:?}", ours);
        let (good, bad) = counts.get();
        counts.set(match theirs {
            true => (good + 1, bad),
            false => (good, bad + 1),
        });
        Ok(())
    });
    outcome.unwrap();
    let (good, bad) = counts.get();
    assert!(
        good > 100 && bad > 100,
        "{good} good and {bad} bad chains say little"
    );
}
