//! The short-cut of the agent's own connections to the local server: tried out, and used if it helps.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::bail;

use super::shortcut::{cgroup_root, try_out};
use crate::config::{Config, Mode};
use crate::kernel::{Counters, Shortcut};
use crate::net::is_this_node;

/// The short-cut of this agent, if it has one. Held to the end: without the programs, what is queued between two ends is lost.
pub struct ShortcutPart {
    state: Mutex<State>,
}

struct State {
    line: String,
    programs: Option<Shortcut>,
}

/// The two ends: from where to where.
#[derive(Clone, Copy, Debug)]
struct Way {
    own_source: Ipv4Addr,
    port: u16,
}

impl ShortcutPart {
    /// With `kernel.shortcut: on` tries it out and loads it; with `auto` does so on a thread, and only if it helps. `steered`:
    /// whether the agent's connections have a source address of their own, by which the programs know them.
    ///
    /// # Errors
    /// `on`, and it cannot be had; one line that names the key.
    pub async fn start(config: &Config, steered: bool) -> anyhow::Result<Arc<Self>> {
        let part = Arc::new(Self {
            state: Mutex::new(State {
                line: "off: it is being tried out".to_owned(),
                programs: None,
            }),
        });
        let way = match config.kernel.shortcut {
            Mode::Off => Err("kernel.shortcut is off".to_owned()),
            Mode::Auto | Mode::On => way(config, steered).await,
        };
        let asked = config.kernel.shortcut == Mode::On;
        match way {
            Err(why) if asked => bail!("kernel.shortcut: {why}"),
            Err(why) => part.lock().line = format!("off: {why}"),
            Ok(way) if asked => {
                let started = Arc::clone(&part);
                let tried = tokio::task::spawn_blocking(move || started.begin(way, true)).await;
                if let Err(why) = tried? {
                    bail!("kernel.shortcut: {why}");
                }
            }
            Ok(way) => {
                let started = Arc::clone(&part);
                let spawned =
                    std::thread::Builder::new()
                        .name("shortcut".into())
                        .spawn(move || {
                            if let Err(why) = started.begin(way, false) {
                                tracing::info!(why, "kernel.shortcut: off");
                                started.lock().line = format!("off: {why}");
                            }
                        });
                if let Err(error) = spawned {
                    part.lock().line = format!("off: {error}");
                }
            }
        }
        Ok(part)
    }

    /// The line in `mvp status`.
    pub fn line(&self) -> String {
        self.lock().line.clone()
    }

    /// The counters of the programs, while they are loaded.
    pub fn counters(&self) -> Option<Counters> {
        self.lock().programs.as_ref()?.counters().ok()
    }

    fn begin(&self, way: Way, asked: bool) -> Result<(), String> {
        let cgroup = cgroup_root().map_err(|e| format!("the root cgroup: {e}"))?;
        let trial = try_out(way.own_source, &cgroup).map_err(|e| e.to_string())?;
        if !asked && !trial.helps() {
            return Err(format!("it does not help: {trial}"));
        }
        let programs = Shortcut::load(way.own_source, way.port, &cgroup);
        let programs = programs.map_err(|e| e.to_string())?;
        tracing::info!(%trial, "kernel.shortcut: on");
        *self.lock() = State {
            line: format!("on: {trial}"),
            programs: Some(programs),
        };
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn way(config: &Config, steered: bool) -> Result<Way, String> {
    if !steered {
        return Err(
            "without steering the agent's connections have no source address of their own"
                .to_owned(),
        );
    }
    let local = &config.local;
    let found = tokio::net::lookup_host((local.host.as_str(), local.port)).await;
    let first = found.map_err(|e| format!("{}: {e}", local.host))?.next();
    match first.map(|address| address.ip()) {
        Some(ip @ IpAddr::V4(_)) if is_this_node(ip) => Ok(Way {
            own_source: config.kernel.own_source,
            port: local.port,
        }),
        _ => Err("the local server is not at an IPv4 address of this node".to_owned()),
    }
}
