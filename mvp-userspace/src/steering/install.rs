//! What the kernel gets at the start of an agent, and what is taken back at its end.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::bail;
use tokio::net::TcpListener;

use super::targets::Addresses;
use crate::config::{Config, Endpoint, Mode};
use crate::kernel::{self, PinnedTable, Reason, Steering};
use crate::net::{DialFrom, Reserved, STEERING_TICK, TICK, listen};

/// Handshakes that are under way when the slot is emptied end within a few round trips; until then the listener stays open.
pub const LINGER: Duration = Duration::from_secs(1);

/// What the kernel does for this agent.
pub enum Kernel {
    /// Nothing, for this reason.
    Off(String),
    /// The programs are loaded and the maps are pinned; whether connections are steered is for the guard to say.
    On(Box<Installed>),
}

/// Steering as installed, with its parts for those who use them.
pub struct Installed {
    /// The maps, for whoever changes the state.
    pub shared: SharedSteering,
    /// Says in the kernel that this agent lives and has room for connections.
    pub heartbeat: kernel::Heartbeat,
    /// Writes the route table into a pinned map, for the agent after this one.
    pub routes: kernel::RouteWriter,
    /// What the kernel programs log; `None`: the kernel does not let it be read.
    pub log: Option<kernel::LogForwarder>,
    /// What the agent before this one knew.
    pub pinned: Option<PinnedTable>,
    /// The line in `mvp status`.
    pub start: String,
}

/// The kernel's maps, written by the keeper and by the end of the agent. Each call is a few system calls.
#[derive(Clone)]
pub struct SharedSteering(Arc<Mutex<Steering>>);

impl SharedSteering {
    /// Whoever holds it should not wait for anything but the kernel.
    pub fn lock(&self) -> MutexGuard<'_, Steering> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New connections go to kube-apiserver from now on. Harmless if another agent has taken over: its slots stay as they are.
    pub fn leave(&self) {
        let mut steering = self.lock();
        for done in [
            steering.disarm(Reason::Draining),
            steering.clear_listeners(),
        ] {
            match done {
                Ok(()) | Err(kernel::Error::Replaced) => {}
                Err(error) => tracing::warn!(%error, "kernel steering cannot be left"),
            }
        }
    }
}

impl Kernel {
    /// Installs what the configuration asks for, with the agent's listener in its slot. Nothing is steered yet: that takes a
    /// heartbeat.
    ///
    /// # Errors
    /// `kernel.steering: on` and it is not possible here; one line that names the key.
    pub async fn install(
        config: &Config,
        listener: &TcpListener,
        members: &[Endpoint],
    ) -> anyhow::Result<Self> {
        let why = match config.kernel.steering {
            Mode::Off => return Ok(Self::Off("kernel.steering is off".to_owned())),
            _ if !config.interoperability_proxy => {
                return Ok(Self::Off("everything is answered locally".to_owned()));
            }
            Mode::Auto | Mode::On => match installed(config, listener, members).await {
                Ok(installed) => return Ok(Self::On(Box::new(installed))),
                Err(why) => why,
            },
        };
        if config.kernel.steering == Mode::On {
            bail!("kernel.steering: {why}");
        }
        tracing::warn!(reason = why, "kernel.steering: off");
        Ok(Self::Off(why))
    }

    /// Whether the kernel part is loaded.
    pub fn is_on(&self) -> bool {
        matches!(self, Self::On(_))
    }

    /// Where the agent's own connections come from.
    pub fn dial_from(&self, config: &Config) -> DialFrom {
        match self {
            Self::Off(_) => DialFrom::anywhere(),
            Self::On(_) => DialFrom::reserved(reserved(config)),
        }
    }
}

/// How often data threads show that they make progress.
pub fn tick(steers: bool) -> Duration {
    match steers {
        false => TICK,
        true => STEERING_TICK,
    }
}

/// Where clients connect. With steering any free port of the same address does if another agent has the configured one: clients
/// come by the steered port, and the other agent is about to be replaced.
pub fn client_listener(config: &Config) -> std::io::Result<(TcpListener, bool)> {
    match listen(config.listen) {
        Err(error)
            if error.kind() == std::io::ErrorKind::AddrInUse
                && config.kernel.steering != Mode::Off =>
        {
            let any = SocketAddr::new(config.listen.ip(), 0);
            Ok((listen(any)?, true))
        }
        done => done.map(|listener| (listener, false)),
    }
}

/// Where connections to servers come from before it is known whether this agent steers: past the steering of an agent that already
/// runs here, if that is possible.
pub fn way_to_servers(config: &Config) -> DialFrom {
    match config.kernel.steering {
        Mode::Auto | Mode::On if usable(config).is_ok() => DialFrom::reserved(reserved(config)),
        _ => DialFrom::anywhere(),
    }
}

/// An agent that is alive steers here, and this one is to take its place.
pub fn replaces(config: &Config) -> bool {
    let wanted = config.kernel.steering != Mode::Off && config.interoperability_proxy;
    let alive = || {
        let pinned = kernel::read_pinned(&config.kernel.pin_path);
        pinned.is_ok_and(|pinned| pinned.attached && pinned.guard.alive)
    };
    wanted && alive() && usable(config).is_ok()
}

fn reserved(config: &Config) -> Reserved {
    Reserved {
        own_source: config.kernel.own_source,
        peer_ports: config.kernel.peer_ports.clone(),
    }
}

async fn installed(
    config: &Config,
    listener: &TcpListener,
    members: &[Endpoint],
) -> Result<Installed, String> {
    usable(config)?;
    let targets = Addresses::default().targets(config, members).await;
    let mut steering = Steering::install(&config.kernel.pin_path).map_err(|e| e.to_string())?;
    let start = steering.start().to_string();
    steering
        .configure(&targets)
        .and_then(|()| steering.set_listeners(&[listener.as_fd()]))
        .map_err(|e| e.to_string())?;
    tracing::info!(pins = %config.kernel.pin_path.display(), "{start}");
    let missing = || "kernel steering is incomplete".to_owned();
    Ok(Installed {
        heartbeat: steering.take_heartbeat().ok_or_else(missing)?,
        routes: steering.take_routes().ok_or_else(missing)?,
        log: steering.take_log(),
        pinned: steering.take_pinned_table(),
        shared: SharedSteering(Arc::new(Mutex::new(steering))),
        start,
    })
}

/// The reserved sources, tried before anything is installed: without them the agent could not reach its servers.
fn usable(config: &Config) -> Result<(), String> {
    let own = config.kernel.own_source;
    std::net::TcpListener::bind((own, 0))
        .map_err(|e| format!("the own source {own} cannot be bound ({e}): look at kernel.ownSource and the loopback interface"))?;
    let mut last = None;
    for port in config.kernel.peer_ports.clone().take(64) {
        match std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) => return Ok(()),
            Err(error) => last = Some((port, error)),
        }
    }
    let (port, error) = last.unwrap_or((0, std::io::ErrorKind::NotFound.into()));
    Err(format!(
        "source port {port} cannot be bound ({error}): CAP_NET_BIND_SERVICE is needed, or kernel.peerPorts above 1023"
    ))
}
