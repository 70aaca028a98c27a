//! The server's end of one HTTP/2 connection: bytes become requests, and answers become bytes.

#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod request;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use http::{HeaderMap, Request, StatusCode};

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_server;

use super::block::Block;
use super::connection::{Connection, FULL, Limits, Side};
use super::flood::Misdeeds;
use super::frame::{self, Frame, LARGEST_WINDOW, PREFACE, code, kind, setting};
use super::hpack::{self, TABLE_SIZE};
use super::receive::{Ends, Step, malformed};
use super::stream::{Fault, leave};

/// Streams that the agent has reset, of which it remembers that what still comes on them was sent before the client heard of it (RFC 9113
/// §5.1). Behind them the client hears that they are closed.
const REMEMBERED: usize = 256;
/// What the PING says whose answer shows that the client has heard of the first GOAWAY.
const GOODBYE: [u8; 8] = *b"mvp-bye!";

/// A connection to a client.
pub type Server = Connection<Answering>;

/// What a server knows of its connection.
#[derive(Debug)]
pub struct Answering {
    /// The client's preface has come.
    preface: bool,
    /// Those that nobody has taken yet.
    requests: VecDeque<Incoming>,
    /// The latest streams that the agent has reset.
    reset: VecDeque<u32>,
    misdeeds: Misdeeds,
    goodbye: Goodbye,
    /// The client has sent GOAWAY.
    client_leaves: bool,
}

/// What a server knows of a request.
#[derive(Debug, Default)]
pub struct Asked {
    /// Nobody will say any more on this stream.
    answered: bool,
}

/// How far the end in good order has come (§6.8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Goodbye {
    None,
    /// The client has been told that it comes, and may have sent requests before it heard of it.
    Announced,
    /// Requests on streams above this one are not looked at.
    Final(u32),
}

/// A request whose head has come.
#[derive(Debug)]
pub struct Incoming {
    /// The number of its stream.
    pub stream: u32,
    /// The method, target and fields.
    pub head: Request<()>,
    /// It has no body.
    pub ends: bool,
}

impl Server {
    /// With the agent's SETTINGS to be written.
    pub fn new(limits: Limits) -> Self {
        let streams = u32::try_from(limits.streams).unwrap_or(u32::MAX);
        let side = Answering {
            preface: false,
            requests: VecDeque::new(),
            reset: VecDeque::new(),
            misdeeds: Misdeeds::default(),
            goodbye: Goodbye::None,
            client_leaves: false,
        };
        Self::begin(
            limits,
            (setting::MAX_CONCURRENT_STREAMS, streams),
            b"",
            side,
        )
    }

    /// The next request. It has to be answered or given up with [`Self::answered`], and its body, if it has one, with [`Self::let_go`].
    pub fn accept(&mut self) -> Option<Incoming> {
        let incoming = self.side.requests.pop_front()?;
        let stream = self.streams.get(&incoming.stream);
        if stream.is_some_and(|stream| matches!(stream.fault, Some(Fault::Reset(_)))) {
            self.side.misdeeds.given_up += 1;
        }
        Some(incoming)
    }

    /// What was counted since the last time.
    pub fn take_misdeeds(&mut self) -> Misdeeds {
        std::mem::take(&mut self.side.misdeeds)
    }

    /// Ready when there is room for the head of an answer, or nobody wants it any more.
    pub fn poll_room(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.fault.is_none() && self.out.len() >= FULL => {
                leave(&mut stream.writing, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Sends the head of an answer. `ends`: it has no body. Fields that HTTP/2 forbids must not be in `fields`.
    ///
    /// # Errors
    /// The stream has ended; nobody wants it.
    pub fn respond(
        &mut self,
        id: u32,
        status: StatusCode,
        fields: &HeaderMap,
        ends: bool,
    ) -> Result<(), Fault> {
        let stream = self.streams.get(&id);
        let stream = stream.ok_or(self.ended.unwrap_or(Fault::Broken))?;
        if let Some(fault) = stream.fault {
            return Err(fault);
        }
        self.write_block(id, ends, |block| hpack::response(status, fields, block));
        if ends {
            self.sent(id);
        }
        self.wake_owner();
        Ok(())
    }

    /// Nobody will say any more on this stream. If the answer is not whole, the stream is reset.
    pub fn answered(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.own.answered = true;
        if !stream.sent && stream.fault.is_none() {
            let code = code::INTERNAL_ERROR;
            self.end(id, code, Fault::Reset(code));
        }
        Answering::settle(self, id);
    }

    /// Takes no request that the client sends once it has heard of this; the connection ends with the last answer.
    pub fn graceful_shutdown(&mut self) {
        if self.side.goodbye != Goodbye::None || self.ended.is_some() {
            return;
        }
        self.side.goodbye = Goodbye::Announced;
        let last = LARGEST_WINDOW as u32;
        frame::go_away(last, code::NO_ERROR, self.out.frames());
        frame::ping(0, GOODBYE, self.out.frames());
        self.wake_owner();
    }

    /// Ends the connection now, with GOAWAY of this code.
    pub fn abrupt_shutdown(&mut self, code: u32, fault: Fault) {
        if self.ended.is_none() {
            frame::go_away(self.last, code, self.out.frames());
            self.broken(fault);
            self.wake_owner();
        }
    }

    /// Resets a stream of which nothing is kept.
    fn refuse(&mut self, id: u32, code: u32) {
        frame::number(kind::RST_STREAM, id, code, self.out.frames());
        Answering::was_reset(self, id, code);
    }

    /// Whether what comes on this stream may have been sent before the client heard of its end, or is not looked at any more.
    fn is_late(&self, id: u32) -> bool {
        let ignored = matches!(self.side.goodbye, Goodbye::Final(last) if id > last);
        ignored || self.side.reset.contains(&id)
    }
}

impl Side for Answering {
    type Own = Asked;

    /// §3.4.
    fn greets(server: &mut Server, bytes: &mut BytesMut) -> Result<bool, Ends> {
        if server.side.preface {
            return Ok(true);
        }
        let come = bytes.len().min(PREFACE.len());
        if bytes.get(..come) != PREFACE.get(..come) {
            return Err(malformed(code::PROTOCOL_ERROR, "no preface of HTTP/2"));
        }
        if come < PREFACE.len() {
            return Ok(false);
        }
        bytes.advance(PREFACE.len());
        server.side.preface = true;
        Ok(true)
    }

    fn takes_data(_: &Asked) -> bool {
        true
    }

    fn closed(server: &mut Server, id: u32) {
        if !server.is_late(id) {
            // The stream is not remembered for it: each such frame has its answer, and is counted.
            server.side.misdeeds.reset(code::STREAM_CLOSED);
            frame::number(
                kind::RST_STREAM,
                id,
                code::STREAM_CLOSED,
                server.out.frames(),
            );
        }
    }

    fn may_have_headers(_: &Server, head: Frame) -> Step {
        match head.stream % 2 {
            1 => Ok(()),
            // §5.1.1, and §6.2 for stream 0.
            _ => Err(malformed(
                code::PROTOCOL_ERROR,
                "HEADERS on a stream that no client may begin",
            )),
        }
    }

    fn block(server: &mut Server, block: &Block, bytes: &[u8]) -> Step {
        request::whole(server, block, bytes)
    }

    fn set(server: &mut Server, name: u16, value: u32) -> Step {
        match name {
            setting::ENABLE_PUSH if value > 1 => Err(malformed(
                code::PROTOCOL_ERROR,
                "ENABLE_PUSH that is neither 0 nor 1",
            )),
            setting::HEADER_TABLE_SIZE => {
                // The agent uses none of it. A client that makes it smaller has to hear of that (RFC 7541 §4.2).
                if (value as usize) < TABLE_SIZE {
                    server.announce_table();
                }
                Ok(())
            }
            // The agent pushes nothing, and begins no streams; unknown ones are ignored (§6.5.2).
            _ => Ok(()),
        }
    }

    fn pong(server: &mut Server, payload: [u8; 8]) {
        server.answered_ping(payload);
        if payload == GOODBYE && server.side.goodbye == Goodbye::Announced {
            server.side.goodbye = Goodbye::Final(server.last);
            frame::go_away(server.last, code::NO_ERROR, server.out.frames());
            server.wake_owner();
        }
    }

    fn go_away(server: &mut Server, _: u32, _: u32) {
        server.side.client_leaves = true;
    }

    fn last_handled(server: &Server) -> u32 {
        match server.side.goodbye {
            Goodbye::Final(last) => last,
            Goodbye::None | Goodbye::Announced => server.last,
        }
    }

    fn was_reset(server: &mut Server, id: u32, code: u32) {
        server.side.misdeeds.reset(code);
        let reset = &mut server.side.reset;
        if reset.len() >= REMEMBERED {
            reset.pop_front();
        }
        reset.push_back(id);
    }

    /// Behind the whole answer the rest of a request that nobody reads is not wanted (§8.1).
    fn settle(server: &mut Server, id: u32) {
        let Some(stream) = server.streams.get(&id).filter(|stream| stream.let_go) else {
            return;
        };
        let answered = stream.own.answered;
        if stream.fault.is_none() && stream.sent && !stream.received {
            let code = code::NO_ERROR;
            server.end(id, code, Fault::Reset(code));
        }
        if answered && server.streams.get(&id).is_some_and(|s| !s.is_active()) {
            server.streams.remove(&id);
        }
    }

    fn is_leaving(server: &Server) -> bool {
        let side = &server.side;
        let told = side.client_leaves || matches!(side.goodbye, Goodbye::Final(_));
        told && side.requests.is_empty()
    }
}
