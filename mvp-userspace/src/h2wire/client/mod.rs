//! The client's end of one HTTP/2 connection: requests become bytes, and bytes become answers.

mod answer;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;

use std::task::{Context, Poll};

use bytes::BytesMut;
use http::{HeaderMap, Method};

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_client;

use super::block::Block;
use super::connection::{Connection, Limits, Side};
use super::frame::{Frame, LARGEST_WINDOW, PREFACE, code, setting};
use super::hpack;
use super::receive::{Ends, Step, known, malformed};
use super::stream::{Fault, Head, Stream, leave};

/// Streams at a time before the server has said how many it allows: the least that RFC 9113 §6.5.2 recommends.
const FIRST_STREAMS: usize = 100;

/// A connection to a server.
pub type Client = Connection<Requesting>;

/// What a client knows of its connection.
#[derive(Debug)]
pub struct Requesting {
    /// What the server's SETTINGS allow, and the agent's own limit.
    allowed_streams: usize,
    /// GOAWAY came, with this code.
    going_away: Option<u32>,
    /// Nobody will send another request.
    closing: bool,
}

/// What a client knows of a request.
#[derive(Debug)]
pub struct Asked {
    /// It has an answer without a body whatever the fields say.
    is_head: bool,
    has_head: bool,
    head: Option<Head>,
}

impl Client {
    /// With the preface and the agent's SETTINGS to be written.
    pub fn new(limits: Limits) -> Self {
        let side = Requesting {
            allowed_streams: FIRST_STREAMS.min(limits.streams),
            going_away: None,
            closing: false,
        };
        let mut client = Self::begin(limits, (setting::ENABLE_PUSH, 0), PREFACE, side);
        client.announce_table();
        client
    }

    /// Takes no further request.
    pub fn is_closed(&self) -> bool {
        self.ended.is_some() || self.side.going_away.is_some() || self.next() > LARGEST_WINDOW
    }

    fn next(&self) -> i64 {
        match self.last {
            0 => 1,
            last => i64::from(last) + 2,
        }
    }

    /// Streams that may be open at a time.
    pub fn stream_limit(&self) -> usize {
        self.side.allowed_streams
    }

    /// Begins a request, and gives the number of its stream. `ends`: it has no body. Fields that HTTP/2 forbids must not be in `fields`.
    ///
    /// # Errors
    /// Nothing of it was sent: the connection takes no further request, or has as many as the server allows.
    pub fn request(
        &mut self,
        method: &Method,
        authority: &str,
        path: &str,
        fields: &HeaderMap,
        ends: bool,
    ) -> Result<u32, Fault> {
        if let Some(fault) = self.ended {
            return Err(fault);
        }
        if self.is_closed() || self.active >= self.side.allowed_streams {
            return Err(Fault::GoingAway(
                self.side.going_away.unwrap_or(code::REFUSED_STREAM),
            ));
        }
        let id = self.next() as u32;
        self.last = id;
        self.write_block(id, ends, |block| {
            hpack::request(method, authority, path, fields, block);
        });
        let asked = Asked {
            is_head: method == Method::HEAD,
            has_head: false,
            head: None,
        };
        let window = i64::from(self.limits.stream_window);
        let mut stream = Stream::new(self.first_window, window, asked);
        stream.sent = ends;
        self.streams.insert(id, stream);
        self.active += 1;
        self.wake_owner();
        Ok(id)
    }

    /// The head of the answer.
    pub fn poll_head(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<Head, Fault>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(self.ended.unwrap_or(Fault::Broken)));
        };
        if let Some(head) = stream.own.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        leave(&mut stream.reading, cx.waker());
        Poll::Pending
    }

    /// Nobody will send another request: the connection ends with its last stream.
    pub fn close(&mut self) {
        self.side.closing = true;
        self.wake_owner();
    }
}

impl Side for Requesting {
    type Own = Asked;

    fn greets(_: &mut Client, _: &mut BytesMut) -> Result<bool, Ends> {
        Ok(true)
    }

    fn takes_data(own: &Asked) -> bool {
        own.has_head
    }

    fn closed(_: &mut Client, _: u32) {
        // It may have been sent before the server heard of the end.
    }

    fn may_have_headers(client: &Client, head: Frame) -> Step {
        known(client, head, "HEADERS").map(|_| ())
    }

    fn block(client: &mut Client, block: &Block, bytes: &[u8]) -> Step {
        answer::whole(client, block, bytes)
    }

    fn set(client: &mut Client, name: u16, value: u32) -> Step {
        match name {
            setting::ENABLE_PUSH if value != 0 => Err(malformed(
                code::PROTOCOL_ERROR,
                "a server that wants to be pushed to",
            )),
            setting::MAX_CONCURRENT_STREAMS => {
                client.side.allowed_streams = client.limits.streams.min(value as usize);
                Ok(())
            }
            // The table is not used; how many fields the server takes, it says with 431; unknown ones are ignored (§6.5.2).
            _ => Ok(()),
        }
    }

    fn pong(client: &mut Client, payload: [u8; 8]) {
        client.answered_ping(payload);
    }

    fn go_away(client: &mut Client, last: u32, code: u32) {
        client.side.going_away.get_or_insert(code);
        let mut ended = 0;
        for (id, stream) in &mut client.streams {
            if *id > last && stream.is_active() {
                ended += 1;
                stream.fail(Fault::GoingAway(code));
            }
        }
        client.active = client.active.saturating_sub(ended);
        client
            .streams
            .retain(|_, stream| !stream.let_go || stream.is_active());
    }

    fn last_handled(_: &Client) -> u32 {
        0
    }

    fn was_reset(_: &mut Client, _: u32, _: u32) {}

    /// A whole answer does not end an upload: it is the server's to say that it wants no more of it.
    fn settle(client: &mut Client, id: u32) {
        let Some(stream) = client.streams.get(&id).filter(|stream| stream.let_go) else {
            return;
        };
        if stream.fault.is_none() && !stream.received {
            client.end(id, code::CANCEL, Fault::Reset(code::CANCEL));
        }
        if client.streams.get(&id).is_some_and(|s| !s.is_active()) {
            client.streams.remove(&id);
        }
    }

    fn is_leaving(client: &Client) -> bool {
        client.side.closing || client.side.going_away.is_some()
    }
}
