//! Probes of real TLS servers with certificates of every kind.

use std::net::Ipv4Addr;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::net::DialFrom;
use crate::tls::provider;
use crate::tls::reload::Reload;
use crate::tls::testing::{Files, Identity, ca, self_signed, server, signed_by};

const TIMEOUT: Duration = Duration::from_secs(20);
const NAME: &str = "kubernetes.default.svc";

/// A server that shows `chain` with the first one's key, and what names it was asked for. It ends with its runtime.
async fn serve(chain: &[&Identity], tls13: bool) -> (Endpoint, UnboundedReceiver<Option<String>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let key = PrivateKeyDer::from_pem_slice(chain[0].key_pem.as_bytes()).unwrap();
    let chain = chain.iter().map(|one| one.der.clone()).collect();
    let version = if tls13 {
        &rustls::version::TLS13
    } else {
        &rustls::version::TLS12
    };
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let endpoint = endpoint(listener.local_addr().unwrap().port());
    let (asked, names) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            assert!(stream.get_ref().1.peer_certificates().is_none());
            // The test may not want to know.
            let _ = asked.send(name);
            // Not a byte, and a polite end.
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        }
    });
    (endpoint, names)
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        name: "cp-b".into(),
        host: "127.0.0.1".into(),
        port,
    }
}

fn issuers(files: &Files, name: Option<&str>) -> Result<Arc<rustls::RootCertStore>, NoIssuer> {
    OwnCa::load(&files.config())
        .unwrap()
        .issuers(name, UnixTime::now())
}

async fn facts(files: &Files, chain: &[&Identity], name: Option<&str>) -> (bool, bool) {
    let roots = issuers(files, name).unwrap();
    let mut both = Vec::new();
    for tls13 in [true, false] {
        let (endpoint, mut names) = serve(chain, tls13).await;
        let probed = probe(
            &endpoint,
            name,
            roots.clone(),
            &DialFrom::anywhere(),
            TIMEOUT,
        )
        .await
        .unwrap();
        assert_eq!(probed.fingerprint, {
            use sha2::Digest;
            <[u8; 32]>::from(sha2::Sha256::digest(&chain[0].der))
        });
        assert_eq!(names.recv().await.unwrap().as_deref(), name);
        both.push((probed.same_ca, probed.valid_for_name));
    }
    assert_eq!(both[0], both[1]);
    both[0]
}

#[tokio::test]
async fn certificates_of_every_kind() {
    let files = Files::new();
    let good = signed_by(server(&[NAME, "localhost"]), &files.ca);
    assert_eq!(facts(&files, &[&good], Some(NAME)).await, (true, true));
    assert_eq!(facts(&files, &[&good], None).await, (true, true));
    assert_eq!(
        facts(&files, &[&good], Some("api.example.org")).await,
        (true, false)
    );
    let other = self_signed(ca("another"));
    let foreign = signed_by(server(&[NAME]), &other);
    assert_eq!(facts(&files, &[&foreign], Some(NAME)).await, (false, true));
    // Trusted by the agent for front proxies, but not the CA of its own certificate.
    let front = signed_by(server(&[NAME]), &files.front_proxy_ca);
    assert_eq!(facts(&files, &[&front], Some(NAME)).await, (false, true));
    // The right CA, but not for servers.
    let mut params = server(&[NAME]);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let client = signed_by(params, &files.ca);
    assert_eq!(facts(&files, &[&client], Some(NAME)).await, (false, true));
    let mut params = server(&[NAME]);
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let expired = signed_by(params, &files.ca);
    assert_eq!(facts(&files, &[&expired], Some(NAME)).await, (false, true));
    // By way of an intermediate.
    let intermediate = signed_by(ca("intermediate"), &files.ca);
    let leaf = signed_by(server(&[NAME]), &intermediate);
    assert_eq!(
        facts(&files, &[&leaf, &intermediate], Some(NAME)).await,
        (true, true)
    );
    assert_eq!(facts(&files, &[&leaf], Some(NAME)).await, (false, true));
    let too_many = [&[&leaf, &intermediate][..], &[&good; 5]].concat();
    assert_eq!(facts(&files, &too_many, Some(NAME)).await, (false, true));
}

#[tokio::test]
async fn the_ca_of_the_certificate_shown_for_the_name() {
    let files = Files::new();
    // A bundle of two: only the one that issued the agent's certificate counts.
    let other = self_signed(ca("another"));
    files.write("ca.crt", &format!("{}{}", files.ca.pem, other.pem));
    let foreign = signed_by(server(&[NAME, "api.example.org"]), &other);
    assert_eq!(
        issuers(&files, Some(NAME)).unwrap().roots.len(),
        2,
        "clientCAFile and upstream.caFile are one file here"
    );
    assert_eq!(facts(&files, &[&foreign], Some(NAME)).await, (false, true));
    // For a name with a certificate of its own it is the other way round.
    files.write_pair("sni", &foreign);
    let mut config = files.config();
    config.sni = vec![crate::config::SniCertificate {
        pair: files.pair("sni"),
        names: vec!["api.example.org".into()],
    }];
    let own = OwnCa::load(&config).unwrap();
    let roots = own
        .issuers(Some("api.example.org"), UnixTime::now())
        .unwrap();
    let (endpoint, _) = serve(&[&foreign], true).await;
    let probed = probe(
        &endpoint,
        Some("api.example.org"),
        roots,
        &DialFrom::anywhere(),
        TIMEOUT,
    )
    .await;
    assert!(probed.unwrap().same_ca);
    let roots = own.issuers(Some(NAME), UnixTime::now()).unwrap();
    let probed = probe(&endpoint, Some(NAME), roots, &DialFrom::anywhere(), TIMEOUT).await;
    assert!(!probed.unwrap().same_ca);
}

#[test]
fn a_certificate_of_no_configured_ca_has_no_issuer_until_files_change() {
    let files = Files::new();
    let other = self_signed(ca("another"));
    files.write_pair("apiserver", &signed_by(server(&[NAME]), &other));
    let own = OwnCa::load(&files.config()).unwrap();
    let found = |own: &OwnCa| own.issuers(Some(NAME), UnixTime::now()).map(|_| ());
    assert_eq!(found(&own), Err(NoIssuer));
    files.write("ca.crt", &format!("{}{}", files.ca.pem, other.pem));
    own.refresh();
    assert_eq!(found(&own), Ok(()));
    let mut params = server(&[NAME]);
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    files.write_pair("apiserver", &signed_by(params, &files.ca));
    own.refresh();
    assert_eq!(found(&own), Err(NoIssuer));
}

#[tokio::test]
async fn what_is_no_handshake_is_an_error() {
    let files = Files::new();
    let roots = issuers(&files, None).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let ask = |name: Option<&'static str>, timeout| {
        let roots = roots.clone();
        async move {
            probe(&endpoint(port), name, roots, &DialFrom::anywhere(), timeout)
                .await
                .unwrap_err()
        }
    };
    for name in ["", "10.0.0.1", "a b", "-", "a..b"] {
        assert_eq!(
            ask(Some(name), TIMEOUT).await,
            ProbeError::Name(name.into())
        );
    }
    // Nobody accepts.
    assert_eq!(
        ask(Some(NAME), Duration::from_millis(50)).await,
        ProbeError::TimedOut
    );
    let garbage = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400\r\n\r\n").await;
        }
    };
    tokio::select! {
        error = ask(Some(NAME), TIMEOUT) => assert!(matches!(error, ProbeError::Handshake(_)), "{error}"),
        () = garbage => unreachable!(),
    }
    // Bound, so that nobody else gets the port, but nobody listens.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let port = closed.local_addr().unwrap().port();
    let error = probe(
        &endpoint(port),
        Some(NAME),
        roots,
        &DialFrom::anywhere(),
        TIMEOUT,
    )
    .await
    .unwrap_err();
    assert!(matches!(error, ProbeError::Connect(_)), "{error}");
}

#[tokio::test]
async fn a_prober_probes_what_is_asked_for() {
    let files = Files::new();
    let good = signed_by(server(&[NAME]), &files.ca);
    let (endpoint, mut names) = serve(&[&good], true).await;
    let own = Arc::new(OwnCa::load(&files.config()).unwrap());
    let prober = Prober::new(own, TIMEOUT);
    let servers = [endpoint];
    prober.round(&servers, &DialFrom::anywhere()).await;
    let view = || prober.view("cp-b", Some(NAME), Instant::now());
    assert_eq!(view(), None);
    prober.round(&servers, &DialFrom::anywhere()).await;
    let found = view().unwrap();
    assert!(found.same_ca && found.valid_for_name);
    prober.round(&servers, &DialFrom::anywhere()).await;
    assert_eq!(prober.view("cp-x", Some(NAME), Instant::now()), None);
    prober.round(&servers, &DialFrom::anywhere()).await;
    assert_eq!(
        prober.last_error("cp-x", Some(NAME)).as_deref(),
        Some("the server left the membership")
    );
    // Asked once only, and not again at once: the next that asks is this one.
    let roots = issuers(&files, None).unwrap();
    probe(&servers[0], None, roots, &DialFrom::anywhere(), TIMEOUT)
        .await
        .unwrap();
    assert_eq!(names.recv().await.unwrap().as_deref(), Some(NAME));
    assert_eq!(names.recv().await.unwrap(), None);
}
