//! HTTP/2 connections to one server, kept and made anew, with the front proxy's certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use http::{Request, Response};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::sync::Mutex;

use crate::bench::target::SERVER_NAME;
use crate::load::Endpoint;
use crate::sim::pki::{ClientAuth, Pki};

/// What a request has for a body: a client's, or none.
pub(super) type Body = Either<Incoming, http_body_util::Empty<bytes::Bytes>>;

/// Connections at once: Go's transport makes another when a server's limit of streams is reached, and this knows no limits.
const CONNECTIONS: usize = 8;

pub(super) struct Link {
    endpoint: Endpoint,
    next: AtomicUsize,
    held: [Mutex<Option<SendRequest<Body>>>; CONNECTIONS],
}

impl Link {
    pub(super) fn new(address: SocketAddr, pki: &Pki) -> Result<Self> {
        let auth = ClientAuth::Certificate(pki.front_proxy_client()?);
        Ok(Self {
            endpoint: Endpoint {
                address,
                server_name: ServerName::try_from(SERVER_NAME)?,
                tls: Arc::new(pki.client_config(auth, &["h2"])?),
            },
            next: AtomicUsize::new(0),
            held: Default::default(),
        })
    }

    /// Sends a request on one of the connections, and returns when the answer's header is there.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let mut sender = {
            let mut held = self.held[place].lock().await;
            match &*held {
                Some(sender) if !sender.is_closed() => sender.clone(),
                _ => {
                    let made = self.connect().await?;
                    held.insert(made).clone()
                }
            }
        };
        sender.ready().await?;
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let address = self.endpoint.address;
        let io = self
            .endpoint
            .connect()
            .await
            .with_context(|| format!("connection to {address}"))?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(TokioIo::new(io))
            .await?;
        tokio::spawn(async move {
            // Whoever uses it sees that it has ended.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
