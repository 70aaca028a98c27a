//! Socket options, in one place with their reasons.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Unacknowledged data after which the kernel gives a connection up. Below the 15 s in which a dead server must be found;
/// HTTP/2 PINGs find the ones that acknowledge but do not answer.
const UPSTREAM_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients may sit behind slow links: longer than a server's, far below the kernel's 15 minutes.
const CLIENT_USER_TIMEOUT: Duration = Duration::from_secs(30);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Handshakes come in bursts when a server restarts and every client reconnects at once.
const BACKLOG: i32 = 4096;

/// Binds and listens. `SO_REUSEADDR` so that a restarted agent gets its port back at once.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        // `[::]` serves both families, as kube-apiserver's own listener does; a concrete address serves its own.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Options of a connection from a client.
pub fn tune_client(stream: &TcpStream) -> io::Result<()> {
    tune(stream, CLIENT_USER_TIMEOUT)
}

/// Options of a connection to a kube-apiserver.
pub fn tune_upstream(stream: &TcpStream) -> io::Result<()> {
    tune(stream, UPSTREAM_USER_TIMEOUT)
}

/// Closing the connection ends it with RST and leaves nothing behind (`SO_LINGER` of zero, socket(7)). For connections that end often and
/// have nothing more to say then: in TIME_WAIT each would keep one of few source ports for a minute.
pub fn forget_on_close(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()
}

fn tune(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL),
    )?;
    socket.set_tcp_user_timeout(Some(user_timeout))
}
