use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::{client_builder, connect};
use crate::identity::{Caller, TrustCell, authenticate, examine};
use crate::tls::testing::{Files, Identity, ca, client, self_signed, server, signed_by};
use crate::tls::{Alpn, ClientTls, IdentityClass, Reload, Reloader, ServerTls};

/// Long enough that only an event can explain a reload.
const NEVER: Duration = Duration::from_secs(3600);

/// The certificate that a new client meets.
async fn served(tls: &ServerTls, files: &Files) -> CertificateDer<'static> {
    let config = client_builder(&files.ca, rustls::ALL_VERSIONS).with_no_client_auth();
    connect(tls.config(), Arc::new(config), "localhost")
        .await
        .unwrap()
        .server_chain
        .unwrap()
        .remove(0)
}

async fn until_served(tls: &ServerTls, files: &Files, expected: &Identity) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while served(tls, files).await != expected.der {
        assert!(Instant::now() < deadline, "not reloaded");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn new_serving(files: &Files) -> Identity {
    signed_by(server(&["localhost", "kubernetes.default.svc"]), &files.ca)
}

fn counts(owner: &dyn Reload, key: &str) -> (u64, u64) {
    let files = owner.files();
    let file = files.iter().find(|file| file.key == key).unwrap();
    (
        file.successes.load(Ordering::Relaxed),
        file.failures.load(Ordering::Relaxed),
    )
}

#[tokio::test]
async fn files_replaced_by_renaming() {
    let files = Files::new();
    let tls = Arc::new(ServerTls::load(&files.config()).unwrap());
    let task = tokio::spawn(Reloader::new(vec![tls.clone()]).run(NEVER));
    for _ in 0..2 {
        let new = new_serving(&files);
        files.write_pair("new", &new);
        for kind in ["key", "crt"] {
            let path = |name: &str| files.path().join(format!("{name}.{kind}"));
            std::fs::rename(path("new"), path("apiserver")).unwrap();
        }
        until_served(&tls, &files, &new).await;
    }
    task.abort();
}

#[tokio::test]
async fn files_written_in_place() {
    let files = Files::new();
    let tls = Arc::new(ServerTls::load(&files.config()).unwrap());
    let task = tokio::spawn(Reloader::new(vec![tls.clone()]).run(NEVER));
    let new = new_serving(&files);
    files.write_pair("apiserver", &new);
    until_served(&tls, &files, &new).await;
    task.abort();
}

/// As the kubelet projects a Secret: files are links into `..data`, itself a link to a directory that is replaced.
fn project(files: &Files, version: &str, identity: &Identity) {
    let directory = files.path().join(format!("..{version}"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("tls.crt"), &identity.pem).unwrap();
    std::fs::write(directory.join("tls.key"), &identity.key_pem).unwrap();
    symlink(format!("..{version}"), files.path().join("..data_tmp")).unwrap();
    std::fs::rename(files.path().join("..data_tmp"), files.path().join("..data")).unwrap();
}

#[tokio::test]
async fn a_projected_secret_is_swapped() {
    let files = Files::new();
    let first = new_serving(&files);
    project(&files, "1", &first);
    for name in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{name}"), files.path().join(name)).unwrap();
    }
    let mut config = files.config();
    config.serving = files.pair("tls");
    let tls = Arc::new(ServerTls::load(&config).unwrap());
    assert_eq!(served(&tls, &files).await, first.der);
    let task = tokio::spawn(Reloader::new(vec![tls.clone()]).run(NEVER));
    let second = new_serving(&files);
    project(&files, "2", &second);
    std::fs::remove_dir_all(files.path().join("..1")).unwrap();
    until_served(&tls, &files, &second).await;
    task.abort();
}

#[tokio::test]
async fn polling_sees_what_watching_cannot() {
    // The files are links into a directory that nobody watches.
    let (files, elsewhere) = (Files::new(), Files::new());
    elsewhere.write_pair("apiserver", &new_serving(&files));
    for name in ["crt", "key"] {
        symlink(
            elsewhere.path().join(format!("apiserver.{name}")),
            files.path().join(format!("link.{name}")),
        )
        .unwrap();
    }
    let mut config = files.config();
    config.serving = files.pair("link");
    let tls = Arc::new(ServerTls::load(&config).unwrap());
    let task = tokio::spawn(Reloader::new(vec![tls.clone()]).run(Duration::from_millis(20)));
    let new = new_serving(&files);
    elsewhere.write_pair("apiserver", &new);
    until_served(&tls, &files, &new).await;
    task.abort();
}

#[tokio::test]
async fn a_change_between_load_and_run_is_seen() {
    let files = Files::new();
    let tls = Arc::new(ServerTls::load(&files.config()).unwrap());
    let new = new_serving(&files);
    files.write_pair("apiserver", &new);
    let task = tokio::spawn(Reloader::new(vec![tls.clone()]).run(NEVER));
    until_served(&tls, &files, &new).await;
    task.abort();
}

#[tokio::test]
async fn bad_files_change_nothing_and_are_counted_once() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    let old = served(&tls, &files).await;
    assert!(tls.refresh().is_empty());

    files.write("apiserver.key", &self_signed(client("other", &[])).key_pem);
    let outcomes = tls.refresh();
    let [outcome] = outcomes.as_slice() else {
        panic!("{outcomes:?}")
    };
    assert_eq!(outcome.key, "serving.certFile");
    assert_eq!(
        outcome.result.as_ref().unwrap_err().key(),
        "serving.keyFile"
    );
    assert!(
        tls.refresh().is_empty(),
        "the same bad file again is no news"
    );
    assert_eq!(counts(&tls, "serving.keyFile"), (0, 1));
    assert_eq!(counts(&tls, "serving.certFile"), (0, 0));
    assert_eq!(served(&tls, &files).await, old);

    files.write("apiserver.crt", "");
    assert!(tls.refresh()[0].result.is_err());
    std::fs::remove_file(files.path().join("apiserver.crt")).unwrap();
    assert!(tls.refresh()[0].result.is_err());
    assert_eq!(counts(&tls, "serving.certFile"), (0, 2));
    assert_eq!(served(&tls, &files).await, old);

    let new = new_serving(&files);
    files.write_pair("apiserver", &new);
    assert!(tls.refresh()[0].result.is_ok());
    assert_eq!(counts(&tls, "serving.certFile"), (1, 2));
    assert_eq!(counts(&tls, "serving.keyFile"), (1, 1));
    assert_eq!(served(&tls, &files).await, new.der);
}

#[tokio::test]
async fn one_bad_file_does_not_hold_up_another() {
    let files = Files::new();
    let tls = ServerTls::load(&files.config()).unwrap();
    files.write("ca.crt", "broken");
    let new = new_serving(&files);
    files.write_pair("apiserver", &new);
    tls.refresh();
    assert_eq!(served(&tls, &files).await, new.der);
}

#[tokio::test]
async fn the_agents_own_certificate_and_roots_are_replaced() {
    let (files, server_files) = (Files::new(), Files::new());
    let tls = ClientTls::load(&files.config()).unwrap();
    let server = ServerTls::load(&files.config()).unwrap();
    let dial = || {
        connect(
            server.config(),
            tls.config(IdentityClass::FrontProxy, Alpn::H2OrHttp1),
            "localhost",
        )
    };
    let before = dial().await.unwrap().client_chain.unwrap();
    let new = signed_by(client("front-proxy-client", &[]), &files.front_proxy_ca);
    files.write_pair("front-proxy-client", &new);
    assert!(tls.refresh().iter().all(|outcome| outcome.result.is_ok()));
    let seen = dial().await.unwrap();
    assert_eq!(seen.client_chain, Some(vec![new.der]));
    assert_ne!(seen.client_chain, Some(before));
    assert_eq!(counts(&tls, "upstream.clientCertFile"), (1, 0));

    let other = ServerTls::load(&server_files.config()).unwrap();
    let dial = || {
        connect(
            other.config(),
            tls.config(IdentityClass::Bare, Alpn::Http1),
            "localhost",
        )
    };
    dial().await.unwrap_err();
    files.write(
        "ca.crt",
        &format!("{}\n{}", files.ca.pem, server_files.ca.pem),
    );
    assert!(tls.refresh().iter().all(|outcome| outcome.result.is_ok()));
    dial().await.unwrap();
}

#[test]
fn trust_follows_its_files() {
    let files = Files::new();
    let cell = TrustCell::open(&files.config()).unwrap();
    let new_ca = self_signed(ca("new"));
    let alice = signed_by(client("alice", &[]), &new_ca).der;
    let call = || {
        let trust = cell.load();
        let identity = examine(std::slice::from_ref(&alice), &trust, UnixTime::now());
        authenticate(Some(&identity), &http::HeaderMap::new(), &trust)
    };
    let first = cell.load();
    assert!(call().is_err());
    assert!(cell.refresh().is_empty() && cell.load().generation() == first.generation());

    files.write("ca.crt", &format!("{}{}", files.ca.pem, new_ca.pem));
    assert!(cell.refresh()[0].result.is_ok());
    assert_ne!(cell.load().generation(), first.generation());
    assert!(matches!(call(), Ok(Caller::Asserted(user)) if user.name() == "alice"));

    files.write("ca.crt", "");
    assert!(cell.refresh()[0].result.is_err());
    assert!(call().is_ok(), "the old bundle stays");
    assert_eq!(counts(&cell, "clientCAFile"), (1, 1));

    files.write("ca.crt", &files.ca.pem);
    cell.refresh();
    assert!(call().is_err(), "an authority taken out is trusted no more");
}

#[test]
fn expiry_and_files_for_the_metrics() {
    let files = Files::new();
    let mut params = server(&["localhost"]);
    params.not_after = rcgen::date_time_ymd(2031, 1, 1);
    let end = params.not_after.unix_timestamp();
    files.write_pair("apiserver", &signed_by(params, &files.ca));
    let mut params = ca("long");
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    let bundle_end = params.not_after.unix_timestamp();
    let mut short = ca("short");
    short.not_after = rcgen::date_time_ymd(2029, 1, 1);
    files.write(
        "front-proxy-ca.crt",
        &format!("{}{}", self_signed(params).pem, self_signed(short).pem),
    );
    let config = files.config();
    let reloader = Reloader::new(vec![
        Arc::new(ServerTls::load(&config).unwrap()),
        Arc::new(ClientTls::load(&config).unwrap()),
        Arc::new(TrustCell::open(&config).unwrap()),
    ]);
    let stats = reloader.stats();
    let files = stats.files();
    let expiry: Vec<_> = files
        .iter()
        .map(|file| (file.key.as_str(), file.not_after()))
        .collect();
    let ca_end = rcgen::date_time_ymd(4096, 1, 1).unix_timestamp();
    assert_eq!(
        expiry,
        [
            ("serving.certFile", Some(end)),
            ("serving.keyFile", None),
            ("upstream.caFile", Some(ca_end)),
            ("upstream.clientCertFile", Some(ca_end)),
            ("upstream.clientKeyFile", None),
            ("clientCAFile", Some(ca_end)),
            ("requestHeader.clientCAFile", Some(bundle_end)),
        ]
    );
    let pem = CertificateDer::from_pem_file(&config.serving.cert_file).unwrap();
    assert!(!pem.is_empty());
}
