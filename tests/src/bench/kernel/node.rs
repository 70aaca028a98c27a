//! A node for steering: a network namespace, a BPF file system for the pins, and a steering program in it.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use mvp::kernel::{Heartbeat, Steering, Targets, room, uninstall};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::netns::Namespace;

/// Runs `work` on a thread in a network and a mount namespace of its own, with a path for pins. Threads and processes that it
/// starts are born there. Nothing of it is left afterwards, not even if this process is killed.
///
/// # Errors
/// Without root or the BPF object; and `work`'s.
pub(in crate::bench) fn run<T: Send>(work: impl FnOnce(&Path) -> Result<T> + Send) -> Result<T> {
    let why = mvp::kernel::availability();
    if !why.is_ready() {
        return Err(anyhow!("{why}"));
    }
    // Made and removed outside, where nothing is mounted on it.
    let folder = tempfile::Builder::new().prefix("mvp-bpf-").tempdir()?;
    let on_bpffs = || {
        unshare(CloneFlags::CLONE_NEWNS).context("unshare(CLONE_NEWNS): are you root?")?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let none = MsFlags::empty();
        let bpf = Some("bpf");
        mount(bpf, folder.path(), bpf, none, Some("mode=0700")).context("mounting a bpffs")?;
        Namespace::new()?.run(|| work(&folder.path().join("mvp")))?
    };
    thread::scope(|scope| {
        let ended = scope.spawn(on_bpffs).join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The program attached to this thread's namespace, its guard idle, and a heart that beats.
pub(super) struct Installed {
    pub(super) steering: Steering,
    _beating: Beating,
}

impl Installed {
    pub(super) fn start(pins: &Path, targets: &Targets, listener: TcpListener) -> Result<Self> {
        let mut steering = Steering::install(pins)?;
        steering.configure(targets)?;
        steering.set_listeners(&[listener.as_fd()])?;
        let heartbeat = steering.take_heartbeat().context("no heartbeat")?;
        Ok(Self {
            steering,
            _beating: Beating::start(heartbeat, listener)?,
        })
    }

    /// Detaches the program.
    pub(super) fn remove(self) -> Result<()> {
        Ok(uninstall(self.steering.path())?)
    }
}

/// Ends with the sender.
struct Beating {
    _stop: mpsc::Sender<()>,
}

/// More often than an agent, which meets no client that connects as fast as those here: a beat grants half the room of the
/// queue.
const BEAT: Duration = Duration::from_millis(20);

impl Beating {
    /// Beats once, and from then on.
    fn start(mut heartbeat: Heartbeat, listener: TcpListener) -> Result<Self> {
        heartbeat.beat(room(&[listener.as_fd()])?)?;
        let (stop, stopped) = mpsc::channel();
        thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(BEAT) {
                let beaten = room(&[listener.as_fd()])
                    .map_err(anyhow::Error::from)
                    .and_then(|room| Ok(heartbeat.beat(room)?));
                if let Err(error) = beaten {
                    eprintln!("the heart has stopped: {error:#}");
                    return;
                }
            }
        });
        Ok(Self { _stop: stop })
    }
}
