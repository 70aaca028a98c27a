//! What the kernel knows of a TCP connection, and the one socket option that makes it look at its queue again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

/// From `TCP_INFO`, read under the socket's lock: the figures belong together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpInfo {
    state: u8,
    /// Bytes received in order, read or not. A FIN counts as one.
    pub received: u64,
    /// Segments with data that were received, modulo 2^32. One that the device or the kernel put together counts as those it was.
    pub data_segments: u32,
    /// Segments that were sent once more.
    pub retransmitted: u32,
    /// Bytes that the other side has acknowledged. The SYN counts as one for who connected.
    acknowledged: u64,
}

impl TcpInfo {
    /// Reads it.
    ///
    /// # Errors
    /// The system's. `Unsupported` from a kernel that reports less (before Linux 4.6).
    pub fn read(socket: impl AsFd) -> io::Result<Self> {
        let raw = read_raw(socket.as_fd().as_raw_fd())?;
        Ok(Self {
            state: raw.state,
            received: raw.bytes_received,
            data_segments: raw.data_segments_in,
            retransmitted: raw.retransmitted,
            acknowledged: raw.bytes_acknowledged,
        })
    }

    /// Both directions are open.
    pub fn is_established(&self) -> bool {
        self.state == ESTABLISHED
    }

    /// Both directions have ended, in order or by a reset.
    pub fn is_closed(&self) -> bool {
        self.state == CLOSE
    }
}

/// Bytes written to the socket, whether they have left or not, from a beginning that is not said: differences are exact. The SYN of
/// who connected and a FIN of ours count as one each. What `TCP_INFO` has of bytes sent does not do: a segment that could not be sent at its first try (`tcp_write_xmit` and
/// `tcp_write_wakeup` of net/ipv4/tcp_output.c) is counted twice.
///
/// # Errors
/// The system's. `ResourceBusy` if acknowledgements come faster than they can be looked at.
pub fn written(socket: impl AsFd) -> io::Result<u64> {
    let mut acknowledged = TcpInfo::read(&socket)?.acknowledged;
    for _ in 0..TRIES {
        let unacknowledged = unacknowledged(&socket)?;
        let after = TcpInfo::read(&socket)?.acknowledged;
        // Equal: the two figures belong together.
        if after == acknowledged {
            return Ok(acknowledged + unacknowledged);
        }
        acknowledged = after;
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Bytes in the send queue, sent or not (`SIOCOUTQ`, tcp(7)).
#[expect(unsafe_code, reason = "no crate in use has this request")]
fn unacknowledged(socket: impl AsFd) -> io::Result<u64> {
    // SAFETY: the kernel writes an int.
    let queued = unsafe {
        let getter =
            rustix::ioctl::Getter::<{ libc::TIOCOUTQ as rustix::ioctl::Opcode }, libc::c_int>::new(
            );
        rustix::ioctl::ioctl(socket, getter)?
    };
    Ok(queued.try_into().unwrap_or_default())
}

/// Tries to read two figures of a socket that belong together.
const TRIES: usize = 64;

/// Makes the kernel offer what is in the receive queue to the socket's reader again (`tcp_set_rcvlowat` calls
/// `tcp_data_ready`); a program that was attached to the socket after the bytes came does not see them otherwise. One byte is
/// the option's default, so nothing else changes.
///
/// # Errors
/// The system's.
pub fn offer_again(socket: impl AsFd) -> io::Result<()> {
    low_water(socket, 1)
}

/// The socket counts as readable from so many bytes on, or once nothing more can come (`SO_RCVLOWAT`, socket(7); poll and epoll heed it
/// since Linux 2.6.28). The kernel makes room for them.
///
/// # Errors
/// The system's.
#[expect(unsafe_code, reason = "no crate in use has this option")]
pub fn low_water(socket: impl AsFd, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the option's value is an int, and lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `include/net/tcp_states.h`.
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;

/// The beginning of `struct tcp_info` (`include/uapi/linux/tcp.h`), which only ever grows at its end. libc's own ends before
/// what is needed here.
#[repr(C)]
struct Raw {
    state: u8,
    _flags: [u8; 7],
    _rto_to_rcv_space: [u32; 23],
    retransmitted: u32,
    _rates: [u64; 2],
    bytes_acknowledged: u64,
    bytes_received: u64,
    _segments: [u32; 2],
    _notsent_bytes: u32,
    _min_rtt: u32,
    data_segments_in: u32,
}

const _: () = assert!(size_of::<Raw>() == 160 && std::mem::offset_of!(Raw, bytes_received) == 128);

#[expect(
    unsafe_code,
    reason = "no crate in use reads as much of TCP_INFO as is needed"
)]
fn read_raw(fd: libc::c_int) -> io::Result<Raw> {
    let mut raw = MaybeUninit::<Raw>::zeroed();
    let mut length = size_of::<Raw>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if (length as usize) < size_of::<Raw>() {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    // SAFETY: all of it was written, and every bit pattern is a value.
    Ok(unsafe { raw.assume_init() })
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn counts_what_was_written_and_received() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let before = written(&client).unwrap();
        client.write_all(&[0; 3000]).unwrap();
        server.read_exact(&mut [0; 3000]).unwrap();
        assert_eq!(written(&client).unwrap() - before, 3000);
        let info = TcpInfo::read(&server).unwrap();
        assert!(info.is_established() && !info.is_closed());
        assert_eq!((info.received, written(&server).unwrap()), (3000, 0));
        assert_eq!(info.data_segments, 1, "acknowledgements are none");
        assert_eq!(TcpInfo::read(&client).unwrap().data_segments, 0);
        offer_again(&server).unwrap();

        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
        let info = TcpInfo::read(&server).unwrap();
        assert!(!info.is_established() && !info.is_closed());
        assert_eq!(info.received, 3001, "a FIN counts as one");
    }
}
