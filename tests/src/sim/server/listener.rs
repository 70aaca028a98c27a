//! The listening socket of a server, and the connections that it takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

use super::app::App;
use super::connection;
use crate::ports::free_on;

const BACKLOG: i32 = 4096;

/// At `address`; port 0 stands for one that stays the server's own while it is down.
pub(super) fn bind_new(mut address: SocketAddr) -> Result<TcpListener> {
    if address.port() == 0 {
        address.set_port(free_on(&[address.ip()])?);
    }
    bind(address)
}

/// With SO_REUSEADDR, so that a restart need not wait for old connections to time out.
pub(super) fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket
        .bind(&address.into())
        .with_context(|| format!("bind {address}"))?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into())?)
}

/// [`bind`] where a server listened until now. A process that another thread starts meanwhile keeps a copy of the old socket until it runs
/// its program, and so the address: it is waited for, as long as starting a process may take.
pub(super) async fn bind_again(address: SocketAddr) -> Result<TcpListener> {
    let mut tries = 500;
    loop {
        match bind(address) {
            Err(error) if tries > 0 && is_taken(&error) => tries -= 1,
            result => return result,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_taken(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Takes connections until it is dropped.
pub(super) async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    acceptor: tokio_rustls::TlsAcceptor,
    next_connection: Arc<AtomicU64>,
) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let id = next_connection.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(connection::run(
                    app.clone(),
                    acceptor.clone(),
                    tcp,
                    peer,
                    id,
                ));
            }
            // Out of descriptors: others must be closed first.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
