//! The closed loop: every stream has exactly one request under way.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, Uri};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::{Answer, Answers, Endpoint, Latency};

/// The request that is sent again and again.
#[derive(Clone, Debug)]
pub struct Get {
    /// Absolute, with the authority that goes into `:authority`.
    pub uri: Uri,
    /// Header fields of every request.
    pub headers: HeaderMap,
}

/// A run ends at whichever comes first. Requests under way are completed and counted.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// No request begins after so long.
    pub duration: Duration,
    /// No more requests than these begin.
    pub requests: u64,
}

/// What a run saw.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How many answers of each kind.
    pub answers: Answers,
    /// From sending a request to the end of its answer.
    pub latency: Latency,
    /// From the first request to the end of the last answer.
    pub elapsed: Duration,
    /// The sum of all response bodies.
    pub bytes: u64,
}

/// Open HTTP/2 connections, used by one run after another. Needs a tokio runtime around it; made for a current-thread one.
pub struct Session {
    pub(super) connections: Vec<SendRequest<Bytes>>,
    drivers: JoinSet<()>,
}

impl Limit {
    /// Limited by time alone.
    pub fn duration(duration: Duration) -> Self {
        Self {
            duration,
            requests: u64::MAX,
        }
    }
}

impl Outcome {
    /// On average over the run.
    pub fn requests_per_second(&self) -> f64 {
        self.answers.total() as f64 / self.elapsed.as_secs_f64()
    }
}

impl Session {
    /// Opens `connections` connections to each endpoint, one after another.
    ///
    /// # Errors
    /// A connection that cannot be made, or a server that did not choose HTTP/2.
    pub async fn open(endpoints: &[Endpoint], connections: usize) -> Result<Self> {
        let mut session = Self {
            connections: Vec::new(),
            drivers: JoinSet::new(),
        };
        for endpoint in endpoints {
            for _ in 0..connections {
                session
                    .connect(endpoint)
                    .await
                    .with_context(|| format!("connection to {}", endpoint.address))?;
            }
        }
        Ok(session)
    }

    /// Opens `connections` connections to an endpoint from one of this machine's addresses, one after another.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_from(
        source: IpAddr,
        endpoint: &Endpoint,
        connections: usize,
    ) -> Result<Self> {
        let mut session = Self {
            connections: Vec::new(),
            drivers: JoinSet::new(),
        };
        for _ in 0..connections {
            let connected = match endpoint.connect_from(source).await {
                Ok(io) => session.add(io).await,
                Err(error) => Err(error.into()),
            };
            connected
                .with_context(|| format!("connection from {source} to {}", endpoint.address))?;
        }
        Ok(session)
    }

    async fn connect(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.add(endpoint.connect().await?).await
    }

    async fn add(&mut self, io: TlsStream<TcpStream>) -> Result<()> {
        ensure!(
            io.get_ref().1.alpn_protocol() == Some(b"h2"),
            "the server did not choose HTTP/2"
        );
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .enable_push(false)
            .handshake(io)
            .await?;
        self.drivers.spawn(async move {
            // A broken connection is seen by the streams on it.
            let _ = connection.await;
        });
        self.connections.push(sender);
        Ok(())
    }

    /// Sends the request once on every connection, and waits for all answers.
    pub async fn run_each(&self, get: &Get) -> Answers {
        let mut exchanges = JoinSet::new();
        for connection in &self.connections {
            let (connection, get) = (connection.clone(), get.clone());
            exchanges.spawn(async move { exchange(connection, &get).await });
        }
        let mut answers = Answers::default();
        while let Some(outcome) = exchanges.join_next().await {
            answers.count(match outcome {
                Ok(Ok((answer, _))) => answer,
                _ => Answer::Transport,
            });
        }
        answers
    }

    /// Runs `streams` loops on every connection.
    pub async fn run(&self, get: &Get, streams: usize, limit: Limit) -> Outcome {
        let start = Instant::now();
        let shared = Arc::new(Shared {
            get: get.clone(),
            deadline: start + limit.duration,
            left: AtomicU64::new(limit.requests),
            seen: Mutex::default(),
        });
        let mut loops = JoinSet::new();
        for connection in &self.connections {
            for _ in 0..streams {
                loops.spawn(stream(connection.clone(), shared.clone()));
            }
        }
        while loops.join_next().await.is_some() {}
        let elapsed = start.elapsed();
        let seen = std::mem::take(&mut *shared.seen.lock().unwrap_or_else(PoisonError::into_inner));
        Outcome {
            answers: seen.answers,
            latency: seen.latency,
            elapsed,
            bytes: seen.bytes,
        }
    }
}

struct Shared {
    get: Get,
    deadline: Instant,
    left: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    answers: Answers,
    latency: Latency,
    bytes: u64,
}

async fn stream(connection: SendRequest<Bytes>, shared: Arc<Shared>) {
    loop {
        let start = Instant::now();
        if start >= shared.deadline || !take(&shared.left) {
            return;
        }
        let result = exchange(connection.clone(), &shared.get).await;
        let latency = start.elapsed();
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok((answer, bytes)) => {
                seen.answers.count(answer);
                seen.latency.record(latency);
                seen.bytes += bytes;
            }
            // A connection does not heal; a loop on it would only spin.
            Err(_) => {
                seen.answers.count(Answer::Transport);
                return;
            }
        }
    }
}

fn take(left: &AtomicU64) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
}

/// One request, to the last byte of its answer.
pub(super) async fn exchange(
    connection: SendRequest<Bytes>,
    get: &Get,
) -> Result<(Answer, u64), h2::Error> {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = get.uri.clone();
    *request.headers_mut() = get.headers.clone();
    let (response, _) = connection.ready().await?.send_request(request, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = 0;
    let mut kept = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes += chunk.len() as u64;
        if !head.status.is_success() {
            kept.extend_from_slice(&chunk);
        }
    }
    Ok((Answer::classify(head.status, &kept), bytes))
}
