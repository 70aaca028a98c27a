//! Whether the other side of an HTTP/2 connection is still there: a PING after some silence, which has to be answered in time.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::http2::Shared;
use crate::h2wire::client::Requesting;
use crate::h2wire::server::Answering;

/// Reads of a connection that brought something.
#[derive(Clone, Debug, Default)]
pub(super) struct Reads(Arc<AtomicUsize>);

/// How PINGs are sent, and how their answers are noticed.
pub(super) enum Pings {
    /// For a connection of the h2 crate.
    Library(PingPong),
    /// For a connection of the agent's own client.
    Client(Shared<Requesting>),
    /// For a connection of the agent's own server.
    Server(Shared<Answering>),
}

pub(super) struct KeepAlive {
    /// `None`: no PING is ever sent.
    pings: Option<Pings>,
    interval: Duration,
    timeout: Duration,
    reads: Reads,
    /// What `reads` was when it was last looked at, and when it had last changed.
    seen: usize,
    heard: Instant,
    /// Until the next PING, or the end of the time for the answer.
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl Reads {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl KeepAlive {
    /// Sends a PING after `interval` without a read, and waits for its answer for `timeout`.
    pub(super) fn new(reads: Reads, interval: Duration, timeout: Duration) -> Self {
        Self {
            pings: None,
            interval,
            timeout,
            reads,
            seen: 0,
            heard: Instant::now(),
            timer: Box::pin(sleep(interval)),
            asked: false,
        }
    }

    /// Where whoever reads counts.
    pub(super) fn reads(&self) -> Reads {
        self.reads.clone()
    }

    pub(super) fn with(mut self, pings: Option<Pings>) -> Self {
        self.pings = pings;
        self
    }

    /// Whether the other side is there, as far as that is known. To be called after each turn of the connection, which is what brings
    /// the answer.
    pub(super) fn is_alive(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pings) = &mut self.pings else {
            return true;
        };
        let reads = self.reads.0.load(Ordering::Relaxed);
        if reads != self.seen {
            self.seen = reads;
            self.heard = Instant::now();
        }
        loop {
            if self.asked && pings.answered(cx) {
                self.asked = false;
                self.heard = Instant::now();
                self.timer.as_mut().reset(self.heard + self.interval);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return true;
            }
            if self.asked {
                return false;
            }
            let (now, due) = (Instant::now(), self.heard + self.interval);
            if now < due {
                self.timer.as_mut().reset(due);
                continue;
            }
            self.asked = pings.send();
            let wait = match self.asked {
                true => self.timeout,
                false => self.interval,
            };
            self.timer.as_mut().reset(now + wait);
        }
    }
}

impl Pings {
    /// Sends a PING; the connection is woken to write it. False: the connection is ending, and reports that itself.
    fn send(&mut self) -> bool {
        match self {
            Self::Library(pings) => pings.send_ping(Ping::opaque()).is_ok(),
            Self::Client(client) => {
                client.lock().ping();
                true
            }
            Self::Server(server) => {
                server.lock().ping();
                true
            }
        }
    }

    /// Once for each answer.
    fn answered(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Library(pings) => matches!(pings.poll_pong(cx), Poll::Ready(Ok(_))),
            Self::Client(client) => client.lock().ponged(),
            Self::Server(server) => server.lock().ponged(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use h2::client::{Connection, SendRequest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::task::JoinHandle;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const PING: u8 = 6;
    const ACK: u8 = 1;

    struct Scene {
        /// Keeps the connection open.
        _send: SendRequest<Bytes>,
        connection: Connection<DuplexStream, Bytes>,
        keep_alive: KeepAlive,
        reads: Reads,
        /// The other end, which returns how many PINGs it received.
        far: JoinHandle<usize>,
    }

    /// A connection whose other end answers so many PINGs, and says nothing else.
    async fn scene(answers: usize) -> Scene {
        let (near, far) = tokio::io::duplex(1 << 16);
        let far = tokio::spawn(answer(far, answers));
        let (send, mut connection) = h2::client::handshake(near).await.unwrap();
        let reads = Reads::default();
        let pings = connection.ping_pong().map(Pings::Library);
        Scene {
            _send: send,
            connection,
            keep_alive: KeepAlive::new(reads.clone(), SHORT, SHORT).with(pings),
            reads,
            far,
        }
    }

    async fn answer(mut far: DuplexStream, answers: usize) -> usize {
        far.read_exact(&mut [0; 24]).await.unwrap();
        let mut pings = 0;
        let mut header = [0; 9];
        while far.read_exact(&mut header).await.is_ok() {
            let [_, a, b, kind, flags, ..] = header;
            let mut payload = vec![0; usize::from(a) << 8 | usize::from(b)];
            far.read_exact(&mut payload).await.unwrap();
            if kind != PING || flags & ACK != 0 {
                continue;
            }
            pings += 1;
            if pings <= answers {
                header[4] = ACK;
                let answer = [&header[..], &payload].concat();
                far.write_all(&answer).await.unwrap();
            }
        }
        pings
    }

    #[tokio::test]
    async fn a_ping_that_is_not_answered_ends_it() {
        for answers in [0, 3] {
            let mut scene = scene(answers).await;
            std::future::poll_fn(|cx| {
                assert!(Pin::new(&mut scene.connection).poll(cx).is_pending());
                match scene.keep_alive.is_alive(cx) {
                    true => Poll::Pending,
                    false => Poll::Ready(()),
                }
            })
            .await;
            drop(scene.connection);
            assert_eq!(scene.far.await.unwrap(), answers + 1);
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_of_a_connection_that_brings_something() {
        let mut scene = scene(0).await;
        let long = Duration::from_secs(3600);
        scene.keep_alive.interval = long;
        for reads in [true, false] {
            scene.keep_alive.heard = Instant::now() - long;
            scene.keep_alive.timer.as_mut().reset(Instant::now());
            if reads {
                scene.reads.count();
            }
            let alive = std::future::poll_fn(|cx| {
                let alive = scene.keep_alive.is_alive(cx);
                // The timer may need another turn of the runtime.
                match scene.keep_alive.timer.deadline() > Instant::now() {
                    true => Poll::Ready(alive),
                    false => Poll::Pending,
                }
            })
            .await;
            assert!(alive);
            assert_eq!(scene.keep_alive.asked, !reads);
        }
    }
}
