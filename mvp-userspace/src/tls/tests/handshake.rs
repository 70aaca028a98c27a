use std::sync::{Arc, Mutex};

use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{client_builder, connect, roots};
use crate::config::SniCertificate;
use crate::tls::testing::{
    Files, Identity, ca, client, critical_policies, padding, self_signed, server, signed_by,
    unknown_critical, version1,
};
use crate::tls::{Alpn, ClientTls, IdentityClass, ServerTls, provider};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
const NAME: &str = "localhost";

fn key(identity: &Identity) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap()
}

fn with_certificate(
    ca: &Identity,
    version: &'static SupportedProtocolVersion,
    chain: &[&Identity],
) -> ClientConfig {
    let ders = chain.iter().map(|identity| identity.der.clone()).collect();
    client_builder(ca, &[version])
        .with_client_auth_cert(ders, key(chain[0]))
        .unwrap()
}

#[tokio::test]
async fn versions_and_protocols() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    for (version, number) in [
        (&TLS12, ProtocolVersion::TLSv1_2),
        (&TLS13, ProtocolVersion::TLSv1_3),
    ] {
        for (offered, chosen) in [
            (vec!["http/1.1", "h2"], Some("h2")),
            (vec!["http/1.1"], Some("http/1.1")),
            (vec!["spdy/3", "http/1.1"], Some("http/1.1")),
            (vec![], None),
        ] {
            let mut config = client_builder(&files.ca, &[version]).with_no_client_auth();
            config.alpn_protocols = offered.iter().map(|p| p.as_bytes().to_vec()).collect();
            let seen = connect(tls.config(), Arc::new(config), NAME).await.unwrap();
            assert_eq!(seen.version, Some(number));
            assert_eq!(seen.alpn.as_deref(), chosen.map(str::as_bytes));
            assert_eq!(seen.client_chain, None, "a certificate is not required");
        }
    }
}

#[tokio::test]
async fn any_certificate_passes_the_handshake_with_its_chain() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    let inner = signed_by(ca("inner"), &files.ca);
    let alice = signed_by(client("alice", &[]), &inner);
    let stranger = self_signed(client("stranger", &[]));
    let mut params = client("old", &[]);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = signed_by(params, &files.ca);
    for version in VERSIONS {
        for chain in [&[&alice, &inner][..], &[&stranger], &[&expired]] {
            let config = with_certificate(&files.ca, version, chain);
            let seen = connect(tls.config(), Arc::new(config), NAME).await.unwrap();
            assert_eq!(
                seen.client_chain,
                Some(chain.iter().map(|identity| identity.der.clone()).collect())
            );
        }
    }
}

/// A client that presents these certificates without looking at them itself.
fn presenting(
    ca: &Identity,
    version: &'static SupportedProtocolVersion,
    chain: &[&Identity],
    signer: &Identity,
) -> ClientConfig {
    let ders = chain.iter().map(|identity| identity.der.clone()).collect();
    let signer = provider().key_provider.load_private_key(key(signer));
    let certified = Arc::new(CertifiedKey::new(ders, signer.unwrap()));
    client_builder(ca, &[version])
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

#[tokio::test]
async fn whatever_a_certificate_says_the_handshake_completes_for_who_holds_its_key() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    let with = |extension: rcgen::CustomExtension| {
        let mut params = client("alice", &[]);
        params.custom_extensions = vec![extension];
        signed_by(params, &files.ca)
    };
    let thief = self_signed(client("thief", &[]));
    for alice in [
        version1(client("alice", &[]), Some(&files.ca)),
        version1(client("alice", &[]), None),
        with(critical_policies()),
        with(unknown_critical()),
        signed_by(ca("alice"), &files.ca),
    ] {
        for version in VERSIONS {
            let config = presenting(&files.ca, version, &[&alice], &alice);
            let seen = connect(tls.config(), Arc::new(config), NAME).await.unwrap();
            assert_eq!(seen.client_chain, Some(vec![alice.der.clone()]));
            let stolen = presenting(&files.ca, version, &[&alice], &thief);
            connect(tls.config(), Arc::new(stolen), NAME)
                .await
                .unwrap_err();
        }
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    let admin = signed_by(client("kubernetes-admin", &["system:masters"]), &files.ca);
    let thief = self_signed(client("thief", &[]));
    for version in VERSIONS {
        let signer = provider()
            .key_provider
            .load_private_key(key(&thief))
            .unwrap();
        let stolen = Arc::new(CertifiedKey::new(vec![admin.der.clone()], signer));
        let config = client_builder(&files.ca, &[version])
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(stolen)));
        let error = connect(tls.config(), Arc::new(config), NAME)
            .await
            .unwrap_err();
        let error = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>())
            .unwrap();
        assert_eq!(
            *error,
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature)
        );
    }
}

#[tokio::test]
async fn garbage_for_a_certificate_is_refused() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    let signer = provider()
        .key_provider
        .load_private_key(key(&files.ca))
        .unwrap();
    let garbage = Arc::new(CertifiedKey::new(
        vec![CertificateDer::from(b"garbage".to_vec())],
        signer,
    ));
    for version in VERSIONS {
        let config = client_builder(&files.ca, &[version])
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(garbage.clone())));
        assert!(connect(tls.config(), Arc::new(config), NAME).await.is_err());
    }
}

#[tokio::test]
async fn a_resumed_session_still_shows_the_chain() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    let alice = signed_by(client("alice", &[]), &files.ca);
    for version in VERSIONS {
        let config = Arc::new(with_certificate(&files.ca, version, &[&alice]));
        let first = connect(tls.config(), config.clone(), NAME).await.unwrap();
        assert_ne!(first.kind, Some(HandshakeKind::Resumed));
        let second = connect(tls.config(), config.clone(), NAME).await.unwrap();
        assert_eq!(second.kind, Some(HandshakeKind::Resumed), "{version:?}");
        assert_eq!(second.client_chain, Some(vec![alice.der.clone()]));
    }
}

#[tokio::test]
async fn chains_too_large_for_a_ticket_shake_hands_in_full() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    // rustls reads handshake messages up to 64 KiB.
    for bytes in [20_000, 60_000] {
        let mut params = client("alice", &[]);
        params.custom_extensions = vec![padding(bytes)];
        let large = signed_by(params, &files.ca);
        for version in VERSIONS {
            let config = Arc::new(with_certificate(&files.ca, version, &[&large]));
            for _ in 0..2 {
                let seen = connect(tls.config(), config.clone(), NAME).await.unwrap();
                assert_ne!(seen.kind, Some(HandshakeKind::Resumed));
                assert_eq!(seen.client_chain, Some(vec![large.der.clone()]));
            }
        }
    }
}

/// Remembers what the server asked for, and presents nothing.
#[derive(Debug, Default)]
struct Asked(Mutex<Option<Vec<Vec<u8>>>>);

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        *self.0.lock().unwrap() = Some(hints.iter().map(|hint| hint.to_vec()).collect());
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn the_subjects_of_both_authorities_are_hinted() {
    let files = Files::new();
    let subject = |identity: &Identity| {
        X509Certificate::from_der(&identity.der)
            .unwrap()
            .1
            .subject()
            .as_raw()
            .to_vec()
    };
    let mut both = files.config();
    files.write("ca.crt", &format!("{}{}", files.ca.pem, files.ca.pem));
    let mut none = files.config();
    (none.client_ca_file, none.request_header) = (None, None);
    for (config, hints) in [
        (
            &mut both,
            Some(vec![subject(&files.ca), subject(&files.front_proxy_ca)]),
        ),
        (&mut none, None),
    ] {
        let tls = ServerTls::load(config).unwrap();
        for version in VERSIONS {
            let asked = Arc::new(Asked::default());
            let config =
                client_builder(&files.ca, &[version]).with_client_cert_resolver(asked.clone());
            connect(tls.config(), Arc::new(config), NAME).await.unwrap();
            assert_eq!(*asked.0.lock().unwrap(), hints);
        }
    }
}

#[tokio::test]
async fn certificates_by_server_name() {
    let files = Files::new();
    let cert = |file: &str, names: &[&str], common_name: &str| {
        let mut params = server(names);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, common_name);
        let identity = signed_by(params, &files.ca);
        files.write_pair(file, &identity);
        identity.der
    };
    let explicit = cert(
        "explicit",
        &["api.example.org", "a.wild.org", "b.wild.org"],
        "x y",
    );
    let own = cert(
        "own",
        &["own.example.org", "api.example.org", "second.example.org"],
        "x y",
    );
    let named = cert("named", &["cn.example.org"], "cn.example.org");
    cert("later", &["second.example.org", "own.example.org"], "x y");
    let sni = |file: &str, names: &[&str]| SniCertificate {
        pair: files.pair(file),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    };
    let mut config = files.config();
    config.sni = vec![
        sni("own", &[]),
        sni("explicit", &["API.example.org", "*.wild.org"]),
        sni("named", &[]),
        sni("later", &[]),
    ];
    let tls = ServerTls::load(&config).unwrap();
    let default = files_der(&files, "apiserver.crt");
    for (name, expected) in [
        ("localhost", &default),
        ("own.example.org", &own),
        ("second.example.org", &own),
        ("api.example.org", &explicit),
        ("a.wild.org", &explicit),
        ("b.wild.org", &explicit),
        ("cn.example.org", &named),
    ] {
        let config = client_builder(&files.ca, &VERSIONS).with_no_client_auth();
        let seen = connect(tls.config(), Arc::new(config), name).await.unwrap();
        assert_eq!(
            seen.server_chain.as_deref(),
            Some(std::slice::from_ref(expected)),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_client_that_dials_an_address_gets_its_certificate() {
    let files = Files::new();
    let by_address = signed_by(server(&["127.0.0.1"]), &files.ca);
    files.write_pair("address", &by_address);
    let mut config = files.config();
    config.sni = vec![SniCertificate {
        pair: files.pair("address"),
        names: vec!["127.0.0.1".to_owned()],
    }];
    let tls = ServerTls::load(&config).unwrap();
    let client = || Arc::new(client_builder(&files.ca, &VERSIONS).with_no_client_auth());
    for local in ["127.0.0.1", "::ffff:127.0.0.1"] {
        let seen = connect(
            tls.config_for(local.parse().unwrap()),
            client(),
            "127.0.0.1",
        )
        .await
        .unwrap();
        assert_eq!(seen.server_chain, Some(vec![by_address.der.clone()]));
        let seen = connect(tls.config_for(local.parse().unwrap()), client(), NAME)
            .await
            .unwrap();
        assert_eq!(
            seen.server_chain.unwrap(),
            [files_der(&files, "apiserver.crt")],
            "a name is still a name"
        );
    }
    let other = tls.config_for("127.0.0.2".parse().unwrap());
    assert!(
        connect(other, client(), "127.0.0.1").await.is_err(),
        "the default is not valid for the address"
    );
}

/// A kube-apiserver that takes certificates of the front-proxy CA, and none.
fn upstream(files: &Files) -> Arc<ServerConfig> {
    let serving = signed_by(server(&["kubernetes.default.svc"]), &files.ca);
    let verifier = WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(&files.front_proxy_ca)),
        provider(),
    )
    .allow_unauthenticated()
    .build()
    .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![serving.der.clone()], key(&serving))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

#[tokio::test]
async fn the_agent_shows_its_certificate_in_its_class_only() {
    let files = Files::new();
    let tls = ClientTls::load(&files.config()).unwrap();
    let server = upstream(&files);
    let name = tls.server_name().to_str().into_owned();
    assert_eq!(name, "kubernetes.default.svc");
    assert!(tls.has_front_proxy());
    for (alpn, protocol) in [(Alpn::H2OrHttp1, "h2"), (Alpn::Http1, "http/1.1")] {
        for round in 0..2 {
            let seen = connect(
                server.clone(),
                tls.config(IdentityClass::FrontProxy, alpn),
                &name,
            )
            .await
            .unwrap();
            assert_eq!(
                seen.client_chain,
                Some(vec![files_der(&files, "front-proxy-client.crt")])
            );
            assert_eq!(seen.alpn.as_deref(), Some(protocol.as_bytes()));
            assert_eq!(seen.kind == Some(HandshakeKind::Resumed), round == 1);

            // Sessions with the certificate exist; none of them may be resumed without it.
            let seen = connect(server.clone(), tls.config(IdentityClass::Bare, alpn), &name)
                .await
                .unwrap();
            assert_eq!(seen.client_chain, None);
            assert_eq!(seen.kind == Some(HandshakeKind::Resumed), round == 1);
        }
    }
}

#[tokio::test]
async fn without_a_pair_no_class_shows_a_certificate() {
    let files = Files::new();
    let mut config = files.config();
    config.upstream.client = None;
    let tls = ClientTls::load(&config).unwrap();
    assert!(!tls.has_front_proxy());
    let config = tls.config(IdentityClass::FrontProxy, Alpn::Http1);
    let seen = connect(upstream(&files), config, "kubernetes.default.svc")
        .await
        .unwrap();
    assert_eq!(seen.client_chain, None);
}

#[tokio::test]
async fn a_server_of_another_authority_or_name_is_refused() {
    let files = Files::new();
    let tls = ClientTls::load(&files.config()).unwrap();
    let config = || tls.config(IdentityClass::Bare, Alpn::Http1);
    connect(upstream(&files), config(), "kubernetes.default.svc")
        .await
        .unwrap();
    connect(upstream(&files), config(), "localhost")
        .await
        .unwrap_err();
    connect(upstream(&Files::new()), config(), "kubernetes.default.svc")
        .await
        .unwrap_err();
}

fn files_der(files: &Files, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(files.path().join(name)).unwrap()
}
