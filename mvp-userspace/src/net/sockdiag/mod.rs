//! Connections that others hold, seen and ended through the kernel's socket diagnosis (sock_diag(7)): when the guard arms, those
//! that clients have with kube-apiserver itself would never be inspected. A client whose connection is destroyed sees a reset and
//! reconnects.

mod off;
mod wire;

pub use off::Off;
pub use wire::Established;

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use wire::Reply;

/// The kernel packs a dump into messages of at most 32 KiB (`netlink_dump`, `max_recvmsg_len`).
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once; this only keeps a misunderstanding from lasting for ever.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one port taken from a dump; more than a kube-apiserver can have.
const MAX_ESTABLISHED: usize = 200_000;

/// A socket to the kernel's socket diagnosis, in the network namespace of the thread that opened it. Every call blocks, for the
/// time the kernel takes to walk its tables.
#[derive(Debug)]
pub struct SockDiag {
    socket: OwnedFd,
    sequence: u32,
}

/// The kernel refuses, or is not understood.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    /// A system call failed: no permission, no descriptors, or a timeout.
    #[error("socket diagnosis: {0}")]
    System(#[from] io::Error),
    /// The agent's own fault, or a kernel unlike any known.
    #[error("the kernel's answer is not understood: {0}")]
    Answer(String),
}

/// What became of a connection that was to be retired.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetireOutcome {
    /// The kernel ended it, with a RST to the client.
    Destroyed,
    /// Something was sent or received meanwhile, or waits to be.
    Active,
    /// Ended by itself.
    Gone,
}

impl SockDiag {
    /// # Errors
    /// If the kernel has no netlink, or descriptors have run out.
    pub fn open() -> Result<Self, SockDiagError> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )
        .map_err(io::Error::from)?;
        rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0)).map_err(io::Error::from)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(TIMEOUT)).map_err(io::Error::from)?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// All established connections of this namespace whose local port is `port`, of both families. Those beyond 200,000 are left
    /// out.
    ///
    /// # Errors
    /// [`SockDiagError`].
    pub fn established(&mut self, port: u16) -> Result<Vec<Established>, SockDiagError> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let sequence = self.next();
            self.send(&wire::dump(family, port, sequence))?;
            self.answers(sequence, |established| {
                // Asked for by port already; a kernel that does not filter must not widen the circle.
                if established.local().port() == port && all.len() < MAX_ESTABLISHED {
                    all.push(established);
                }
            })?;
        }
        Ok(all)
    }

    /// Looks at the connection alone, and destroys it if `still` says so of what is found: its client sees a reset, its server an
    /// error. Between the look and the end a segment can still arrive; that is microseconds, and clients retry. (A FIN instead of
    /// a reset is not to be had from outside the server's process.)
    ///
    /// # Errors
    /// [`SockDiagError`]; EPERM without CAP_NET_ADMIN, EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY.
    pub fn retire(
        &mut self,
        connection: &Established,
        still: impl FnOnce(&Established) -> bool,
    ) -> Result<RetireOutcome, SockDiagError> {
        match self.look(connection)? {
            None => Ok(RetireOutcome::Gone),
            Some(now) if !still(&now) => Ok(RetireOutcome::Active),
            Some(now) => self.destroy(&now),
        }
    }

    /// Whether connections can be retired here, tried on one of our own.
    ///
    /// # Errors
    /// Why not; for `mvp status` and `mvp doctor`.
    pub fn available(&mut self) -> Result<(), Off> {
        let pair = || -> io::Result<(TcpStream, TcpStream)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, from) = listener.accept()?;
            if from != client.local_addr()? {
                return Err(io::Error::other("somebody else connected"));
            }
            Ok((client, server))
        };
        let (client, server) = pair().map_err(SockDiagError::from)?;
        let (port, peer) = (server.local_addr(), client.local_addr());
        let port = port.map_err(SockDiagError::from)?.port();
        let peer = peer.map_err(SockDiagError::from)?;
        let ours = self.established(port).map_err(Off::of)?;
        let Some(ours) = ours.iter().find(|one| one.remote() == peer) else {
            return Err(Off::Failed(SockDiagError::Answer(
                "a connection made for a try is not listed".to_owned(),
            )));
        };
        match self.destroy(ours).map_err(Off::of)? {
            RetireOutcome::Destroyed => {}
            RetireOutcome::Active | RetireOutcome::Gone => return Err(Off::Survived),
        }
        match server.take_error().map_err(SockDiagError::from)? {
            Some(_aborted) => Ok(()),
            None => Err(Off::Survived),
        }
    }

    /// The connection as it is now.
    fn look(&mut self, connection: &Established) -> Result<Option<Established>, SockDiagError> {
        let sequence = self.next();
        self.send(&wire::exact(connection, sequence))?;
        let mut found = None;
        let looked = self.answers(sequence, |established| found = Some(established));
        match looked {
            Ok(()) => Ok(found),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn destroy(&mut self, connection: &Established) -> Result<RetireOutcome, SockDiagError> {
        let sequence = self.next();
        self.send(&wire::destroy(connection, sequence))?;
        match self.answers(sequence, |_| {}) {
            Ok(()) => Ok(RetireOutcome::Destroyed),
            Err(error) if is_gone(&error) => Ok(RetireOutcome::Gone),
            Err(error) => Err(error),
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, message: &[u8]) -> Result<(), SockDiagError> {
        rustix::net::send(&self.socket, message, SendFlags::empty()).map_err(io::Error::from)?;
        Ok(())
    }

    /// Reads the answers to request `sequence` to the last. Answers to an earlier one that was given up are passed over.
    fn answers(
        &self,
        sequence: u32,
        mut each: impl FnMut(Established),
    ) -> Result<(), SockDiagError> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let received = rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::TRUNC);
            let length = match received {
                Ok((_, length)) => length,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(io::Error::from(error).into()),
            };
            let Some(datagram) = buffer.get(..length) else {
                return Err(SockDiagError::Answer(format!("{length} bytes at once")));
            };
            for reply in wire::replies(datagram).map_err(SockDiagError::Answer)? {
                if reply.sequence() != sequence {
                    continue;
                }
                match reply {
                    Reply::Established {
                        connection, last, ..
                    } => {
                        each(*connection);
                        if last {
                            return Ok(());
                        }
                    }
                    Reply::Done { .. } => return Ok(()),
                    Reply::Failed { errno, .. } => {
                        return Err(io::Error::from_raw_os_error(errno).into());
                    }
                    Reply::Other { .. } => {}
                }
            }
        }
    }
}

/// The kernel no longer knows the connection, or knows another one under its addresses (the cookie differs).
fn is_gone(error: &SockDiagError) -> bool {
    let SockDiagError::System(error) = error else {
        return false;
    };
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}
