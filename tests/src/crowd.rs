//! Clients that connect and are of no use to anybody: for tests and benchmarks of what their neighbours feel.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Connections that say nothing. Closed, and no more made, when dropped.
pub struct Silent {
    held: Vec<TcpStream>,
    more: JoinHandle<()>,
}

impl Silent {
    /// `at_once` connections from the address `from`, then `a_second` more each second. Those that the other side closes
    /// stay in the number of those held, as an attacker's would that does not look.
    ///
    /// # Errors
    /// The first connections cannot be made.
    pub async fn crowd(
        from: IpAddr,
        to: SocketAddr,
        at_once: usize,
        a_second: u32,
    ) -> std::io::Result<Self> {
        let mut held = Vec::with_capacity(at_once);
        for _ in 0..at_once {
            held.push(connect_from(from, to).await?);
        }
        let more = tokio::spawn(async move {
            if a_second == 0 {
                return;
            }
            let mut tick = tokio::time::interval(Duration::from_secs(1) / a_second);
            let mut held = Vec::new();
            loop {
                tick.tick().await;
                // One that is refused is an attacker's loss.
                if let Ok(stream) = connect_from(from, to).await {
                    held.push(stream);
                }
            }
        });
        Ok(Self { held, more })
    }

    /// How many of those made at once are still open.
    pub fn open(&self) -> usize {
        let open = |stream: &&TcpStream| {
            let read = stream.try_read(&mut [0; 1]);
            matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        };
        self.held.iter().filter(open).count()
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.more.abort();
    }
}

/// A TCP connection from one of this machine's addresses.
///
/// # Errors
/// The address cannot be used, or the other side does not accept.
pub async fn connect_from(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = match from {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}
