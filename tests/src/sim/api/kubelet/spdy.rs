//! The server's half of SPDY/3.1, as far as client-go uses it (github.com/moby/spdystream): streams with header fields, data in both
//! directions, half-closing, PING. There is no flow control, because that library ignores it.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::spdy_headers::{HeaderReader, HeaderWriter};

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// The first two bytes of a control frame: one bit for control, and the version.
const CONTROL: u16 = 0x8003;
const FIN: u8 = 1;
/// No frame of a test is longer.
const LONGEST: usize = 1 << 20;

/// What the client did.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// Header fields' names are in lower case, as SPDY/3 demands it.
    Opened {
        id: u32,
        headers: HashMap<String, String>,
    },
    Data {
        id: u32,
        bytes: Bytes,
        /// Nothing more comes on this stream.
        last: bool,
    },
    Reset {
        id: u32,
    },
    Ping(u32),
}

/// Reads frames until the client goes or says what is no SPDY; the channel's end tells of either.
pub(super) async fn read(mut stream: impl AsyncRead + Unpin, events: mpsc::Sender<Event>) {
    let mut headers = HeaderReader::default();
    while let Ok(Some(event)) = next(&mut stream, &mut headers).await {
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// `None`: the client says GOAWAY, or what cannot be read.
async fn next(
    stream: &mut (impl AsyncRead + Unpin),
    headers: &mut HeaderReader,
) -> std::io::Result<Option<Event>> {
    loop {
        let (first, second) = (stream.read_u32().await?, stream.read_u32().await?);
        let [flags, length @ ..] = second.to_be_bytes();
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        if length > LONGEST {
            return Ok(None);
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        let last = flags & FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Event::Data {
                id: first,
                bytes: payload.into(),
                last,
            }));
        }
        if (first >> 16) as u16 != CONTROL {
            return Ok(None);
        }
        let number = |at: usize| {
            let bytes = payload.get(at..at + 4)?;
            Some(u32::from_be_bytes(bytes.try_into().ok()?) & 0x7fff_ffff)
        };
        let event = match first as u16 {
            // Stream, associated stream, priority and slot stand before the header block.
            SYN_STREAM => payload
                .get(10..)
                .and_then(|block| headers.read(block))
                .zip(number(0))
                .map(|(headers, id)| Event::Opened { id, headers }),
            RST_STREAM => number(0).map(|id| Event::Reset { id }),
            PING => number(0).map(Event::Ping),
            GOAWAY => None,
            // SETTINGS, WINDOW_UPDATE and whatever else.
            _ => continue,
        };
        return Ok(event);
    }
}

/// Writes frames.
pub(super) struct Writer<W> {
    stream: W,
    headers: HeaderWriter,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(stream: W) -> Self {
        Self {
            stream,
            headers: HeaderWriter::default(),
        }
    }

    /// Accepts a stream of the client.
    pub(super) async fn reply(&mut self, id: u32) -> std::io::Result<()> {
        let block = self.headers.none();
        self.control(SYN_REPLY, &[&id.to_be_bytes(), block.as_slice()].concat())
            .await
    }

    pub(super) async fn data(&mut self, id: u32, bytes: &[u8], last: bool) -> std::io::Result<()> {
        let flags = if last { FIN } else { 0 };
        self.frame(id, flags, bytes).await
    }

    pub(super) async fn pong(&mut self, number: u32) -> std::io::Result<()> {
        self.control(PING, &number.to_be_bytes()).await
    }

    /// Says that this is the end, and ends this direction.
    pub(super) async fn end(&mut self, newest: u32) -> std::io::Result<()> {
        let payload = [newest.to_be_bytes(), 0u32.to_be_bytes()].concat();
        self.control(GOAWAY, &payload).await?;
        self.stream.shutdown().await
    }

    async fn control(&mut self, kind: u16, payload: &[u8]) -> std::io::Result<()> {
        self.frame(u32::from(CONTROL) << 16 | u32::from(kind), 0, payload)
            .await
    }

    async fn frame(&mut self, first: u32, flags: u8, payload: &[u8]) -> std::io::Result<()> {
        let mut frame = Vec::with_capacity(8 + payload.len());
        frame.extend(first.to_be_bytes());
        frame.extend((u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn events(bytes: &[u8]) -> Vec<Event> {
        let (sender, mut receiver) = mpsc::channel(64);
        read(bytes, sender).await;
        let mut seen = Vec::new();
        while let Some(event) = receiver.recv().await {
            seen.push(event);
        }
        seen
    }

    #[tokio::test]
    async fn frames_become_events_in_their_order() {
        let mut sent = Vec::new();
        // SETTINGS, which is passed over; PING; DATA with FIN; RST_STREAM; GOAWAY; nothing behind it is read.
        sent.extend([0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]);
        sent.extend([0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        sent.extend([0, 0, 0, 5, 1, 0, 0, 2, b'h', b'i']);
        sent.extend([0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 1]);
        sent.extend([0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        sent.extend([0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]);
        let data = Event::Data {
            id: 5,
            bytes: Bytes::from_static(b"hi"),
            last: true,
        };
        assert_eq!(
            events(&sent).await,
            [Event::Ping(7), data, Event::Reset { id: 5 }]
        );
    }

    #[tokio::test]
    async fn what_is_no_spdy_ends_the_events() {
        assert_eq!(events(b"GET / HTTP/1.1\r\n\r\n").await, []);
        assert_eq!(events(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]).await, []);
        assert_eq!(events(&[0x80, 3, 0, 6, 0, 0]).await, []);
        assert_eq!(events(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0]).await, []);
    }
}
