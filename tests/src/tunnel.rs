//! HTTP/1.1 by hand, for what an HTTP client hides: upgrades, half-closed connections, bodies that break off.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::connect_tls;
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;

/// The headers that ask for a WebSocket; the key is RFC 6455 §1.3's.
pub const WEBSOCKET: &[(&str, &str)] = &[
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-protocol", "v5.channel.k8s.io"),
];
/// What the server answers to that key.
pub const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The headers of an upgrade to SPDY, as clients before Kubernetes 1.31 send them.
pub const SPDY: &[(&str, &str)] = &[
    ("connection", "Upgrade"),
    ("upgrade", "SPDY/3.1"),
    ("x-stream-protocol-version", "v4.channel.k8s.io"),
];

/// A TLS connection that speaks HTTP/1.1.
pub struct RawConnection {
    /// The connection, for what is not a head.
    pub stream: TlsStream<TcpStream>,
}

impl RawConnection {
    /// Connects with the plane's CA and this certificate.
    ///
    /// # Errors
    /// No connection, or no TLS session.
    pub async fn open(address: SocketAddr, plane: &ControlPlane, auth: ClientAuth) -> Result<Self> {
        let tls = plane.pki().client_config(auth, &[])?.into();
        let stream = connect_tls(address, &tls, &[b"http/1.1"], "kubernetes").await?;
        Ok(Self { stream })
    }

    /// Sends a head: nothing of a body.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<()> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: kubernetes\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        self.stream.write_all(head.as_bytes()).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Reads a head and nothing behind it.
    pub async fn head(&mut self) -> Result<(StatusCode, HeaderMap)> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            bytes.push(self.stream.read_u8().await.context("in an answer's head")?);
        }
        let text = String::from_utf8(bytes)?;
        let mut lines = text.lines();
        let code = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .context("no status line")?;
        let mut headers = HeaderMap::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').context("no header line")?;
            headers.append(
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_str(value.trim())?,
            );
        }
        Ok((code.parse()?, headers))
    }

    /// Sends a head and reads the head of the answer.
    ///
    /// # Errors
    /// The connection ends before it.
    pub async fn exchange(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(StatusCode, HeaderMap)> {
        self.send(method, target, headers).await?;
        self.head().await
    }

    /// Sends `bytes` and waits until they have come back.
    pub async fn echo(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        let mut back = vec![0; bytes.len()];
        self.stream.read_exact(&mut back).await?;
        anyhow::ensure!(back == bytes, "sent {bytes:?}, got {back:?}");
        Ok(())
    }

    /// The next bytes; empty at the end, whether the peer said goodbye (close_notify) or only closed.
    pub async fn read_some(&mut self) -> Result<Vec<u8>> {
        read_some(&mut self.stream).await
    }
}

/// See [`RawConnection::read_some`].
pub async fn read_some(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 16 * 1024];
    match stream.read(&mut buffer).await {
        Ok(count) => {
            buffer.truncate(count);
            Ok(buffer)
        }
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error.into()),
    }
}
