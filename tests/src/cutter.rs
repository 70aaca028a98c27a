//! A TCP relay in front of a server, whose connections a test ends as a kernel or a proxy would: in a silent moment, or when the answer
//! to a request is on its way.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::agent::eventually;

const LIMIT: Duration = Duration::from_secs(10);

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
    /// Where clients connect.
    pub address: SocketAddr,
    state: Arc<State>,
    accept: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    open: AtomicUsize,
    /// All that are open end now.
    all: watch::Sender<Option<End>>,
    /// The connection on which the server answers next ends instead; taken by that one.
    at_the_answer: Mutex<Option<End>>,
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
        self.state.all.send_replace(Some(end));
        let none_open = || async { Ok(self.state.open.load(Ordering::Relaxed) == 0) };
        eventually("every connection has ended", LIMIT, none_open).await?;
        self.state.all.send_replace(None);
        Ok(())
    }

    /// The next answer of the server does not reach its client: its connection ends instead. Others, and those that are made later, go on.
    pub fn end_at_the_answer(&self, end: End) {
        *self.state.at_the_answer() = Some(end);
    }

    /// Waits until an answer was withheld.
    ///
    /// # Errors
    /// None was within 10 s.
    pub async fn withheld(&self) -> Result<()> {
        let taken = || async { Ok(self.state.at_the_answer().is_none()) };
        eventually("an answer was withheld", LIMIT, taken).await
    }
}

impl State {
    fn at_the_answer(&self) -> MutexGuard<'_, Option<End>> {
        self.at_the_answer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn relay(client: TcpStream, server: SocketAddr, state: Arc<State>) {
    state.open.fetch_add(1, Ordering::Relaxed);
    if let Ok(server) = TcpStream::connect(server).await {
        // Either side may break off at any time.
        let _ = pump(client, server, &state).await;
    }
    state.open.fetch_sub(1, Ordering::Relaxed);
}

/// Until either side has ended, or the client's is to end.
async fn pump(mut client: TcpStream, mut server: TcpStream, state: &State) -> Result<()> {
    let mut all = state.all.subscribe();
    let (mut from_client, mut from_server) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        tokio::select! {
            count = client.read(&mut from_client) => match count? {
                0 => return Ok(()),
                count => server.write_all(&from_client[..count]).await?,
            },
            count = server.read(&mut from_server) => {
                let count = count?;
                if let Some(end) = state.at_the_answer().take() {
                    return finish(client, end);
                }
                match count {
                    0 => return Ok(()),
                    count => client.write_all(&from_server[..count]).await?,
                }
            }
            end = wanted(&mut all) => return end.map_or(Ok(()), |end| finish(client, end)),
        }
    }
}

/// How all connections are to end, once they are; `None`: nobody is left to say so.
async fn wanted(all: &mut watch::Receiver<Option<End>>) -> Option<End> {
    *all.wait_for(Option::is_some).await.ok()?
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
