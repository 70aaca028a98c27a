//! WebSocket: messages whose first byte is a channel (apimachinery `pkg/util/httpstream/wsstream/conn.go`), or that carry another
//! protocol's bytes.

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};
use tokio_tungstenite::tungstenite::{Result, Utf8Bytes};

use super::Wanted;
use super::container::{Output, Process, STARTS};
use super::ports;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// The channel that follows is closed (since `v5.channel.k8s.io`).
const CLOSE: u8 = 255;

/// The server's side of a WebSocket, after the handshake.
pub(super) async fn open<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(stream, Role::Server, None).await
}

pub(super) async fn process(
    mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
    wanted: Wanted,
    mut process: Process,
) -> Result<()> {
    // A message without content, on the first channel that the client reads, tells it that the process runs.
    let channels = [
        (STDOUT, wanted.stdout),
        (STDERR, wanted.stderr),
        (STATUS, true),
    ];
    if let Some((channel, _)) = channels.iter().find(|(_, wanted)| *wanted) {
        socket.send(message(*channel, b"")).await?;
    }
    loop {
        tokio::select! {
            heard = heard(&mut socket) => {
                let Some(mut bytes) = heard? else {
                    return leave(socket).await;
                };
                if bytes.is_empty() {
                    continue;
                }
                match bytes.split_to(1)[0] {
                    STDIN if !bytes.is_empty() => {
                        // It may have ended.
                        let _ = process.stdin.as_ref().map(|stdin| stdin.send(bytes));
                    }
                    CLOSE if bytes.first() == Some(&STDIN) => process.stdin = None,
                    _ => {}
                }
            }
            output = process.output.recv() => match output {
                Some(Output::Stdout(bytes)) if wanted.stdout => socket.send(message(STDOUT, &bytes)).await?,
                Some(Output::Stderr(bytes)) if wanted.stderr => socket.send(message(STDERR, &bytes)).await?,
                Some(Output::Ended(status)) => {
                    socket.send(message(STATUS, status.to_string().as_bytes())).await?;
                    return end(socket).await;
                }
                None => return end(socket).await,
                _ => {}
            },
        }
    }
}

/// Two channels for each port of the query: data, then an error (kubelet `pkg/cri/streaming/portforward/websocket.go`).
pub(super) async fn ports(
    mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
    open: &[u16],
    asked: &[u16],
) -> Result<()> {
    for (number, port) in asked.iter().enumerate() {
        for channel in [2 * number, 2 * number + 1] {
            let port = port.to_le_bytes();
            socket.send(message(channel as u8, &port)).await?;
        }
    }
    tokio::time::sleep(STARTS).await;
    for (number, port) in asked.iter().enumerate() {
        if !open.contains(port) {
            let refused = ports::refused(*port);
            let channel = 2 * number + 1;
            socket
                .send(message(channel as u8, refused.as_bytes()))
                .await?;
        }
    }
    if !asked.iter().any(|port| open.contains(port)) {
        return end(socket).await;
    }
    while let Some(bytes) = heard(&mut socket).await? {
        let channel = bytes.first().copied().map_or(usize::MAX, usize::from);
        let port = asked.get(channel / 2).filter(|_| channel % 2 == 0);
        if port.is_some_and(|port| open.contains(port)) && bytes.len() > 1 {
            socket.send(Message::Binary(bytes)).await?;
        }
    }
    leave(socket).await
}

/// The bytes that a WebSocket's messages carry.
pub(super) fn tunnel<S>(socket: WebSocketStream<S>) -> DuplexStream
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        // Either side may break off at any time.
        let _ = pump(socket, theirs).await;
    });
    ours
}

async fn pump(
    mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
    stream: DuplexStream,
) -> Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut buffer = BytesMut::new();
    loop {
        tokio::select! {
            heard = heard(&mut socket) => match heard? {
                Some(bytes) => write.write_all(&bytes).await?,
                None => return leave(socket).await,
            },
            read = read.read_buf(&mut buffer) => {
                if read? == 0 {
                    return end(socket).await;
                }
                socket.send(Message::Binary(buffer.split().freeze())).await?;
            }
        }
    }
}

/// The content of the next message that has any, whether it is text or not; `None` at the end. Closing is answered by the library.
async fn heard(
    socket: &mut WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>,
) -> Result<Option<Bytes>> {
    while let Some(message) = socket.next().await.transpose()? {
        if message.is_text() || message.is_binary() {
            return Ok(Some(message.into_data()));
        }
    }
    Ok(None)
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.extend_from_slice(bytes);
    Message::Binary(message.freeze())
}

/// Says goodbye, and waits until the client has as well.
async fn end(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) -> Result<()> {
    // client-go takes a close without a code for a failure.
    let normal = CloseFrame {
        code: CloseCode::Normal,
        reason: Utf8Bytes::default(),
    };
    socket.close(Some(normal)).await?;
    while socket.next().await.transpose()?.is_some() {}
    leave(socket).await
}

/// Ends the connection when both have said goodbye, and TLS with it.
async fn leave(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) -> Result<()> {
    Ok(socket.get_mut().shutdown().await?)
}
