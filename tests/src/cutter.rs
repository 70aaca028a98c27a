//! A TCP relay in front of a server, whose connections a test ends as a kernel or a proxy would: in a silent moment, or when the answer
//! to a request is on its way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::eventually;

/// How the client learns that its connection has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// In order: the client reads the end of the stream.
    Fin,
    /// `SOCK_DESTROY` and a process that dies with unread data do this.
    Rst,
}

/// Runs until dropped.
pub struct Cutter {
    pub address: SocketAddr,
    state: Arc<State>,
    accept: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    open: AtomicUsize,
    orders: watch::Sender<Order>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Order {
    end: Option<End>,
    /// Not at once, but instead of the server's next bytes.
    at_the_answer: bool,
}

impl Cutter {
    /// Connections go to `server`.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let state = Arc::new(State::default());
        Ok(Self {
            address: listener.local_addr()?,
            state: Arc::clone(&state),
            accept: tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(relay(client, server, Arc::clone(&state)));
                }
            }),
        })
    }

    /// Ends every connection now.
    ///
    /// # Errors
    /// One is still open after 10 s.
    pub async fn end(&self, end: End) -> Result<()> {
        self.order(end, false);
        self.none_open().await
    }

    /// The next answer of the server does not reach its client: its connection ends instead.
    pub fn end_at_the_answer(&self, end: End) {
        self.order(end, true);
    }

    /// Waits until no connection is open, and lets those that come be.
    ///
    /// # Errors
    /// One is still open after 10 s.
    pub async fn none_open(&self) -> Result<()> {
        let open = || async { Ok(self.state.open.load(Ordering::Relaxed) == 0) };
        eventually("every connection has ended", Duration::from_secs(10), open).await?;
        self.state.orders.send_replace(Order::default());
        Ok(())
    }

    fn order(&self, end: End, at_the_answer: bool) {
        self.state.orders.send_replace(Order {
            end: Some(end),
            at_the_answer,
        });
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn relay(client: TcpStream, server: SocketAddr, state: Arc<State>) {
    let mut orders = state.orders.subscribe();
    state.open.fetch_add(1, Ordering::Relaxed);
    if let Ok(server) = TcpStream::connect(server).await {
        // Either side may break off at any time.
        let _ = pump(client, server, &mut orders).await;
    }
    state.open.fetch_sub(1, Ordering::Relaxed);
}

/// Until either side has ended, or an order ends the client's.
async fn pump(
    mut client: TcpStream,
    mut server: TcpStream,
    orders: &mut watch::Receiver<Order>,
) -> Result<()> {
    let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            count = client.read(&mut from_client) => match count? {
                0 => return Ok(()),
                count => server.write_all(&from_client[..count]).await?,
            },
            count = server.read(&mut from_server) => {
                let count = count?;
                let order = *orders.borrow();
                if let Some(end) = order.end.filter(|_| order.at_the_answer) {
                    return finish(client, end);
                }
                match count {
                    0 => return Ok(()),
                    count => client.write_all(&from_server[..count]).await?,
                }
            }
            changed = orders.changed() => {
                changed?;
                let order = *orders.borrow();
                if let Some(end) = order.end.filter(|_| !order.at_the_answer) {
                    return finish(client, end);
                }
            }
        }
    }
}

/// Nothing of the client's is left unread here, so that closing sends what is wanted.
fn finish(client: TcpStream, end: End) -> Result<()> {
    if end == End::Rst {
        // Without lingering, close(2) sends RST (socket(7)).
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    }
    drop(client);
    Ok(())
}
