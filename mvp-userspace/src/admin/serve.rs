//! The admin port's listener. Bounded in connections, header, body and time, so that it cannot be used against the agent.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Views;
use super::answer::answer;
use crate::app::{DrainTrigger, Readiness};
use crate::steering::Standing;

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
    pub views: Views,
    pub readiness: Readiness,
    /// Why connections are not taken.
    pub standing: Standing,
    pub drain: DrainTrigger,
    /// For a drain that names none.
    pub drain_deadline: Duration,
    /// For another server to answer a probe, and for a request's body to arrive.
    pub answer_timeout: Duration,
}

/// Serves until it is dropped. Needs a runtime with I/O and time; connections are tasks of that runtime.
pub async fn serve(listener: TcpListener, admin: Admin) {
    let admin = Arc::new(admin);
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
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
        let admin = admin.clone();
        tokio::spawn(async move {
            connection(stream, admin).await;
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>) {
    let service = service_fn(|request| {
        let admin = admin.clone();
        async move { Ok::<_, Infallible>(answer(&admin, request).await) }
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
