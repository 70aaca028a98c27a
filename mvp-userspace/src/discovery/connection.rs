//! One kept-open connection to a kube-apiserver, for small GETs whose answers are bounded in size and time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::fetch_error::{FetchError, io_failure, lost, transport};
use crate::config::Endpoint;
use crate::identity::proof::OwnUser;
use crate::net::{AbortOnDrop, DialFrom, dial_any};
use crate::route::Failure;

/// Names the agent in its own requests, so that an audit policy and a server's log can distinguish them from those of clients.
pub const USER_AGENT: &str = concat!(
    "mvp/",
    env!("CARGO_PKG_VERSION"),
    " (mixed version proxy; node agent)"
);

/// How to reach servers; the same for all of them.
#[derive(Clone)]
pub struct Dialer {
    /// The client configuration to use for the next connection (front-proxy pair, ALPN h2 and http/1.1). Asked anew each
    /// time, so that a reloaded certificate is used by the next connection.
    pub tls: Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>,
    /// Whom the agent asks as, by the configured header names.
    pub own: OwnUser,
    /// Sent as SNI and verified in the server's certificate.
    pub server_name: ServerName<'static>,
    /// Where connections come from.
    pub from: DialFrom,
    /// For name resolution, TCP, TLS and HTTP/2 preface together.
    pub connect_timeout: Duration,
    /// The time for one GET with its whole answer.
    pub timeout: Duration,
    /// After so long without a byte from the server a PING is sent.
    pub ping_interval: Duration,
    /// A PING that is not answered within this ends the connection.
    pub ping_timeout: Duration,
}

/// A whole answer.
pub struct DiscoveryResponse {
    pub status: StatusCode,
    pub content_type: String,
    pub etag: Option<HeaderValue>,
    pub body: Bytes,
}

/// An open connection. Dropping the last clone closes it.
#[derive(Clone)]
pub struct DiscoveryConnection {
    sender: Sender,
    authority: Arc<str>,
    own: OwnUser,
    timeout: Duration,
    closed: watch::Receiver<bool>,
    _driver: Arc<AbortOnDrop>,
}

#[derive(Clone)]
enum Sender {
    Http2(http2::SendRequest<Full<Bytes>>),
    /// One request at a time.
    Http1(Arc<Mutex<http1::SendRequest<Full<Bytes>>>>),
}

/// Bodies of answers that are not discovery documents: errors, `/readyz`, `/version`.
const SMALL: usize = 64 << 10;
/// An ETag of kube-apiserver is 130 bytes; one longer than this is not kept.
const MAX_ETAG: usize = 512;

impl DiscoveryConnection {
    /// Opens a connection to `endpoint` within the dialer's connect timeout.
    pub async fn open(dialer: &Dialer, endpoint: &Endpoint) -> Result<Self, FetchError> {
        match timeout(dialer.connect_timeout, connect(dialer, endpoint)).await {
            Ok(result) => result,
            Err(_) => Err(transport(
                "connecting",
                "no answer in time",
                Failure::TimedOut,
            )),
        }
    }

    /// Gets `path`. Only a 200 may have a body larger than a few KiB, and none larger than `limit` bytes.
    ///
    /// A 304 without an `etag` in the request, or one that takes longer than the dialer's timeout, is an error.
    pub async fn get(
        &self,
        path: &str,
        accept: &'static str,
        etag: Option<&HeaderValue>,
        limit: usize,
    ) -> Result<DiscoveryResponse, FetchError> {
        let request = self.request(Method::GET, path, accept, &self.own.headers())?;
        let exchange = self.exchange(conditional(request, etag), path, etag.is_some(), limit);
        match timeout(self.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(transport(
                "waiting for an answer",
                "no answer in time",
                Failure::TimedOut,
            )),
        }
    }

    /// Asks with these headers instead of the agent's own user; with a body (JSON) by POST. The answer is JSON and at most a few KiB.
    pub async fn ask(
        &self,
        path: &str,
        headers: &HeaderMap,
        body: Option<&'static str>,
    ) -> Result<DiscoveryResponse, FetchError> {
        let method = match body {
            Some(_) => Method::POST,
            None => Method::GET,
        };
        let mut request = self.request(method, path, "application/json", headers)?;
        if let Some(body) = body {
            *request.body_mut() = Full::from(body);
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(CONTENT_TYPE, json);
        }
        match timeout(self.timeout, self.exchange(request, path, false, SMALL)).await {
            Ok(result) => result,
            Err(_) => Err(transport(
                "waiting for an answer",
                "no answer in time",
                Failure::TimedOut,
            )),
        }
    }

    /// Whether it has ended, whichever side ended it; a request on it would fail.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Resolves when the connection has ended, whichever side ended it.
    pub async fn closed(&self) {
        // An error means that the driver is gone, and so is the connection.
        let _ = self.closed.clone().wait_for(|closed| *closed).await;
    }

    /// Begins a GET whose answer is read as it comes (a watch), and returns with its head, within the dialer's timeout.
    /// Dropping the answer ends it. Over HTTP/1.1 the connection is of no other use until then: see [`Self::is_multiplexed`].
    pub async fn stream(
        &self,
        path: &str,
        accept: &'static str,
    ) -> Result<http::Response<Incoming>, FetchError> {
        let request = self.request(Method::GET, path, accept, &self.own.headers())?;
        self.begin(request).await
    }

    /// The same with a body of this media type. The answer is JSON.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: HeaderValue,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, FetchError> {
        let mut request = self.request(method, path, "application/json", &self.own.headers())?;
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        *request.body_mut() = Full::new(body);
        self.begin(request).await
    }

    async fn begin(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, FetchError> {
        let head = async {
            match &self.sender {
                Sender::Http2(sender) => {
                    let mut sender = sender.clone();
                    sender.ready().await.map_err(lost)?;
                    sender.send_request(request).await.map_err(lost)
                }
                Sender::Http1(sender) => {
                    let mut sender = sender.lock().await;
                    sender.ready().await.map_err(lost)?;
                    sender.send_request(request).await.map_err(lost)
                }
            }
        };
        timeout(self.timeout, head).await.unwrap_or_else(|_| {
            Err(transport(
                "waiting for an answer",
                "no answer in time",
                Failure::TimedOut,
            ))
        })
    }

    /// True if it can have several exchanges at a time.
    pub fn is_multiplexed(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        path: &str,
        conditional: bool,
        limit: usize,
    ) -> Result<DiscoveryResponse, FetchError> {
        let response = match &self.sender {
            Sender::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await.map_err(lost)?;
                sender.send_request(request).await.map_err(lost)?
            }
            Sender::Http1(sender) => {
                // Held until the body is read: the connection can have one exchange at a time.
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(lost)?;
                let response = sender.send_request(request).await.map_err(lost)?;
                return answer(response, path, conditional, limit).await;
            }
        };
        answer(response, path, conditional, limit).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        headers: &HeaderMap,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let mut builder = Request::builder()
            .method(method)
            .header(ACCEPT, accept)
            .header(http::header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            builder = builder.header(name, value);
        }
        builder = match &self.sender {
            Sender::Http2(_) => builder.uri(
                Uri::builder()
                    .scheme("https")
                    .authority(&*self.authority)
                    .path_and_query(path)
                    .build()
                    .map_err(|e| transport("writing a request", e, Failure::Protocol))?,
            ),
            Sender::Http1(_) => builder.uri(path).header(HOST, &*self.authority),
        };
        builder
            .body(Full::default())
            .map_err(|e| transport("writing a request", e, Failure::Protocol))
    }
}

fn conditional(
    mut request: Request<Full<Bytes>>,
    etag: Option<&HeaderValue>,
) -> Request<Full<Bytes>> {
    if let Some(etag) = etag {
        request.headers_mut().insert(IF_NONE_MATCH, etag.clone());
    }
    request
}

/// Reads a body of at most `limit` bytes; `None` if there is more. Nothing beyond the limit is kept or asked for.
pub async fn read_bounded<B>(body: B, limit: usize) -> Result<Option<Bytes>, B::Error>
where
    B: Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(body);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if data.len() > limit - whole.len() {
            return Ok(None);
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(whole.freeze()))
}

/// The authority of an endpoint in URLs and in `Host`.
pub fn authority(endpoint: &Endpoint) -> String {
    if endpoint.host.contains(':') {
        format!("[{}]:{}", endpoint.host, endpoint.port)
    } else {
        format!("{}:{}", endpoint.host, endpoint.port)
    }
}

async fn answer(
    response: http::Response<Incoming>,
    path: &str,
    conditional: bool,
    limit: usize,
) -> Result<DiscoveryResponse, FetchError> {
    let (head, body) = response.into_parts();
    if head.status == StatusCode::NOT_MODIFIED && !conditional {
        return Err(FetchError::Status {
            path: path.to_owned(),
            status: 304,
        });
    }
    let limit = if head.status == StatusCode::OK {
        limit
    } else {
        SMALL.min(limit)
    };
    let too_large = || FetchError::TooLarge {
        path: path.to_owned(),
        limit,
    };
    let announced = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let body = read_bounded(body, limit)
        .await
        .map_err(lost)?
        .ok_or_else(too_large)?;
    let header = |name| head.headers.get(name);
    Ok(DiscoveryResponse {
        status: head.status,
        content_type: header(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned(),
        etag: header(ETAG).filter(|v| v.len() <= MAX_ETAG).cloned(),
        body,
    })
}

async fn connect(dialer: &Dialer, endpoint: &Endpoint) -> Result<DiscoveryConnection, FetchError> {
    let resolve = |reason: String| FetchError::Resolve {
        host: endpoint.host.clone(),
        reason,
    };
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|e| resolve(e.to_string()))?
            .collect();
    if addresses.is_empty() {
        return Err(resolve("no address".to_owned()));
    }
    let tcp = dial_any(&addresses, &dialer.from)
        .await
        .map_err(|e| transport("connecting", &e, io_failure(&e)))?;
    tcp.set_nodelay(true)
        .map_err(|e| transport("connecting", &e, io_failure(&e)))?;
    let tls = tokio_rustls::TlsConnector::from((dialer.tls)())
        .connect(dialer.server_name.clone(), tcp)
        .await
        .map_err(|e| transport("the TLS handshake", &e, io_failure(&e)))?;
    let http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(tls);
    let (closing, closed) = watch::channel(false);
    let (sender, driver) = if http2 {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(dialer.ping_interval)
            .keep_alive_timeout(dialer.ping_timeout)
            .keep_alive_while_idle(true)
            // What a server may send ahead of our reading; it bounds memory together with `limit`.
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(1 << 20)
            .max_header_list_size(16 << 10)
            .handshake(io)
            .await
            .map_err(lost)?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
            closing.send_replace(true);
        });
        (Sender::Http2(sender), driver)
    } else {
        let (sender, connection) = http1::Builder::new().handshake(io).await.map_err(lost)?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
            closing.send_replace(true);
        });
        (Sender::Http1(Arc::new(Mutex::new(sender))), driver)
    };
    Ok(DiscoveryConnection {
        sender,
        authority: authority(endpoint).into(),
        own: dialer.own.clone(),
        timeout: dialer.timeout,
        closed,
        _driver: Arc::new(AbortOnDrop(driver.abort_handle())),
    })
}
