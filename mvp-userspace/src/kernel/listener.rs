//! The agent's listening sockets in the kernel's slots, and how much their accept queues can take.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::MapError;
use mvp_common::{LISTENER_V4, LISTENER_V6};
use socket2::SockRef;

use super::{Error, Steering, maps, sys};

impl Steering {
    /// Puts listening sockets into the slots: the first that takes IPv4 connections and the first that takes IPv6 ones (an
    /// IPv6 socket that is not `IPV6_V6ONLY` takes both). A slot is replaced in one step: a lookup gets the old listener or
    /// the new one. A slot that no socket fits is emptied, and such connections pass. The kernel empties a slot itself when
    /// its socket is closed.
    ///
    /// The old agent must go on accepting until its queue and the handshakes under way are empty (a few round trips; give
    /// it a second), since closing a listener resets them.
    ///
    /// # Errors
    /// [`Error::System`] if a socket does not listen; [`Error::Replaced`].
    pub fn set_listeners(&mut self, listeners: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.owner.check()?;
        let facts = listeners.iter().map(|listener| families(*listener));
        let facts: Result<Vec<_>, _> = facts.collect();
        let facts = facts.map_err(|e| Error::io("looking at the listener", &e))?;
        for (slot, fits) in [
            (
                LISTENER_V4,
                (|f: &(bool, bool)| f.0) as fn(&(bool, bool)) -> bool,
            ),
            (LISTENER_V6, |f| f.1),
        ] {
            match facts.iter().position(fits).and_then(|i| listeners.get(i)) {
                Some(listener) => self.set_slot(slot, *listener)?,
                None => self.clear_slot(slot)?,
            }
        }
        // Another generation: a listener that is missing is news again.
        self.change(|_| {})
    }

    /// Empties the slots: new connections pass to the server itself.
    ///
    /// # Errors
    /// [`Error::Replaced`]: the slots are another agent's.
    pub fn clear_listeners(&mut self) -> Result<(), Error> {
        self.set_listeners(&[])
    }

    fn set_slot(&mut self, slot: u32, listener: BorrowedFd<'_>) -> Result<(), Error> {
        let done = self.maps.listeners.set(slot, &listener, 0);
        done.map_err(|e| Error::map("putting the listener into its slot", &e))
    }

    fn clear_slot(&mut self, slot: u32) -> Result<(), Error> {
        match self.maps.listeners.clear_index(&slot) {
            Err(e) if !is_empty_slot(&e) => Err(maps::write(&e)),
            _ => Ok(()),
        }
    }
}

/// How many connections may be steered to these listeners until the next heartbeat: half of what the fuller queue has room
/// for. The other half is for handshakes under way, which are in no queue yet.
///
/// A listener whose queue is full drops SYNs (`tcp_conn_request` in the kernel's net/ipv4/tcp_input.c), and the client
/// tries again a second later; if the agent does not come to accept, it never succeeds, since the program has chosen the
/// socket. So the program never steers more than there is room for.
///
/// # Errors
/// If a socket does not listen on TCP.
pub fn room(listeners: &[BorrowedFd<'_>]) -> io::Result<u32> {
    let mut room = u32::MAX;
    for listener in listeners {
        let (queued, most) = sys::accept_queue(*listener)?;
        room = room.min(most.saturating_sub(queued) / 2);
    }
    Ok(if listeners.is_empty() { 0 } else { room })
}

/// Connections in the listener's accept queue: steered already, and not yet known to who counts them.
///
/// # Errors
/// If the socket does not listen on TCP.
pub fn queued(listener: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(sys::accept_queue(listener)?.0)
}

/// Whether it takes IPv4, and whether it takes IPv6 connections.
fn families(listener: BorrowedFd<'_>) -> io::Result<(bool, bool)> {
    let fd = listener.as_fd();
    let socket = SockRef::from(&fd);
    match socket.local_addr()?.as_socket() {
        Some(SocketAddr::V4(_)) => Ok((true, false)),
        Some(SocketAddr::V6(_)) => Ok((!socket.only_v6()?, true)),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not an IP socket",
        )),
    }
}

/// EINVAL is what `sock_map_delete_elem` says about an empty slot.
fn is_empty_slot(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(e) => {
            matches!(e.io_error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn room_is_half_of_what_the_queue_has_left() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        SockRef::from(&listener).listen(8).unwrap();
        assert_eq!(room(&[listener.as_fd()]).unwrap(), 4);
        let address = listener.local_addr().unwrap();
        // A connection is in the queue before `connect` returns on loopback, or very soon after.
        let _clients = [(); 4].map(|()| TcpStream::connect(address).unwrap());
        while sys::accept_queue(listener.as_fd()).unwrap().0 < 4 {
            std::thread::yield_now();
        }
        assert_eq!(room(&[listener.as_fd()]).unwrap(), 2);
        assert_eq!(queued(listener.as_fd()).unwrap(), 4);
        let _taken = listener.accept().unwrap();
        let _taken = listener.accept().unwrap();
        assert_eq!(room(&[listener.as_fd()]).unwrap(), 3);
        let idle = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(room(&[idle.as_fd(), listener.as_fd()]).unwrap(), 3);
        assert_eq!(room(&[]).unwrap(), 0);
    }

    #[test]
    fn families_follow_the_socket() {
        let families = |address: &str| {
            let listener = TcpListener::bind(address).unwrap();
            super::families(listener.as_fd()).unwrap()
        };
        assert_eq!(families("127.0.0.1:0"), (true, false));
        assert_eq!(families("[::]:0"), (true, true));
    }
}
