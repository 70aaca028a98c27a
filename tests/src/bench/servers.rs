//! Simulated kube-apiservers on one thread of their own, which leaves the other processors to what is measured.

use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::sim::pki::Pki;
use crate::sim::{ControlPlane, ServerSpec};

/// They run until this is dropped.
pub(crate) struct Servers {
    /// The key material that they share.
    pub(crate) pki: Pki,
    /// Name and address of each, in the order of their specifications.
    pub(crate) all: Vec<(String, SocketAddr)>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Key material goes into `dir`. `definitions` are CustomResourceDefinitions that are there from the start.
    ///
    /// # Errors
    /// A server cannot listen, or the folder cannot be written.
    pub(crate) fn start(
        dir: &Path,
        specs: Vec<ServerSpec>,
        definitions: Vec<Value>,
    ) -> Result<Self> {
        let pki = Pki::generate(dir)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (started, servers) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let builder = ControlPlane::builder()
            .pki(pki.clone())
            .servers(specs)
            .definitions(definitions);
        let thread = std::thread::Builder::new()
            .name("servers".into())
            .spawn(move || {
                runtime.block_on(async {
                    let plane = builder.start().await;
                    let all = plane.as_ref().map(|plane| {
                        let servers = plane.servers().iter();
                        servers
                            .map(|server| (server.name().to_owned(), server.addr()))
                            .collect::<Vec<_>>()
                    });
                    let _ = started.send(all.map_err(|error| format!("{error:#}")));
                    let _ = stopped.await;
                });
            })?;
        let all = servers.recv().context("the servers' thread has ended")?;
        Ok(Self {
            pki,
            all: all.map_err(anyhow::Error::msg)?,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
