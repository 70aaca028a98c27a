//! Taking connections out of the accept queue, to close them, when there is no descriptor left to accept them with.
//!
//! accept(2) wants a descriptor even for a connection that is closed at once. One that is kept in hand for that does not do: between giving
//! it up and accept(2), any other thread of the process may take it, for good. So this is done with a table of descriptors of its own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{c_int, c_uint};
use rustix::net::SocketFlags;

/// As many as an accept queue holds by default (`net.core.somaxconn`). Who connects again as soon as he was closed does not keep the accept loop here.
const MOST: usize = 4096;

/// Closes what waits in this listener's queue, [`MOST`] connections at most, whether or not this process has descriptors left, and says how many that
/// were. A client whose connection is closed tries again; left in the queue, it would wait for as long as descriptors are short.
///
/// The limit of descriptors (RLIMIT_NOFILE) is one on their numbers in one table. A thread that has left the table which it shared with the others
/// (`unshare(CLONE_FILES)`; close_range(2) does that and leaves out most of the table) has all numbers free but the listener's. Before this
/// returns the listener is in no other table than before.
///
/// # Errors
/// Nothing was closed: no thread can be made, the kernel has no close_range(2) (before 5.9), or it has no memory or no more open files in all (ENFILE).
pub(super) fn close_waiting(listener: impl AsFd) -> io::Result<usize> {
    let listener = listener.as_fd();
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("mvp-close".to_owned())
            .spawn_scoped(scope, || {
                let kept = leave_all_but(listener)?;
                let closed = close_all(listener);
                // The thread's end, at which its table ends, may be later than this knows of it.
                close_range(kept, kept, 0)?;
                closed
            })?
            .join()
            .unwrap_or_else(|_panic| Err(io::Error::other("the thread that closes them panicked")))
    })
}

/// From here on this thread has one descriptor, this one, whose number is given back.
fn leave_all_but(kept: BorrowedFd<'_>) -> io::Result<c_uint> {
    let kept = c_uint::try_from(kept.as_raw_fd()).map_err(io::Error::other)?;
    // With an end like this, the kernel copies the table below the beginning only.
    close_range(kept + 1, c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    if let Some(last) = kept.checked_sub(1) {
        close_range(0, last, 0)?;
    }
    Ok(kept)
}

#[expect(unsafe_code, reason = "no crate in use has this system call")]
fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> io::Result<()> {
    // Through syscall(2), since musl has no function for it.
    // SAFETY: no memory is passed. Descriptors are closed that others own, which would be unsound in the table of the process: the
    // first call, that of `leave_all_but`, gives the thread a table of its own, in which nobody owns anything.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    match c_int::try_from(result) {
        Ok(0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn close_all(listener: BorrowedFd<'_>) -> io::Result<usize> {
    let mut closed = 0;
    for _ in 0..MOST {
        let accepted =
            rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        match accepted.map_err(io::Error::from) {
            Ok(connection) => {
                drop(connection);
                closed += 1;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if closed == 0 && error.kind() != io::ErrorKind::WouldBlock => {
                return Err(error);
            }
            Err(_) => break,
        }
    }
    Ok(closed)
}

/// ECONNABORTED, and errors of the network that Linux passes on from the new connection (accept(2), "Error handling").
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn listener() -> TcpListener {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    #[test]
    fn all_that_wait_are_closed() {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<_> = (0..20)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        // A connection may be made for its client a moment before it is in the queue.
        let mut closed = 0;
        while closed < 20 {
            closed += close_waiting(&listener).unwrap();
        }
        assert_eq!(closed, 20);
        for client in &mut clients {
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        assert_eq!(close_waiting(&listener).unwrap(), 0);
    }

    /// What it closes in its own table is open in the table of the process.
    #[test]
    fn everything_else_stays_open() {
        let before = listener();
        let queue = listener();
        let after = listener();
        for open in [&before, &after] {
            let client = TcpStream::connect(open.local_addr().unwrap()).unwrap();
            assert_eq!(close_waiting(&queue).unwrap(), 0);
            let (_, address) = open.accept().unwrap();
            assert_eq!(address, client.local_addr().unwrap());
        }
    }
}
