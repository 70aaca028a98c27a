use std::net::Ipv4Addr;
use std::sync::atomic::AtomicUsize;

use futures_util::future::join_all;
use rustls::RootCertStore;
use tokio::task::yield_now;

use super::*;
use crate::config::Http2;
use crate::proxy::blame::Ending;
use crate::proxy::http2::own_tests::connect;

fn config() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    Arc::new(
        builder
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    )
}

/// A connection whose other end says nothing, which allows a hundred streams.
async fn sender() -> http2::Sender {
    let (sender, far) = connect(Http2::Own).await;
    tokio::spawn(async move {
        let _far = far;
        std::future::pending::<()>().await;
    });
    sender
}

/// Counts the dials that were begun, each of which takes several turns.
async fn dial(begun: &AtomicUsize, tls: &Arc<ClientConfig>) -> Result<Made<()>, AttemptError> {
    begun.fetch_add(1, Ordering::Relaxed);
    for _ in 0..5 {
        yield_now().await;
    }
    let open = Arc::new(AtomicUsize::new(0));
    Ok(Made::Ride(Arc::new(Ride {
        sender: sender().await,
        address: (Ipv4Addr::LOCALHOST, 6443).into(),
        tls: Arc::clone(tls),
        left: AtomicBool::new(false),
        place: Mutex::new(None),
        _open: OpenCount::new(&open),
    })))
}

fn ride(made: Result<Made<()>, AttemptError>) -> Arc<Ride> {
    match made {
        Ok(Made::Ride(ride)) => ride,
        Ok(Made::Other(()) | Made::Nothing) => panic!("it cannot be ridden together"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn those_that_come_together_share_one_dial_until_the_first_is_answered() {
    let (rides, tls, begun) = (Rides::default(), config(), AtomicUsize::new(0));
    let ask = || {
        rides.together(1, Credentials::Anonymous, &tls, async || {
            dial(&begun, &tls).await
        })
    };
    let made: Vec<_> = join_all((0..6).map(|_| ask()))
        .await
        .into_iter()
        .map(ride)
        .collect();
    assert_eq!(begun.load(Ordering::Relaxed), 1);
    assert!(made.iter().all(|other| Arc::ptr_eq(other, &made[0])));

    // One more gets on as long as nobody was answered.
    let late = ride(ask().await);
    assert!(Arc::ptr_eq(&late, &made[0]));
    late.left.store(true, Ordering::Relaxed);
    let next = ride(ask().await);
    assert_eq!(begun.load(Ordering::Relaxed), 2);
    assert!(!Arc::ptr_eq(&next, &late));
}

/// They do not part into as many connections as there are requests left.
#[tokio::test]
async fn those_that_waited_for_one_that_was_left_meanwhile_share_the_next() {
    let (rides, tls, begun) = (Rides::default(), config(), AtomicUsize::new(0));
    let left: Vec<_> = join_all((0..6).map(async |_| {
        let made = rides.together(1, Credentials::Anonymous, &tls, async || {
            let made = dial(&begun, &tls).await;
            // Answered before anybody else gets on.
            if begun.load(Ordering::Relaxed) == 1
                && let Ok(Made::Ride(ride)) = &made
            {
                ride.left.store(true, Ordering::Relaxed);
            }
            made
        });
        ride(made.await)
    }))
    .await;
    assert_eq!(begun.load(Ordering::Relaxed), 2);
    assert!(left[1..].iter().all(|other| Arc::ptr_eq(other, &left[1])));
}

#[tokio::test]
async fn a_connection_without_riders_is_not_kept() {
    let (rides, tls, begun) = (Rides::default(), config(), AtomicUsize::new(0));
    let ask = || {
        rides.together(1, Credentials::Anonymous, &tls, async || {
            dial(&begun, &tls).await
        })
    };
    let first = Arc::downgrade(&ride(ask().await));
    assert!(first.upgrade().is_none());
    ride(ask().await);
    assert_eq!(begun.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn another_server_other_credentials_and_a_new_certificate_are_apart() {
    let (rides, tls, begun) = (Rides::default(), config(), AtomicUsize::new(0));
    let renewed = config();
    let ask = |server, credentials, tls| {
        let (rides, begun) = (&rides, &begun);
        async move {
            ride(
                rides
                    .together(server, credentials, tls, async || dial(begun, tls).await)
                    .await,
            )
        }
    };
    let all = join_all([
        ask(1, Credentials::Anonymous, &tls),
        ask(2, Credentials::Anonymous, &tls),
        ask(1, Credentials::Asserted, &tls),
    ]);
    let all = all.await;
    let after = ask(1, Credentials::Anonymous, &renewed).await;
    assert!(
        !Arc::ptr_eq(&all[0], &all[1])
            && !Arc::ptr_eq(&all[0], &all[2])
            && !Arc::ptr_eq(&all[0], &after)
    );
    assert_eq!(begun.load(Ordering::Relaxed), 4);
}

/// One after the other they would wait for as many time limits.
#[tokio::test]
async fn who_waited_for_a_dial_that_failed_dials_for_itself_at_once() {
    let (rides, tls, begun) = (Rides::default(), config(), AtomicUsize::new(0));
    let (fail, failed) = tokio::sync::watch::channel(false);
    let ask = || {
        rides.together(1, Credentials::Anonymous, &tls, async || {
            begun.fetch_add(1, Ordering::Relaxed);
            let mut failed = failed.clone();
            let _ = failed.wait_for(|failed| *failed).await;
            // Those that come behind the first hang.
            match begun.load(Ordering::Relaxed) {
                1 => Err(AttemptError::bare(Ending::ConnectRefused)),
                _ => std::future::pending::<Result<Made<()>, AttemptError>>().await,
            }
        })
    };
    let mut others = Box::pin(join_all((0..4).map(|_| ask())));
    let first = async {
        yield_now().await;
        fail.send(true).unwrap();
        while begun.load(Ordering::Relaxed) < 4 {
            yield_now().await;
        }
    };
    tokio::select! {
        _ = others.as_mut() => panic!("a dial that hangs has ended"),
        () = first => {}
    }
}

#[tokio::test]
async fn credentials_are_forgotten() {
    let (rides, tls, begun) = (Rides::default(), config(), AtomicUsize::new(0));
    for server in 0..3 * MANY {
        let asked = rides.together(server, Credentials::Anonymous, &tls, async || {
            dial(&begun, &tls).await
        });
        ride(asked.await);
    }
    assert!(rides.0.lock().unwrap().len() <= MANY);
}
