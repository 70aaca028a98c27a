//! Clients that connect anew for every request while an agent comes or goes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::{Cluster, Place, eventually};
use mvp_tests::client::Client;
use mvp_tests::fixtures::{CONFIG_MAPS, admin};

/// Requests over connections of their own, from several tasks, until stopped; every one must be answered.
pub(crate) struct Knocking {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Knocking {
    pub(crate) fn start(cluster: &Cluster, to: SocketAddr) -> Self {
        Self::asking(cluster, to, CONFIG_MAPS)
    }

    pub(crate) fn asking(cluster: &Cluster, to: SocketAddr, target: &'static str) -> Self {
        let knocking = Self {
            stop: Arc::default(),
            done: Arc::default(),
            failed: Arc::default(),
            tasks: Vec::new(),
        };
        let tls = cluster
            .plane
            .pki()
            .client_config(admin(&cluster.plane), &[]);
        let tls: Arc<rustls::ClientConfig> = tls.unwrap().into();
        let tasks = (0..4).map(|_| {
            let (stop, done) = (Arc::clone(&knocking.stop), Arc::clone(&knocking.done));
            let (failed, tls) = (Arc::clone(&knocking.failed), Arc::clone(&tls));
            cluster.clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match knock(to, &tls, target).await {
                        Ok(200) => {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(status) => failed.lock().unwrap().push(format!("status {status}")),
                        Err(error) => failed.lock().unwrap().push(format!("{error:#}")),
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Self { tasks, ..knocking }
    }

    /// Waits for `more` further answers.
    pub(crate) fn until_more(&self, more: u64) {
        let goal = self.done.load(Ordering::Relaxed) + more;
        eventually("requests are answered", || {
            let failed = self.failed.lock().unwrap();
            assert!(failed.is_empty(), "{failed:?}");
            self.done.load(Ordering::Relaxed) >= goal
        });
    }

    pub(crate) fn end(self, place: &Place) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            place.join(task);
        }
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} failed: {failed:?}", failed.len());
    }
}

async fn knock(
    to: SocketAddr,
    tls: &Arc<rustls::ClientConfig>,
    target: &str,
) -> anyhow::Result<u16> {
    let client = Client::http2(to, tls).await?;
    Ok(client.get(target, &[]).await?.status.as_u16())
}
