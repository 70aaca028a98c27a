//! TCP sockets to which nothing comes for a moment: their segments are dropped as if they had been lost on the way, and come again.
//!
//! Taking a socket out of a sockmap loses what arrives in that moment: `sk_psock_stop_verdict` (net/core/skmsg.c) takes the program away
//! before it gives the socket its own `sk_data_ready` back, and `sk_psock_verdict_recv` drops a segment that finds no program, though TCP has
//! acknowledged it. Nothing in userspace can hold a socket's lock meanwhile. A socket filter can keep segments away from TCP, which then
//! acknowledges none of them.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};
use socket2::{SockFilter, SockRef};

use super::TcpInfo;

/// The classic BPF of filter.rst: load a byte, test a bit, return. The first byte is that of the TCP header (`tcp_filter` of
/// net/ipv4/tcp_ipv4.c).
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
const TEST_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
/// RFC 9293 §3.1.
const FLAGS: u32 = 13;
const RST: u32 = 4;
/// Where the kernel does not wait for us (membarrier(2) with `nohz_full`). No segment is on its way through TCP for so long.
const GRACE: Duration = Duration::from_millis(50);

/// Sockets that hear nothing until this is dropped. Resets are heard: nobody would send them again.
pub struct Mute<'a, S: AsFd, const N: usize>([&'a S; N]);

impl<'a, S: AsFd, const N: usize> Mute<'a, S, N> {
    /// Returns once no segment is on its way through any of them any more, which takes some milliseconds.
    ///
    /// # Errors
    /// The kernel refuses the filter, for example since it has no memory. The sockets hear as before.
    pub async fn new(sockets: [&'a S; N]) -> io::Result<Self> {
        let mute = Self(sockets);
        let filter = [
            SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
            SockFilter::new(TEST_BIT, 0, 1, RST),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ];
        for socket in sockets {
            SockRef::from(socket).attach_filter(&filter)?;
        }
        // Segments that passed before are on their way through TCP on another processor, inside of an RCU read section.
        let waited = tokio::task::spawn_blocking(|| membarrier(MembarrierCommand::Global)).await;
        if !matches!(waited, Ok(Ok(()))) {
            tokio::time::sleep(GRACE).await;
        }
        for socket in sockets {
            // Or they wait for the socket's lock, which this takes after them.
            TcpInfo::read(socket)?;
        }
        Ok(mute)
    }
}

impl<S: AsFd, const N: usize> Drop for Mute<'_, S, N> {
    fn drop(&mut self) {
        for socket in self.0 {
            if let Err(error) = SockRef::from(socket).detach_filter() {
                // There is none if it could not be attached.
                tracing::debug!(%error, socket = ?socket.as_fd(), "a socket's filter cannot be taken off");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> [TcpStream; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        [near, listener.accept().unwrap().0]
    }

    #[tokio::test]
    async fn what_is_sent_meanwhile_comes_afterwards() {
        let ([mut far, mut near], [_other, unused]) = (pair(), pair());
        near.set_nonblocking(true).unwrap();
        let mute = Mute::new([&near, &unused]).await.unwrap();
        far.write_all(b"hello").unwrap();
        // It has come, and has come again.
        while TcpInfo::read(&far).unwrap().retransmitted == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let unheard = (&near).read(&mut [0; 5]).unwrap_err();
        assert_eq!(unheard.kind(), ErrorKind::WouldBlock);
        assert_eq!(TcpInfo::read(&near).unwrap().received, 0);
        drop(mute);
        near.set_nonblocking(false).unwrap();
        let mut heard = [0; 5];
        near.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }

    #[tokio::test]
    async fn a_reset_is_heard() {
        let ([far, near], [_other, unused]) = (pair(), pair());
        let mute = Mute::new([&near, &unused]).await.unwrap();
        SockRef::from(&far)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(far);
        let reset = (&near).read(&mut [0; 1]).unwrap_err();
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
        drop(mute);
    }
}
