//! Clients that say byte for byte what a test wants: HTTP/1.1 as text, HTTP/2 as frames.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::client::connect_tls;

/// For a peer that must say or do something, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TLS connection on which a test writes and reads itself.
pub struct Raw {
    stream: TlsStream<TcpStream>,
    received: Vec<u8>,
}

/// An HTTP/1.1 answer, names in lower case.
#[derive(Debug)]
pub struct RawAnswer {
    /// The status of its first line.
    pub status: u16,
    /// In their order, values without surrounding spaces.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

/// One HTTP/2 frame (RFC 9113 §4.1).
#[derive(Debug)]
pub struct Frame {
    /// The type, RFC 9113 §6.
    pub kind: u8,
    /// What they mean depends on the type.
    pub flags: u8,
    /// 0: the connection.
    pub stream: u32,
    /// As it came, with padding.
    pub payload: Vec<u8>,
}

/// The type of frames with a header list.
pub const HEADERS: u8 = 1;
/// The type of frames that end a stream.
pub const RST_STREAM: u8 = 3;
/// The type of frames with settings.
pub const SETTINGS: u8 = 4;
/// The type of frames that end a connection.
pub const GOAWAY: u8 = 7;
/// The type of frames that go on with a header list.
pub const CONTINUATION: u8 = 9;

impl Raw {
    /// A connection for HTTP/1.1.
    pub async fn http1(
        address: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Self> {
        Self::connect(address, tls, b"http/1.1").await
    }

    /// A connection for HTTP/2: the preface and empty SETTINGS are sent.
    pub async fn http2(
        address: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
    ) -> anyhow::Result<Self> {
        let mut raw = Self::connect(address, tls, b"h2").await?;
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        raw.send_frame(SETTINGS, 0, 0, b"").await?;
        Ok(raw)
    }

    /// A connection for `alpn` over a TCP connection that is there already. Nothing is sent after TLS.
    pub async fn over(
        stream: TcpStream,
        tls: &Arc<rustls::ClientConfig>,
        alpn: &[u8],
    ) -> anyhow::Result<Self> {
        let mut config = rustls::ClientConfig::clone(tls);
        config.alpn_protocols = vec![alpn.to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(Self {
            stream: connector.connect("kubernetes".try_into()?, stream).await?,
            received: Vec::new(),
        })
    }

    async fn connect(
        address: SocketAddr,
        tls: &Arc<rustls::ClientConfig>,
        alpn: &[u8],
    ) -> anyhow::Result<Self> {
        Ok(Self {
            stream: connect_tls(address, tls, &[alpn], "kubernetes").await?,
            received: Vec::new(),
        })
    }

    /// Sends these bytes, whatever they are.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> anyhow::Result<()> {
        self.stream.write_all(bytes.as_ref()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends one frame, whatever it is.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> anyhow::Result<()> {
        self.send(frame(kind, flags, stream, payload)).await
    }

    /// The head of the next HTTP/1.1 answer, as it came.
    ///
    /// # Errors
    /// The connection ended before, or nothing came for half a minute.
    pub async fn head(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                let head = self.received.drain(..at + 4).collect();
                return Ok(String::from_utf8(head)?);
            }
            self.more().await?;
        }
    }

    /// The next HTTP/1.1 answer, with its body; to a HEAD request there is none. An interim answer (1xx) is one by itself.
    ///
    /// # Errors
    /// The connection ended before, or nothing came for half a minute.
    pub async fn answer(&mut self, to_head: bool) -> anyhow::Result<RawAnswer> {
        let end = loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                break at;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.received.drain(..end + 4).collect();
        let mut answer = RawAnswer::parse(&head)?;
        if to_head || answer.status < 200 || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)
                    .with_context(|| format!("chunk size {line:?}"))?;
                if size == 0 {
                    break;
                }
                let chunk = self.exactly(size + 2).await?;
                answer.body.extend_from_slice(&chunk[..size]);
            }
            // Trailers are headers to a test.
            loop {
                let line = self.line().await?;
                let Some((name, value)) = line.split_once(':') else {
                    return Ok(answer);
                };
                let field = (name.to_ascii_lowercase(), value.trim().to_owned());
                answer.headers.push(field);
            }
        }
        let length = answer.header("content-length").unwrap_or("0").parse()?;
        answer.body = self.exactly(length).await?;
        Ok(answer)
    }

    /// The next HTTP/2 frame; `None` at the end of the connection, however it comes.
    pub async fn frame(&mut self) -> anyhow::Result<Option<Frame>> {
        if !self.have(9).await? {
            return Ok(None);
        }
        let length = u32::from_be_bytes([0, self.received[0], self.received[1], self.received[2]]);
        if !self.have(9 + length as usize).await? {
            return Ok(None);
        }
        let bytes: Vec<u8> = self.received.drain(..9 + length as usize).collect();
        Ok(Some(Frame {
            kind: bytes[3],
            flags: bytes[4],
            stream: u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]),
            payload: bytes[9..].to_vec(),
        }))
    }

    /// Everything until the other side closes (in whatever way).
    ///
    /// # Errors
    /// It did not within half a minute.
    pub async fn until_closed(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            match tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await {
                Err(_elapsed) => bail!(
                    "still open; received {:?}",
                    String::from_utf8_lossy(&self.received)
                ),
                Ok(Ok(0) | Err(_)) => return Ok(std::mem::take(&mut self.received)),
                Ok(Ok(_)) => {}
            }
        }
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(at) = find(&self.received, b"\r\n") {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return Ok(String::from_utf8(line[..at].to_vec())?);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.received.len() < length {
            self.more().await?;
        }
        Ok(self.received.drain(..length).collect())
    }

    /// Whether so many bytes came before the end.
    async fn have(&mut self, length: usize) -> anyhow::Result<bool> {
        while self.received.len() < length {
            match tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await {
                Err(_elapsed) => bail!("nothing came in time"),
                Ok(Ok(0) | Err(_)) => return Ok(false),
                Ok(Ok(_)) => {}
            }
        }
        Ok(true)
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.received));
        match read.await.context("nothing came in time")? {
            Ok(0) => bail!("closed after {:?}", String::from_utf8_lossy(&self.received)),
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl RawAnswer {
    fn parse(head: &[u8]) -> anyhow::Result<Self> {
        let text = String::from_utf8_lossy(head);
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap_or_default();
        let code = status.split(' ').nth(1).unwrap_or_default();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Ok(Self {
            status: code
                .parse()
                .with_context(|| format!("status line {status:?}"))?,
            headers: headers.collect(),
            body: Vec::new(),
        })
    }

    /// The first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One frame's bytes. The payload must fit into the default frame size.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block without compression (RFC 7541 §6.2.2: literal, never indexed by the other side).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // A seven-bit prefix, then seven bits a byte (RFC 7541 §5.1).
            let mut length = text.len();
            if length < 127 {
                bytes.push(length as u8);
            } else {
                bytes.push(127);
                length -= 127;
                while length >= 128 {
                    bytes.push((length % 128) as u8 | 128);
                    length /= 128;
                }
                bytes.push(length as u8);
            }
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A header block whose field `name: value` is stored in the other side's table, then meant `times` more by a byte each
/// (RFC 7541 §6.2.1 and §6.1). With an empty `value` it is not stored again: the block of a later request.
pub fn bomb(path: &str, name: &str, value: &str, times: usize) -> Vec<u8> {
    /// The first entry of the dynamic table (RFC 7541 §2.3.3).
    const NEWEST: u8 = 0x80 | 62;
    let mut bytes = block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", path),
    ]);
    if !value.is_empty() {
        let mut field = block(&[(name, value)]);
        field[0] = 0x40;
        bytes.extend(field);
    }
    bytes.extend(std::iter::repeat_n(NEWEST, times));
    bytes
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
