//! Connections that clients make with the agent itself, and that nothing needs to be looked at in: handed to the local server whole
//! while the guard is idle.
//!
//! A client must not notice: the local server has to show the very certificate that the agent would.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use tokio::time::MissedTickBehavior;

use crate::config::Config;
use crate::net::DialFrom;
use crate::proxy::Relays;
use crate::steering::{GuardHandle, always_inspects};
use crate::tls::probe;

/// From the guard's arming to the first connection that is inspected, at most.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at the local server's certificate while connections pass, or may soon.
const LOOK: Duration = Duration::from_secs(10);

/// The line in `mvp status`.
#[derive(Debug, Default)]
pub(super) struct PassThroughLine(Mutex<String>);

impl PassThroughLine {
    pub(super) fn get(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set(&self, line: &str) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != line {
            tracing::info!("whole connections to the local server: {line}");
            line.clone_into(&mut now);
        }
    }
}

/// Has connections handed over from now on, or says why never.
pub(super) fn start(
    config: &Config,
    steered: bool,
    guard: &GuardHandle,
    relays: &Arc<Relays>,
) -> Arc<PassThroughLine> {
    let line = Arc::new(PassThroughLine::default());
    match always_inspects(config, steered) {
        Some(why) => line.set(why),
        None => {
            let (relays, line) = (Arc::clone(relays), Arc::clone(&line));
            tokio::spawn(run(config.clone(), guard.clone(), relays, line));
        }
    }
    line
}

/// Follows the guard until dropped.
async fn run(config: Config, guard: GuardHandle, relays: Arc<Relays>, line: Arc<PassThroughLine>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looked: Option<(Instant, Result<(), String>)> = None;
    loop {
        tick.tick().await;
        if guard.is_armed() {
            relays.pass_through(false);
            line.set("off: the guard is armed");
            looked = None;
            continue;
        }
        if looked.as_ref().is_none_or(|(at, _)| at.elapsed() >= LOOK) {
            looked = Some((Instant::now(), same_certificate(&config).await));
        }
        match &looked {
            // The guard may have armed while the server was asked.
            Some((_, Ok(()))) if !guard.is_armed() => {
                relays.pass_through(true);
                line.set("on: nothing is mixed");
            }
            Some((_, Err(why))) => {
                relays.pass_through(false);
                line.set(why);
            }
            _ => {}
        }
    }
}

/// Whether the local server shows the certificate that the agent shows.
async fn same_certificate(config: &Config) -> Result<(), String> {
    let file = config.serving.cert_file.clone();
    let own = tokio::task::spawn_blocking(move || fingerprint(&file)).await;
    let own = own.map_err(|error| error.to_string())?;
    let own = own.map_err(|error| format!("off: serving.certFile: {error}"))?;
    let nobody = Arc::new(RootCertStore::empty());
    let timeout = config.upstream.connect_timeout;
    let shown = probe(&config.local, None, nobody, &DialFrom::anywhere(), timeout).await;
    let shown = shown.map_err(|error| format!("off: the local server: {error}"))?;
    match shown.fingerprint == own {
        true => Ok(()),
        false => Err("off: the local server shows another certificate than the agent".to_owned()),
    }
}

fn fingerprint(file: &Path) -> Result<[u8; 32], String> {
    let mut found = CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())?;
    match found.next() {
        Some(Ok(first)) => Ok(Sha256::digest(&first).into()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("no certificate in it".to_owned()),
    }
}
