//! Steering: the pinned `sk_lookup` program, attached to this network namespace, and the agent's right to direct it.

use std::{
    fmt, fs,
    net::IpAddr,
    ops::RangeInclusive,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use aya::{
    maps::{Array, HashMap, MapData},
    programs::ProgramInfo,
};
use mvp_common::{ExemptKey, ExemptValue, OWNER_MAP, SteerKey};

use super::{
    Counters, Error, Heartbeat, LocalSource, LogForwarder, PinnedTable, Programs, RouteWriter,
    local,
    maps::{self, Maps},
    pins::{self, LINK_PIN, Locked, PROGRAM_PIN},
    shared::Shared,
    sys, view,
};

/// Most ports that can be steered.
pub const PORTS_MAX: usize = 8;

/// Most exempt source addresses, own and peers'.
pub const EXEMPT_MAX: usize = 512;

/// The installed program and its maps. Dropping it changes nothing in the kernel: the program stays attached, and
/// passes when the heartbeats end or the listener is gone. [`uninstall`] removes it.
pub struct Steering {
    pub(super) maps: Maps,
    pub(super) owner: Owner,
    path: PathBuf,
    start: Start,
    heartbeat: Option<Heartbeat>,
    routes: Option<RouteWriter>,
    log: Option<LogForwarder>,
    pinned_table: Option<PinnedTable>,
}

/// What [`Steering::install`] found; its `Display` is a line for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Start {
    /// Nothing: the program was attached now.
    Fresh,
    /// Pins of the same program; guard, routes and counters are as the last agent left them.
    Reused,
    /// Pins that this agent cannot use, for this reason; its own took their place, and the guard is idle.
    Replaced(String),
}

/// What to steer, and what never.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Targets {
    /// Local TCP ports, on every local address; at most [`PORTS_MAX`].
    pub ports: Vec<u16>,
    /// Loopback addresses from which the agent connects to the local server. Any source port of them passes.
    pub own_sources: Vec<IpAddr>,
    /// Who is steered also while the guard is idle. Of two networks that hold an address, the smaller one decides.
    pub local_sources: Vec<LocalSource>,
    /// Addresses of the other servers, from which their agents connect.
    pub peers: Vec<IpAddr>,
    /// Source ports of the peers' agents. Other ports of the same addresses are steered.
    pub peer_ports: RangeInclusive<u16>,
}

/// What the program has cost, while the kernel's BPF statistics were on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct RunTime {
    /// Time spent in it, over all CPUs.
    pub time: Duration,
    /// Runs.
    pub runs: u64,
}

/// The agent's right to write to the maps: it has the last number that was given.
pub(super) struct Owner {
    map: Array<MapData, u64>,
    number: u64,
}

impl Steering {
    /// Attaches the program of this build to the calling thread's network namespace and pins it, its link and its maps in
    /// the folder `path`; or takes over what an earlier agent pinned there. An earlier agent that still runs gets
    /// [`Error::Replaced`] from then on; it keeps its connections and should drain. Pins of another release or build are
    /// replaced, their link by an atomic update. Steers nothing by itself: see [`Self::configure`],
    /// [`Self::set_listeners`], [`Heartbeat::beat`] and [`Self::arm`].
    ///
    /// # Errors
    /// [`Error::NoBpffs`], [`Error::NotOurs`], [`Error::OtherNamespace`] and [`Error::Busy`] about `path`; those of
    /// [`Programs::load`]. What was pinned before is then still in force.
    pub fn install(path: &Path) -> Result<Self, Error> {
        let locked = Locked::new(path)?;
        let found = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
        if found && maps::abi(path).is_none() {
            return Err(Error::NotOurs {
                path: path.to_owned(),
            });
        }
        let (netns, inode) = pins::current_netns()?;
        let link = match pins::link(path) {
            Some((link, info)) if info.netns == inode => Some(link),
            // Its namespace is gone, and with it what it did.
            Some((_, info)) if info.netns == 0 => None,
            Some(_) => {
                return Err(Error::OtherNamespace {
                    path: path.to_owned(),
                });
            }
            None => None,
        };
        let pinned_table = view::read_table_at(path).ok().flatten();
        // An agent that still runs looks at the map that it opened, whatever becomes of the folder.
        let before: Option<Array<MapData, u64>> = maps::open(path, OWNER_MAP).ok();
        let aside = locked.make_aside()?;
        let placed = place(&locked, &aside, found, link, netns.as_fd());
        if placed.is_err() {
            // The first failure is the one to report; the next agent removes what is left.
            let _ = pins::remove(&aside);
        }
        let (start, log) = placed?;
        let number = sys::monotonic_ns();
        let mut owner: Array<MapData, u64> = maps::open(path, OWNER_MAP)?;
        owner.set(0, number, 0).map_err(|e| maps::write(&e))?;
        if let (Start::Replaced(_), Some(mut before)) = (&start, before) {
            // An error: it is a map of another release that has another form of it, and its agent ends by a signal.
            let _ = before.set(0, number, 0);
        }
        let owner = || Owner::open(path, number);
        Ok(Self {
            maps: Maps::open(path)?,
            heartbeat: Some(Heartbeat::open(path, owner()?)?),
            routes: Some(RouteWriter::open(path, owner()?)?),
            owner: owner()?,
            path: path.to_owned(),
            start,
            log: Some(log),
            pinned_table,
        })
    }

    /// What was found at the start.
    pub fn start(&self) -> &Start {
        &self.start
    }

    /// The pin folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sign of life, once; `None` afterwards. Give it to who knows that the data path works.
    pub fn take_heartbeat(&mut self) -> Option<Heartbeat> {
        self.heartbeat.take()
    }

    /// The route table's writer, once; `None` afterwards.
    pub fn take_routes(&mut self) -> Option<RouteWriter> {
        self.routes.take()
    }

    /// The programs' log, once; `None` afterwards.
    pub fn take_log(&mut self) -> Option<LogForwarder> {
        self.log.take()
    }

    /// The route table that an earlier agent left, once; `None` if there was none.
    pub fn take_pinned_table(&mut self) -> Option<PinnedTable> {
        self.pinned_table.take()
    }

    /// Replaces what is steered and exempt. What becomes exempt is so before anything is steered in its stead, so that the
    /// agent never gets a connection of its own.
    ///
    /// # Errors
    /// [`Error::NoRoom`] above the limits, before anything changed; [`Error::Replaced`].
    pub fn configure(&mut self, targets: &Targets) -> Result<(), Error> {
        let exempt = targets.exempt();
        let local = local::entries(&targets.local_sources);
        for (what, count, limit) in [
            ("steered ports", targets.ports.len(), PORTS_MAX),
            ("exempt addresses", exempt.len(), EXEMPT_MAX),
            ("local sources", local.len(), local::MAX),
        ] {
            if count > limit {
                return Err(Error::NoRoom { what, limit });
            }
        }
        self.owner.check()?;
        let ports = targets
            .ports
            .iter()
            .map(|&port| SteerKey { port: port.into() });
        let ports: Vec<_> = ports.collect();
        for &(key, value) in &exempt {
            let done = self.maps.exempt.insert(Shared(key), Shared(value), 0);
            done.map_err(|e| maps::write(&e))?;
        }
        local::insert(&mut self.maps.local, &local)?;
        for &port in &ports {
            let done = self.maps.ports.insert(Shared(port), 1, 0);
            done.map_err(|e| maps::write(&e))?;
        }
        retain(&mut self.maps.ports, |key: Shared<SteerKey>| {
            ports.contains(&key.0)
        })?;
        retain(&mut self.maps.exempt, |key: Shared<ExemptKey>| {
            exempt.iter().any(|(exempt, _)| *exempt == key.0)
        })?;
        local::retain(&mut self.maps.local, &local)
    }

    /// The programs' counters, summed over the CPUs. They go on from one agent to the next that reuses the pins.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel refuses, which it has no reason to.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.maps.counters()
    }

    /// Whether the program that this agent installed is still attached. Somebody may have detached it (`mvp uninstall`,
    /// `bpftool link detach`) or replaced the pins.
    pub fn is_attached(&self) -> bool {
        pins::link(&self.path).is_some_and(|(_, info)| info.netns != 0)
    }

    /// Whether no other agent has installed itself since.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel refuses, which it has no reason to.
    pub fn is_ours(&self) -> Result<bool, Error> {
        match self.owner.check() {
            Ok(()) => Ok(true),
            Err(Error::Replaced) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What the program cost. Needs [`super::enable_run_time`], else the numbers stay.
    ///
    /// # Errors
    /// The same as [`super::run_time`].
    pub fn run_time(&self) -> Result<RunTime, Error> {
        run_time(&self.path)
    }
}

/// Detaches the program that is pinned in `path` and removes the pins: nothing of the agent is left in the kernel. Does
/// nothing if there is nothing.
///
/// # Errors
/// [`Error::NoBpffs`], [`Error::NotOurs`], [`Error::Busy`] and [`Error::Permission`].
pub fn uninstall(path: &Path) -> Result<(), Error> {
    let locked = Locked::new(path)?;
    if maps::abi(path).is_some()
        && let Some((link, info)) = pins::link(path)
        && info.netns != 0
    {
        // The kernel frees a link some time after its last pin; this is at once.
        sys::link_detach(link.as_fd()).map_err(|e| Error::io("detaching sk_lookup", &e))?;
    }
    pins::remove(locked.path())
}

/// Run time and runs of the program pinned in `path`, since it was loaded and while the kernel's statistics were on.
///
/// # Errors
/// [`Error::System`] if it is not there.
pub fn run_time(path: &Path) -> Result<RunTime, Error> {
    let info = ProgramInfo::from_pin(path.join(PROGRAM_PIN))
        .map_err(|e| Error::program("reading the program's run time", &e))?;
    Ok(RunTime {
        time: info.run_time(),
        runs: info.run_count(),
    })
}

/// Has the kernel measure BPF programs, all of them, until the descriptor is dropped (Linux 5.8). Costs each run some tens
/// of nanoseconds: for benchmarks.
///
/// # Errors
/// [`Error::Permission`] without CAP_SYS_ADMIN.
pub fn enable_run_time() -> Result<OwnedFd, Error> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .map_err(|e| Error::syscall("measuring BPF programs", &e))
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.write_str("kernel steering installed"),
            Self::Reused => f.write_str("kernel steering taken over from the pins"),
            Self::Replaced(why) => {
                write!(f, "kernel steering's old pins refused and replaced: {why}")
            }
        }
    }
}

impl Targets {
    /// An address that is the agent's own and a peer's at once is its own.
    fn exempt(&self) -> Vec<(ExemptKey, ExemptValue)> {
        let peer = ExemptValue {
            flags: 0,
            first_port: *self.peer_ports.start(),
            last_port: *self.peer_ports.end(),
        };
        let own = ExemptValue {
            flags: ExemptValue::OWN,
            first_port: 0,
            last_port: u16::MAX,
        };
        let peers = self.peers.iter().map(|a| (ExemptKey::of(*a), peer));
        let own = self.own_sources.iter().map(|a| (ExemptKey::of(*a), own));
        let mut all: Vec<_> = own.chain(peers).collect();
        // Stable: of two with the same address the own one stays.
        all.sort_by_key(|(key, _)| *key);
        all.dedup_by_key(|(key, _)| *key);
        all
    }
}

impl Owner {
    fn open(path: &Path, number: u64) -> Result<Self, Error> {
        let map = maps::open(path, OWNER_MAP)?;
        Ok(Self { map, number })
    }

    /// [`Error::Replaced`] after another agent installed itself. Between this check and the write that follows it a new agent
    /// could come; it would find that one write, as if it had come a microsecond earlier.
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.map.get(&0, 0).map_err(|e| maps::read(&e))? {
            number if number == self.number => Ok(()),
            _ => Err(Error::Replaced),
        }
    }
}

/// Loads the program of this build, and puts it or the equal one that is pinned into force.
fn place(
    locked: &Locked,
    aside: &Path,
    found: bool,
    link: Option<OwnedFd>,
    netns: std::os::fd::BorrowedFd<'_>,
) -> Result<(Start, LogForwarder), Error> {
    let attaching = |e: std::io::Error| Error::io("attaching sk_lookup", &e);
    let mut programs = Programs::load()?;
    programs.pin(aside)?;
    let fit = if found {
        pins::compare(locked.path(), aside).map_err(|why| Start::Replaced(why.to_string()))
    } else {
        Err(Start::Fresh)
    };
    let folder = if fit.is_ok() { locked.path() } else { aside };
    let program = sys::pinned(&folder.join(PROGRAM_PIN)).map_err(attaching)?;
    let pin = folder.join(LINK_PIN);
    match (&link, &fit) {
        (Some(_), Ok(())) => {}
        (Some(link), Err(_)) => {
            // First the pin, then the program: whichever step is the last, the link has a pin.
            sys::pin(link.as_fd(), &pin).map_err(attaching)?;
            sys::link_update(link.as_fd(), program.as_fd()).map_err(attaching)?;
        }
        (None, _) => {
            let link = sys::link_create(program.as_fd(), netns).map_err(attaching)?;
            match fs::remove_file(&pin) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(attaching(e)),
                _ => {}
            }
            sys::pin(link.as_fd(), &pin).map_err(attaching)?;
        }
    }
    match fit {
        Ok(()) => {
            pins::remove(aside)?;
            Ok((Start::Reused, Programs::pinned_log(locked.path())?))
        }
        Err(start) => {
            let moved = locked.activate(aside);
            if let (Err(_), Some(link)) = (&moved, &link)
                && let Ok(old) = sys::pinned(&locked.path().join(PROGRAM_PIN))
            {
                // Back to the program whose pins stay in force. The first failure is the one to report.
                let _ = sys::link_update(link.as_fd(), old.as_fd());
            }
            moved?;
            let log = programs.take_log();
            Ok((start, log.ok_or_else(|| Error::missing("the log"))?))
        }
    }
}

/// Removes the keys that `keep` refuses.
fn retain<K: aya::Pod, V: aya::Pod>(
    map: &mut HashMap<MapData, K, V>,
    keep: impl Fn(K) -> bool,
) -> Result<(), Error> {
    let keys: Result<Vec<K>, _> = map.keys().collect();
    for key in keys.map_err(|e| maps::read(&e))? {
        if !keep(key) {
            map.remove(&key).map_err(|e| maps::write(&e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_address_outranks_a_peers() {
        let [own, peer]: [IpAddr; 2] = ["127.66.0.1", "10.0.0.2"].map(|a| a.parse().unwrap());
        let targets = Targets {
            ports: vec![6443],
            own_sources: vec![own],
            peers: vec![peer, own, peer],
            local_sources: vec![],
            peer_ports: 700..=799,
        };
        let exempt = targets.exempt();
        let of = |address| {
            exempt
                .iter()
                .find(|(key, _)| *key == ExemptKey::of(address))
        };
        assert_eq!(exempt.len(), 2);
        assert_eq!(of(own).unwrap().1.flags, ExemptValue::OWN);
        let peer = of(peer).unwrap().1;
        assert!(peer.flags == 0 && peer.covers(700) && peer.covers(799) && !peer.covers(800));
    }
}
