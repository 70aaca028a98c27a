//! When servers are proved.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mvp::config;
use mvp::discovery::{Discovery, HubSettings, Prover, SyncCounters};
use mvp::identity::HeaderNames;
use mvp::identity::proof::{OwnUser, REVIEWS};
use mvp::net::DialFrom;
use mvp_tests::agent::settings;
use mvp_tests::fixtures::{NEVER, plane, received};
use mvp_tests::sim::pki::ClientAuth;
use tokio::sync::{mpsc, watch};

use super::fake::until;

/// However seldom a server is asked what it serves: with `discovery.idleInterval` that may be once in an hour.
#[tokio::test]
async fn a_proved_server_is_proved_again_in_its_time() {
    assert_eq!(
        Prover::EVERY,
        Duration::from_secs(60),
        "as the documentation says"
    );
    let plane = plane(&[36]).await;
    let server = plane.server(0);
    let unused = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let text = settings(&plane, "cp-a", unused(1), unused(2))
        .unwrap()
        .config(plane.pki().dir())
        .to_string();
    let config = config::parse(&text, Path::new("/")).unwrap();
    let client = |auth| Arc::new(plane.pki().client_config(auth, &["h2"]).unwrap());
    let pair = plane.pki().front_proxy_client().unwrap();
    let (asserting, bare) = (
        client(ClientAuth::Certificate(pair)),
        client(ClientAuth::None),
    );
    let names = HeaderNames::new(config.request_header.as_ref()).unwrap();
    let own = OwnUser::new(&names).unwrap();
    let mut settings = HubSettings::new(
        &config.discovery,
        &config.upstream,
        DialFrom::default(),
        Arc::new(move || Arc::clone(&asserting)),
        own,
    )
    .unwrap();
    settings.interval = NEVER;
    settings.idle_interval = NEVER;
    settings.stale_after = NEVER;
    settings.prover = Some(Arc::new(Prover {
        bare: Arc::new(move || Arc::clone(&bare)),
        names: Box::new(move || names.clone()),
        every: Duration::from_millis(100),
        learn: Box::new(|_| {}),
        tls_hint: Box::new(|| None),
    }));
    let (_members, followed) = watch::channel(Arc::default());
    let (_restarts, told) = mpsc::channel(1);
    let handle = Discovery::start(
        settings,
        config.local.clone(),
        followed,
        told,
        Arc::new(SyncCounters::default()),
        &tokio::runtime::Handle::current(),
    );
    until("it is proved and has told what it serves", || {
        let status = &handle.status()[0];
        status.proofs.asserts() && status.polls.changed > 0
    })
    .await;
    let (reviews, asked) = (received(server, REVIEWS), received(server, "/apis"));
    // One over each class.
    until("it is proved three times more", || {
        received(server, REVIEWS) >= reviews + 6
    })
    .await;
    assert_eq!(received(server, "/apis"), asked);
}
