//! A client that behaves as client-go's transport does: one connection, reused and made anew when it broke or its server said that it
//! ends; a request that the server surely did not process is sent again.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::Endpoint;

/// HTTP/2 or HTTP/1.1, as ALPN decides. Over HTTP/1.1 requests wait for one another.
pub struct Client {
    endpoint: Endpoint,
    authorization: Option<HeaderValue>,
    connection: Mutex<Option<Connection>>,
    connect: Duration,
    answer: Duration,
}

/// Method, path with query, headers beside those of the client, body.
#[derive(Clone, Debug)]
pub struct Call {
    /// The request's method.
    pub method: Method,
    /// With the query.
    pub path: String,
    /// Beside those that the client sends with every request.
    pub headers: HeaderMap,
    /// Empty: there is none.
    pub body: Bytes,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// Header fields as they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// There is no answer.
#[derive(Debug)]
pub enum Failure {
    /// Refused, unreachable, or no TLS session.
    Connect(io::Error),
    /// There was no whole answer within this.
    Timeout(Duration),
    /// The connection ended under the request, or the server reset its stream.
    Broken(hyper::Error),
    /// The call is no HTTP request: the caller's fault.
    Request(http::Error),
}

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(10);
/// Before each further attempt (x/net/http2 `RoundTripOpt`, which adds up to a tenth).
const REPEATS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => write!(f, "no connection: {error}"),
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Broken(error) => {
                write!(f, "broken connection: {error}")?;
                let mut next = error.source();
                while let Some(error) = next {
                    write!(f, ": {error}")?;
                    next = error.source();
                }
                Ok(())
            }
            Self::Request(error) => write!(f, "not a request: {error}"),
        }
    }
}

impl Error for Failure {}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Connect(error)
    }
}

impl From<http::Error> for Failure {
    fn from(error: http::Error) -> Self {
        Self::Request(error)
    }
}

impl Call {
    /// A GET without further headers.
    pub fn get(path: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// A DELETE without a body.
    pub fn delete(path: &str) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(path)
        }
    }

    /// A POST of a JSON object.
    pub fn create(path: &str, object: &serde_json::Value) -> Self {
        let mut call = Self {
            method: Method::POST,
            body: object.to_string().into(),
            ..Self::get(path)
        };
        call.headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        call
    }
}

impl Client {
    /// Connects with the first request. `authorization` as [`super::bearer`] makes it.
    pub fn new(endpoint: Endpoint, authorization: Option<HeaderValue>) -> Self {
        Self {
            endpoint,
            authorization,
            connection: Mutex::default(),
            connect: CONNECT,
            answer: ANSWER,
        }
    }

    /// Waits so long for a connection, and so long for an answer.
    pub fn patient(mut self, connect: Duration, answer: Duration) -> Self {
        (self.connect, self.answer) = (connect, answer);
        self
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, call: &Call) -> Result<Reply, Failure> {
        let exchange = async {
            let (head, body) = self.open(call).await?.into_parts();
            let body = body.collect().await.map_err(Failure::Broken)?.to_bytes();
            Ok(Reply {
                status: head.status,
                headers: head.headers,
                body,
            })
        };
        timeout(self.answer, exchange)
            .await
            .unwrap_or(Err(Failure::Timeout(self.answer)))
    }

    /// Sends a request and returns its answer's head with the body still to be read, which may last.
    pub async fn open(&self, call: &Call) -> Result<Response<Incoming>, Failure> {
        for wait in REPEATS {
            let attempt = match self.attempt(call).await {
                Ok(response) => return Ok(response),
                Err(attempt) => attempt,
            };
            match &attempt.failure {
                Failure::Broken(error) if may_repeat(error, &call.method, attempt.reused) => {}
                _ => return Err(attempt.failure),
            }
            tokio::time::sleep(wait).await;
        }
        let last = self.attempt(call).await;
        last.map_err(|attempt| attempt.failure)
    }

    async fn attempt(&self, call: &Call) -> Result<Response<Incoming>, Attempt> {
        let request = self.request(call).map_err(Attempt::fresh)?;
        let mut held = self.connection.lock().await;
        let reused = match &*held {
            Some(connection) if !connection.is_closed() => true,
            _ => {
                *held = None;
                *held = Some(self.connected().await.map_err(Attempt::fresh)?);
                false
            }
        };
        let answer = match &mut *held {
            Some(Connection::Http2(sender, number)) => {
                let (mut sender, number) = (sender.clone(), *number);
                drop(held);
                let answer = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                let answer = timeout(self.answer, answer).await;
                if let Ok(Err(error)) = &answer
                    && takes_no_more(error)
                {
                    self.leave(number).await;
                }
                answer
            }
            Some(Connection::Http1(sender)) => {
                let answer = async {
                    sender.ready().await?;
                    sender.send_request(request).await
                };
                let answer = timeout(self.answer, answer).await;
                if !matches!(answer, Ok(Ok(_))) {
                    *held = None;
                }
                answer
            }
            None => {
                return Err(Attempt::fresh(Failure::Connect(
                    io::ErrorKind::NotConnected.into(),
                )));
            }
        };
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Attempt {
                failure: Failure::Broken(error),
                reused,
            }),
            Err(_) => Err(Attempt {
                failure: Failure::Timeout(self.answer),
                reused,
            }),
        }
    }

    async fn connected(&self) -> Result<Connection, Failure> {
        let io = timeout(self.connect, self.endpoint.connect())
            .await
            .map_err(|_| Failure::Timeout(self.connect))??;
        converse(io).await
    }

    /// The next request makes another connection, unless one has already. Streams on this one go on.
    async fn leave(&self, number: u64) {
        let mut held = self.connection.lock().await;
        if matches!(&*held, Some(Connection::Http2(_, held)) if *held == number) {
            *held = None;
        }
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, Failure> {
        let http2 = self
            .endpoint
            .tls
            .alpn_protocols
            .first()
            .is_some_and(|name| name == b"h2");
        let authority = self.endpoint.address;
        let uri: Uri = if http2 {
            format!("https://{authority}{}", call.path)
                .parse()
                .map_err(http::Error::from)?
        } else {
            call.path.parse().map_err(http::Error::from)?
        };
        let mut request = Request::builder()
            .method(&call.method)
            .uri(uri)
            .body(Full::new(call.body.clone()))?;
        let headers = request.headers_mut();
        headers.extend(call.headers.clone());
        if !http2 {
            let host = HeaderValue::from_str(&authority.to_string()).map_err(http::Error::from)?;
            headers.insert(header::HOST, host);
        }
        if let Some(value) = &self.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        headers
            .entry(header::ACCEPT)
            .or_insert(HeaderValue::from_static("application/json"));
        Ok(request)
    }
}

struct Attempt {
    failure: Failure,
    /// Not the first request of its connection.
    reused: bool,
}

impl Attempt {
    fn fresh(failure: Failure) -> Self {
        Self {
            failure,
            reused: false,
        }
    }
}

enum Connection {
    /// With a number of its own.
    Http2(http2::SendRequest<Full<Bytes>>, u64),
    Http1(http1::SendRequest<Full<Bytes>>),
}

impl Connection {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http2(sender, _) => sender.is_closed(),
            Self::Http1(sender) => sender.is_closed(),
        }
    }
}

async fn converse(io: TlsStream<TcpStream>) -> Result<Connection, Failure> {
    let http2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(io);
    // A driver's error reaches the requests on its connection.
    if http2 {
        // As client-go has it (`apimachinery/pkg/util/net/http.go`, `readIdleTimeout` and `pingTimeout`).
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15))
            .keep_alive_while_idle(true)
            .handshake(io);
        let (sender, driver) = handshake.await.map_err(Failure::Broken)?;
        tokio::spawn(driver);
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Ok(Connection::Http2(sender, number))
    } else {
        let (sender, driver) = http1::handshake(io).await.map_err(Failure::Broken)?;
        tokio::spawn(driver);
        Ok(Connection::Http1(sender))
    }
}

/// Go's rules (net/http `shouldRetryRequest`, x/net/http2 `canRetryError`): what was never written, what GOAWAY or
/// REFUSED_STREAM names as not processed, and over HTTP/1.1 a repeatable request on a connection that the server had
/// used before and closed without a byte of an answer.
fn may_repeat(error: &hyper::Error, method: &Method, reused: bool) -> bool {
    if error.is_canceled() {
        return true;
    }
    if let Some(error) = cause::<h2::Error>(error) {
        let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
        let gone =
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
        return refused || gone;
    }
    let closed = error.is_incomplete_message() || cause::<io::Error>(error).is_some();
    reused && closed && *method == Method::GET
}

/// Whether the connection takes no further request: the server has said that it ends it (in Go `CanTakeNewRequest` is false from then
/// on), or it has ended. hyper lets requests be queued for one until its driver has seen that.
fn takes_no_more(error: &hyper::Error) -> bool {
    cause::<h2::Error>(error).is_none_or(|error| !error.is_reset())
}

fn cause<T: Error + 'static>(error: &hyper::Error) -> Option<&T> {
    let mut next = error.source();
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls_pki_types::ServerName;

    use super::*;
    use crate::load::bearer;
    use crate::sim::pki::ClientAuth;
    use crate::sim::{ControlPlane, ServerSpec};

    async fn plane_and_client(alpn: &str) -> (ControlPlane, Client) {
        let plane = ControlPlane::builder()
            .server(ServerSpec::new("cp-a", 35))
            .start()
            .await
            .unwrap();
        let endpoint = Endpoint {
            address: plane.server(0).addr(),
            server_name: ServerName::try_from("kubernetes.default.svc").unwrap(),
            tls: Arc::new(
                plane
                    .pki()
                    .client_config(ClientAuth::None, &[alpn])
                    .unwrap(),
            ),
        };
        let token = bearer("admin-token").unwrap();
        (plane, Client::new(endpoint, Some(token)))
    }

    const NAMESPACES: &str = "/api/v1/namespaces";

    fn namespace(name: &str) -> Call {
        let object = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Call::create(NAMESPACES, &object)
    }

    #[tokio::test]
    async fn a_connection_is_reused_and_replaced_when_the_server_was_away() {
        for alpn in ["h2", "http/1.1"] {
            let (plane, client) = plane_and_client(alpn).await;
            for _ in 0..3 {
                assert_eq!(
                    client.send(&Call::get(NAMESPACES)).await.unwrap().status,
                    StatusCode::OK
                );
            }
            assert_eq!(
                client.send(&namespace("one")).await.unwrap().status,
                StatusCode::CREATED
            );
            assert_eq!(plane.server(0).connections(), 1, "{alpn}");
            plane.server(0).kill().await;
            assert!(matches!(
                client.send(&namespace("two")).await,
                Err(Failure::Connect(_) | Failure::Broken(_))
            ));
            plane.server(0).start().await.unwrap();
            assert_eq!(
                client.send(&namespace("two")).await.unwrap().status,
                StatusCode::CREATED,
                "{alpn}"
            );
        }
    }

    #[tokio::test]
    async fn what_the_server_did_not_process_is_sent_again() {
        let (plane, client) = plane_and_client("h2").await;
        plane.server(0).refuse_streams(1);
        assert_eq!(
            client.send(&namespace("one")).await.unwrap().status,
            StatusCode::CREATED
        );
        // As often as that happens, not once.
        plane.server(0).refuse_streams(2);
        assert_eq!(
            client.send(&namespace("one-more")).await.unwrap().status,
            StatusCode::CREATED
        );
        plane.server(0).goaway().await;
        assert_eq!(
            client.send(&namespace("two")).await.unwrap().status,
            StatusCode::CREATED
        );
        // Nobody knows whether a request on a reset stream was processed.
        plane.server(0).reset_next(1);
        assert!(matches!(
            client.send(&namespace("three")).await,
            Err(Failure::Broken(_))
        ));
    }
}
