//! The admin port's listeners. Bounded in connections, header, body and time, so that they cannot be used against the agent; each
//! has bounds of its own, so that nobody on the network can keep an operator out.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::live::{STREAMS, answer_or_stream};
use super::{Access, Hosts, PublishedSocket, Views};
use crate::drain::DrainTrigger;
use crate::readiness::PassingReasons;
use crate::readiness::Readiness;

/// Open connections; a scraper, two probes and a few people need far fewer.
const CONNECTIONS: usize = 64;
/// Also how long a kept-alive connection may be silent.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const HEADERS: usize = 64;
const HEADER_SIZE: usize = 32 * 1024;
const BUFFER: usize = 64 * 1024;
/// A reader that never reads holds a connection no longer than this.
const CONNECTION_TIME: Duration = Duration::from_secs(300);

/// Everything the port needs.
pub struct Admin {
    /// What the documents are made from.
    pub views: Views,
    /// What the agent still waits for; `/readyz` is 503 until nothing is left.
    pub readiness: Readiness,
    /// Why connections are not taken.
    pub standing: PassingReasons,
    /// Starts a drain for `POST /drain`.
    pub drain: DrainTrigger,
    /// The deadline of a drain that names none.
    pub drain_deadline: Duration,
    /// For another server to answer a probe, and for a request's body to arrive.
    pub answer_timeout: Duration,
}

/// Where requests come from.
#[derive(Debug)]
pub enum Door {
    /// `admin.listen`: for reading.
    Reader(TcpListener, Hosts),
    /// `admin.socket`: for everything.
    Operator(PublishedSocket),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Serves until it is dropped. Needs a runtime with I/O and time; connections are tasks of that runtime.
pub async fn serve(door: Door, admin: Arc<Admin>) {
    let access = match &door {
        Door::Reader(_, hosts) => Access::Reader(hosts.clone()),
        Door::Operator(_) => Access::Operator,
    };
    let access = Arc::new(access);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let streams = Arc::new(Semaphore::new(STREAMS));
    loop {
        let stream = match door.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of files or memory, or the client has gone: others may still be served.
                tracing::warn!(%error, "the admin port cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else {
            tracing::warn!(limit = CONNECTIONS, "the admin port refuses a connection");
            continue;
        };
        let (admin, access, streams) = (admin.clone(), access.clone(), streams.clone());
        tokio::spawn(async move {
            connection(stream, admin, access, streams).await;
            drop(slot);
        });
    }
}

impl Door {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Reader(listener, _) => Box::new(listener.accept().await?.0),
            Self::Operator(socket) => Box::new(socket.listener.accept().await?.0),
        })
    }
}

async fn connection(
    stream: Box<dyn Stream>,
    admin: Arc<Admin>,
    access: Arc<Access>,
    streams: Arc<Semaphore>,
) {
    let service = service_fn(|request| {
        let (admin, access, streams) = (admin.clone(), access.clone(), streams.clone());
        async move { Ok::<_, Infallible>(answer_or_stream(&admin, &access, &streams, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(HEADERS)
        .max_header_size(HEADER_SIZE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(CONNECTION_TIME) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of the admin port ended");
    }
}
