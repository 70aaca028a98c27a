//! Connections forwarded whole: what they need before the agent starts, and the tasks that look after them.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::config::{Config, Mode as ConfigMode, SpliceMode};
use crate::kernel::Splice;
use crate::metrics::{
    Metrics, RELAY_CLIENTS, RELAYED_CONNECTIONS, SPLICED_BROKEN, SPLICED_BYTES, SPLICED_CHANGES,
    SPLICED_CONNECTIONS, SPLICED_FALLBACKS, SPLICED_STOPPED,
};
use crate::proxy::{RelaySettings, Relays, Shared, Technique, probe_for_relay, watch_relays};
use crate::splice::calibrate::{self, CalibrationFigures};
use crate::splice::flow::Flowing;
use crate::splice::{Count, Mode, Plan, Splicer, selftest};
use crate::tls::{OwnCa, Prober, Reload};

/// Pairs that the calibration has in the kernel at a time.
const CALIBRATED: usize = 64;

/// What is made before any port is bound.
pub(super) struct Prepared {
    pub relays: Arc<Relays>,
    /// What is to be reloaded with the other files.
    pub reload: Option<Arc<dyn Reload>>,
    calibrate: bool,
}

/// Loads what relaying needs.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn prepare(config: &Config) -> anyhow::Result<Prepared> {
    let enabled = config.relay.mode != ConfigMode::Off && config.interoperability_proxy;
    let own_ca = match enabled {
        true => Some(Arc::new(OwnCa::load(config)?)),
        false => None,
    };
    let prober = own_ca
        .clone()
        .map(|own_ca| Prober::new(own_ca, config.upstream.connect_timeout));
    let relays = Arc::new(Relays::new(RelaySettings::from(config), prober));
    Ok(Prepared {
        relays,
        reload: own_ca.map(|own_ca| own_ca as _),
        calibrate: enabled && config.kernel.splice == SpliceMode::Auto,
    })
}

impl Prepared {
    /// With `kernel.splice: sockmap` tries sockmap out, which takes about 0.3 s.
    ///
    /// # Errors
    /// It does not work here.
    pub(super) async fn try_out(&self, config: &Config) -> anyhow::Result<()> {
        match config.kernel.splice {
            SpliceMode::Auto => {}
            SpliceMode::Splice => self
                .relays
                .splicing()
                .choose(configured(Mode::Splice), None),
            SpliceMode::Copy => self.relays.splicing().choose(configured(Mode::Copy), None),
            SpliceMode::Sockmap => {
                let kernel =
                    Splice::load().context("kernel.splice: sockmap cannot be used here")?;
                let report = selftest::run(&kernel).await;
                if report.failure().is_some() {
                    bail!("kernel.splice: {report}");
                }
                let technique = Technique {
                    plan: Mode::Sockmap.into(),
                    why: format!("kernel.splice is sockmap; {report}"),
                };
                self.relays.splicing().choose(technique, Some(kernel));
            }
        }
        Ok(())
    }

    /// Starts the tasks on the current runtime, and finds out what this machine does best on a thread of its own.
    pub(super) fn spawn(self, shared: &Arc<Shared>) {
        tokio::spawn(watch_relays(Arc::clone(shared)));
        tokio::spawn(probe_for_relay(Arc::clone(shared)));
        register(&shared.metrics, shared);
        if self.calibrate {
            let relays = self.relays;
            let spawned = std::thread::Builder::new()
                .name("calibrate".into())
                .spawn(move || measure(&relays));
            if let Err(error) = spawned {
                tracing::warn!(%error, "cannot calibrate: whole connections are copied");
            }
        }
    }
}

/// A userspace mode, which needs no trial.
fn configured(mode: Mode) -> Technique {
    Technique {
        plan: mode.into(),
        why: format!("kernel.splice is {}", mode.name()),
    }
}

fn measure(relays: &Relays) {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "cannot calibrate: whole connections are copied");
            return;
        }
    };
    let (technique, kernel) = runtime.block_on(best());
    tracing::info!(
        mode = technique.plan.messages.name(),
        bulk = technique.plan.bulk.name(),
        why = technique.why,
        "whole connections"
    );
    relays.splicing().choose(technique, kernel);
}

/// The best modes for messages and for bulk, and the kernel part if it is one of them.
async fn best() -> (Technique, Option<Splice>) {
    let (kernel, mut why) = match Splice::load() {
        Err(error) => (None, format!("sockmap cannot be used here: {error}")),
        Ok(kernel) => {
            let report = selftest::run(&kernel).await;
            let works = report.failure().is_none();
            (works.then_some(kernel), report.to_string())
        }
    };
    let splicer = Splicer::new(kernel.clone(), CALIBRATED);
    let modes: &[Mode] = match &kernel {
        Some(_) => &Mode::ALL,
        None => &[Mode::Splice, Mode::Copy],
    };
    let plan = match calibrate::run(&splicer, modes).await {
        Ok(figures) => {
            for one in &figures {
                why += "; ";
                why += &text(one);
            }
            Plan {
                messages: calibrate::choose(&figures, Flowing::Messages),
                bulk: calibrate::choose(&figures, Flowing::Bulk),
            }
            .sound()
        }
        Err(error) => {
            why += &format!("; nothing could be measured: {error}");
            Mode::Copy.into()
        }
    };
    let kernel = kernel.filter(|_| plan.needs_kernel());
    (Technique { plan, why }, kernel)
}

fn text(figures: &CalibrationFigures) -> String {
    format!(
        "{}: {} us a message, {} us under load, {} us a MiB",
        figures.mode.name(),
        figures.talk.as_micros(),
        figures.loaded.as_micros(),
        figures.bulk.as_micros()
    )
}

fn register(metrics: &Metrics, shared: &Arc<Shared>) {
    let relays = Arc::clone(&shared.relays);
    metrics.register_source(Box::new(move |sink| {
        for (server, count) in relays.open() {
            sink.set(&RELAYED_CONNECTIONS, &[&server], count as f64);
        }
        sink.set(&RELAY_CLIENTS, &[], relays.clients() as f64);
        for (count, value) in relays.splicing().splicer().counts().iter() {
            let value = value as f64;
            match count {
                Count::Sockmap | Count::Splice | Count::Copy => {
                    sink.set(&SPLICED_CONNECTIONS, &[count.name()], value);
                }
                Count::Unavailable
                | Count::Cap
                | Count::Ended
                | Count::Busy
                | Count::Refused
                | Count::Backlog => sink.set(&SPLICED_FALLBACKS, &[count.name()], value),
                Count::ToBulk | Count::ToMessages => {
                    sink.set(&SPLICED_CHANGES, &[count.name()], value);
                }
                Count::Broken => sink.set(&SPLICED_BROKEN, &[], value),
                Count::Stopped => sink.set(&SPLICED_STOPPED, &[], value),
                Count::BytesAb => sink.set(&SPLICED_BYTES, &["to_server"], value),
                Count::BytesBa => sink.set(&SPLICED_BYTES, &["to_client"], value),
            }
        }
    }));
}
