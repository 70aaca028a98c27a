//! Connections over loopback for the self-test and the calibration, and bytes to send over them.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A client and a server, with the two sockets that are to be joined between them.
pub(super) struct Rig {
    pub client: TcpStream,
    /// The client's other end.
    pub a: TcpStream,
    /// The server's other end.
    pub b: TcpStream,
    pub server: TcpStream,
}

impl Rig {
    pub(super) async fn new() -> io::Result<Self> {
        let (client, a) = connection().await?;
        let (b, server) = connection().await?;
        Ok(Self {
            client,
            a,
            b,
            server,
        })
    }
}

/// Both ends of a connection.
pub(super) async fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let connect = TcpStream::connect(address);
    let ((near, _), far) = tokio::try_join!(listener.accept(), connect)?;
    for stream in [&near, &far] {
        stream.set_nodelay(true)?;
    }
    Ok((far, near))
}

/// Bytes that look alike nowhere; a prime number of them, so that a block that is lost or doubled shows.
pub(super) fn pattern() -> Vec<u8> {
    const LENGTH: usize = 65_521;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(LENGTH + 8);
    while bytes.len() < LENGTH {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(LENGTH);
    bytes
}

/// Sends the pattern until `bytes` have been sent.
pub(super) async fn send(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    pattern: &[u8],
    bytes: usize,
) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let block = pattern.get(..left).unwrap_or(pattern);
        stream.write_all(block).await?;
        left -= block.len();
    }
    Ok(())
}

/// Reads `bytes` and compares them with the pattern.
pub(super) async fn receive(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    pattern: &[u8],
    bytes: usize,
) -> Result<(), String> {
    let mut block = vec![0; pattern.len()];
    let mut left = bytes;
    while left > 0 {
        // The last one may be shorter.
        block.truncate(left);
        stream
            .read_exact(&mut block)
            .await
            .map_err(|e| format!("after {} of {bytes} bytes: {e}", bytes - left))?;
        if pattern.get(..block.len()) != Some(&*block) {
            return Err(format!("other bytes than sent, after {}", bytes - left));
        }
        left -= block.len();
    }
    Ok(())
}

/// The next read must say that there is no more.
pub(super) async fn no_more(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<(), String> {
    match stream.read(&mut [0; 16]).await {
        Ok(0) => Ok(()),
        Ok(bytes) => Err(format!("{bytes} bytes too many")),
        Err(error) => Err(format!("instead of an end: {error}")),
    }
}

/// The next read must say that the connection was reset.
pub(super) async fn reset(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<(), String> {
    match stream.read(&mut [0; 16]).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(format!("instead of a reset: {error}")),
        Ok(bytes) => Err(format!("instead of a reset: {bytes} bytes")),
    }
}
