//! What an operator asks an agent, through its Unix socket, and what anybody may read from its admin port.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use http::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::client::{Answer, full};

/// One request through the agent's Unix socket, as root of the node.
pub async fn operate(
    socket: &Path,
    method: Method,
    path: &str,
    body: &'static str,
) -> Result<(u16, Answer)> {
    exchange(UnixStream::connect(socket).await?, method, path, body).await
}

/// One request to the admin port, as anybody who reaches it.
pub async fn read(address: SocketAddr, method: Method, path: &str) -> Result<(u16, Answer)> {
    exchange(TcpStream::connect(address).await?, method, path, "").await
}

async fn exchange<S>(
    stream: S,
    method: Method,
    path: &str,
    body: &'static str,
) -> Result<(u16, Answer)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .body(full(body))?;
    let answer = Answer::read(sender.send_request(request).await?).await?;
    Ok((answer.status.as_u16(), answer))
}
