//! The short-cut between the agent's own connections and the server on the same machine.
//!
//! Both ends must be in the map, and only one of them is the agent's. A `sock_ops` program on a cgroup that holds both processes
//! notes them as they are established. The other way, to fetch the server's sockets out of its process (`pidfd_getfd`), would ask
//! for the right to trace it. The program looks at nothing but new connections, and takes those of one network namespace, one
//! source address and one port.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{Array, MapData, PerCpuArray, SockHash};
use aya::programs::{CgroupAttachMode, SkMsg, SockOps};
use aya::{Ebpf, EbpfLoader};
use mvp_common::{
    COUNTERS_MAP, Counter, SHORTCUT_NOTE_PROGRAM, SHORTCUT_PROGRAM, SHORTCUT_SCOPE_MAP,
    SHORTCUT_SOCKS_MAP, ShortcutKey, ShortcutScope,
};

use super::{Counters, Error, object};

/// The loaded programs. Dropping it detaches them, and what is queued between two ends at that moment is lost: connections that
/// took the short-cut are to be closed before.
pub struct Shortcut {
    bpf: Ebpf,
    scope: Array<MapData, Plain<ShortcutScope>>,
    _socks: SockHash<MapData, Plain<ShortcutKey>>,
}

impl Shortcut {
    /// Loads and attaches the programs. From now on IPv4 connections from `client` to `port` in the calling thread's network
    /// namespace take the short-cut, if both ends are in `cgroup` (of the unified hierarchy).
    ///
    /// # Errors
    /// As [`super::Programs::load`]. Needs Linux 5.15 (`bpf_get_netns_cookie` for sk_msg).
    pub fn load(client: Ipv4Addr, port: u16, cgroup: impl AsFd) -> Result<Self, Error> {
        let mut bpf = EbpfLoader::new()
            .load(object().ok_or(Error::NoObject)?)
            .map_err(|e| Error::load("creating the BPF maps", e))?;
        super::programs::check_abi(&bpf)?;
        let scope = super::splice::take(&mut bpf, SHORTCUT_SCOPE_MAP)?;
        let socks: SockHash<MapData, Plain<ShortcutKey>> =
            super::splice::take(&mut bpf, SHORTCUT_SOCKS_MAP)?;
        let mut shortcut = Self {
            bpf,
            scope,
            _socks: socks,
        };
        shortcut.set_scope(ShortcutScope {
            netns: netns_cookie()?,
            port: port.into(),
            client_ip: u32::from_ne_bytes(client.octets()),
        })?;
        let fd = shortcut
            ._socks
            .fd()
            .try_clone()
            .map_err(|e| Error::io("duplicating a map's descriptor", &e))?;
        let program: &mut SkMsg = shortcut
            .bpf
            .program_mut(SHORTCUT_PROGRAM)
            .ok_or_else(|| Error::missing(SHORTCUT_PROGRAM))?
            .try_into()
            .map_err(|e| Error::Object(format!("program {SHORTCUT_PROGRAM}: {e}")))?;
        program
            .load()
            .and_then(|()| program.attach(&fd).map(drop))
            .map_err(|e| Error::program("the sk_msg program", &e))?;
        let program: &mut SockOps = shortcut
            .bpf
            .program_mut(SHORTCUT_NOTE_PROGRAM)
            .ok_or_else(|| Error::missing(SHORTCUT_NOTE_PROGRAM))?
            .try_into()
            .map_err(|e| Error::Object(format!("program {SHORTCUT_NOTE_PROGRAM}: {e}")))?;
        program
            .load()
            .and_then(|()| {
                // As a link, and links of a cgroup stand beside each other whatever the mode (`cgroup_bpf_link_attach` in
                // kernel/bpf/cgroup.c); it refuses flags.
                program.attach(cgroup, CgroupAttachMode::Single).map(drop)
            })
            .map_err(|e| Error::program("the sock_ops program", &e))?;
        Ok(shortcut)
    }

    /// No new connection takes the short-cut any more; those that do go on with it.
    ///
    /// # Errors
    /// [`Error::System`] if the map cannot be written.
    pub fn stop(&mut self) -> Result<(), Error> {
        self.set_scope(ShortcutScope::default())
    }

    /// The counters of these programs, summed over the CPUs; those of other programs are zero here.
    ///
    /// # Errors
    /// [`Error::Object`] if the object lacks the map.
    pub fn counters(&self) -> Result<Counters, Error> {
        let map = self
            .bpf
            .map(COUNTERS_MAP)
            .ok_or_else(|| Error::missing(COUNTERS_MAP))?;
        let map = PerCpuArray::<&MapData, u64>::try_from(map)
            .map_err(|e| Error::map("reading the counters", &e))?;
        Counters::read(|counter: Counter| {
            let values = map.get(&counter.index(), 0);
            Ok(values
                .map_err(|e| Error::map("reading the counters", &e))?
                .to_vec())
        })
    }

    fn set_scope(&mut self, scope: ShortcutScope) -> Result<(), Error> {
        self.scope
            .set(0, Plain(scope), 0)
            .map_err(|e| Error::map("setting the scope of the short-cut", &e))
    }
}

/// A value of `mvp-common`, as aya reads and writes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Plain<T>(T);

// SAFETY: repr(C), made of integers and without padding (asserted in mvp-common).
#[expect(unsafe_code, reason = "aya's marker for plain values")]
unsafe impl aya::Pod for Plain<ShortcutScope> {}

// SAFETY: as above.
#[expect(unsafe_code, reason = "aya's marker for plain values")]
unsafe impl aya::Pod for Plain<ShortcutKey> {}

/// The cookie of the calling thread's network namespace, as `bpf_get_netns_cookie` returns it for sockets in it.
#[expect(unsafe_code, reason = "no crate in use has this option")]
fn netns_cookie() -> Result<u64, Error> {
    let io = |e| Error::io("reading the cookie of the network namespace", &e);
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(io)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is a u64, and the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io(std::io::Error::last_os_error()))
    }
}
