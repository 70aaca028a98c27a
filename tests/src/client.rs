//! A small HTTP client for tests: one connection, HTTP/2 or HTTP/1.1, whatever the test wants to see of it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Any body a test may want to send.
pub type TestBody = BoxBody<Bytes, std::io::Error>;

/// What clients ask for in TLS unless a test says otherwise; every certificate of a simulated control plane holds it.
pub const NAME: &str = "kubernetes";

/// One connection. Requests on HTTP/2 may overlap; on HTTP/1.1 one at a time.
pub struct Client {
    sender: Sender,
    /// Where it is connected.
    pub address: SocketAddr,
    /// How the connection was made.
    tls: Option<(Arc<rustls::ClientConfig>, String)>,
    returns: bool,
}

enum Sender {
    Http2(tokio::sync::Mutex<http2::SendRequest<TestBody>>),
    Http1(tokio::sync::Mutex<http1::SendRequest<TestBody>>),
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// Header fields as they came.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Fields behind the body; `None`: none came.
    pub trailers: Option<HeaderMap>,
}

impl Client {
    /// A connection that negotiated HTTP/2.
    ///
    /// # Errors
    /// No connection, no TLS session, or the server chose another protocol.
    pub async fn http2(
        address: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Self> {
        Self::http2_naming(address, tls, NAME).await
    }

    /// As a client that asks for this name in TLS; an address is none.
    pub async fn http2_naming(
        address: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
        server_name: &str,
    ) -> anyhow::Result<Self> {
        let stream = connect_tls(address, tls, &[b"h2"], server_name).await?;
        let mut client = Self::http2_over(stream, address).await?;
        client.tls = Some((tls.clone(), server_name.to_owned()));
        Ok(client)
    }

    /// Over a TLS connection that a test made in its own way.
    pub async fn http2_over<S>(stream: S, address: SocketAddr) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Ok(Self {
            sender: Sender::Http2(tokio::sync::Mutex::new(over_http2(stream).await?)),
            address,
            tls: None,
            returns: false,
        })
    }

    /// A connection that negotiated HTTP/1.1.
    ///
    /// # Errors
    /// No connection, no TLS session, or the server chose another protocol.
    pub async fn http1(
        address: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Self> {
        let stream = connect_tls(address, tls, &[b"http/1.1"], NAME).await?;
        let mut client = Self::http1_over(stream, address).await?;
        client.tls = Some((tls.clone(), NAME.to_owned()));
        Ok(client)
    }

    /// Over a TLS connection that a test made in its own way.
    pub async fn http1_over<S>(stream: S, address: SocketAddr) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Ok(Self {
            sender: Sender::Http1(tokio::sync::Mutex::new(over_http1(stream).await?)),
            address,
            tls: None,
            returns: false,
        })
    }

    /// Makes a new connection wherever the other side has ended the old one, as clients do, for callers who are told to leave
    /// after each answer.
    pub fn returning(mut self) -> Self {
        self.returns = true;
        self
    }

    /// A request with the target as this connection's HTTP version wants it.
    pub fn request(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: TestBody,
    ) -> anyhow::Result<Request<TestBody>> {
        let mut request = Request::builder().method(method);
        request = match self.sender {
            Sender::Http2(_) => request.uri(format!("https://kubernetes{target}")),
            Sender::Http1(_) => request.uri(target).header("host", "kubernetes"),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).context("request")
    }

    /// Sends; the answer's body is still to be read.
    pub async fn send(&self, request: Request<TestBody>) -> anyhow::Result<Response<Incoming>> {
        let mut request = request;
        loop {
            let sent = match &self.sender {
                Sender::Http2(sender) => {
                    let mut sender = sender.lock().await.clone();
                    sender.try_send_request(request).await
                }
                Sender::Http1(sender) => {
                    let mut sender = sender.lock().await;
                    if sender.ready().await.is_err() && self.returns {
                        *sender = over_http1(self.connect(b"http/1.1").await?).await?;
                    }
                    sender.ready().await?;
                    sender.try_send_request(request).await
                }
            };
            let mut error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            match error.take_message() {
                // It was never sent.
                Some(unsent) if self.returns => request = unsent,
                _ => return Err(error.into_error().into()),
            }
            if let Sender::Http2(sender) = &self.sender {
                *sender.lock().await = over_http2(self.connect(b"h2").await?).await?;
            }
        }
    }

    async fn connect(&self, alpn: &[u8]) -> anyhow::Result<TlsStream<TcpStream>> {
        let (tls, name) = self.tls.as_ref().context("made by somebody else")?;
        connect_tls(self.address, tls, &[alpn], name).await
    }

    /// A GET whose answer is read to its end.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn get(&self, target: &str, headers: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.call(Method::GET, target, headers, empty()).await
    }

    /// A request whose answer is read to its end.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn call(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: TestBody,
    ) -> anyhow::Result<Answer> {
        let request = self.request(method, target, headers, body)?;
        Answer::read(self.send(request).await?).await
    }

    /// A POST with `Content-Type: application/json`.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn post_json(
        &self,
        target: &str,
        headers: &[(&str, &str)],
        value: &serde_json::Value,
    ) -> anyhow::Result<Answer> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.call(Method::POST, target, &all, full(value.to_string()))
            .await
    }
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// It breaks off.
    pub async fn read(response: Response<Incoming>) -> anyhow::Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    /// The body as JSON; null if it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or(serde_json::Value::Null)
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn over_http2<S>(stream: S) -> anyhow::Result<http2::SendRequest<TestBody>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn over_http1<S>(stream: S) -> anyhow::Result<http1::SendRequest<TestBody>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

/// TCP and TLS with the given ALPN protocols; `config` says who the client is and whom it trusts.
pub async fn connect_tls(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    alpn: &[&[u8]],
    server_name: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    tls_over(
        TcpStream::connect(address).await?,
        config,
        alpn,
        server_name,
    )
    .await
}

/// TLS over a TCP connection that a test made in its own way.
pub async fn tls_over(
    tcp: TcpStream,
    config: &Arc<rustls::ClientConfig>,
    alpn: &[&[u8]],
    server_name: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut config = rustls::ClientConfig::clone(config);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from(server_name.to_owned())?;
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await?;
    if let Some(chosen) = stream.get_ref().1.alpn_protocol()
        && !alpn.contains(&chosen)
    {
        bail!("server chose {chosen:?}");
    }
    Ok(stream)
}

/// A body of no bytes.
pub fn empty() -> TestBody {
    full("")
}

/// A body whose length is announced.
pub fn full(bytes: impl Into<Bytes>) -> TestBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

/// A body that is sent as the test gives it: it ends when the sender is dropped, and breaks off at an error.
pub fn piecemeal() -> (mpsc::Sender<std::io::Result<Bytes>>, TestBody) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Piecemeal(receiver).boxed())
}

struct Piecemeal(mpsc::Receiver<std::io::Result<Bytes>>);

impl http_body::Body for Piecemeal {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0
            .poll_recv(cx)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
