//! The client's end of one HTTP/2 connection, without its socket: requests become bytes, and bytes become answers.
//!
//! Nothing here blocks or reads a clock. Whoever waits for an answer or for room leaves a waker, and so does whoever owns the socket.

mod answer;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzz;
mod receive;
mod stream;

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, Method};

#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_client;
pub use stream::{Fault, Head};

use self::answer::Block;
use self::stream::Stream;
use super::frame::{
    self, FIRST_WINDOW, Frame, LARGEST_WINDOW, SMALLEST_MAX_FRAME, code, flag, kind, setting,
};
use super::hpack::{self, Decoder, NO_TABLE};

/// Bytes that wait for the socket, above which no upload adds to them.
const FULL: usize = 64 * 1024;
/// Streams at a time before the server has said how many it allows: the least that RFC 9113 §6.5.2 recommends.
const FIRST_STREAMS: usize = 100;

/// What the agent allows a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one answer that may come before they are taken by its reader, at most 2^31 - 1.
    pub stream_window: u32,
    /// The same of all answers of the connection together.
    pub connection_window: u32,
    /// Bytes of a frame's payload, from 2^14 to 2^24 - 1.
    pub frame: u32,
    /// Fields of an answer, measured as for SETTINGS_MAX_HEADER_LIST_SIZE.
    pub header_list: u32,
    /// Streams at a time, whatever the server allows.
    pub streams: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    limits: Limits,
    out: Vec<u8>,
    decoder: Decoder,
    streams: HashMap<u32, Stream>,
    /// Streams that count for the server's limit.
    active: usize,
    next: u32,
    /// What the server's SETTINGS allow.
    allowed_streams: usize,
    first_window: i64,
    largest_frame: usize,
    /// Bytes that may still be sent, and may still come, on all streams together.
    send_window: i64,
    receive_window: i64,
    unreturned: u32,
    /// SETTINGS came, as they have to before everything else.
    greeted: bool,
    /// A block whose end has not come.
    block: Option<Block>,
    /// GOAWAY came, with this code.
    going_away: Option<u32>,
    ended: Option<Fault>,
    pong: bool,
    /// Nobody will send another request.
    closing: bool,
    /// The waker of the task that owns the socket.
    owner: Option<Waker>,
    scratch: Vec<u8>,
}

/// What is next of an answer's body.
#[derive(Debug)]
pub enum Piece {
    /// The payload of a DATA frame, without its padding; it may be empty.
    Data(Bytes),
    /// The fields of the HEADERS frame that ends the stream.
    Trailers(HeaderMap),
    /// The stream has ended; nothing comes after it.
    End,
}

impl Client {
    /// With the preface and the agent's SETTINGS to be written.
    pub fn new(limits: Limits) -> Self {
        let mut out = frame::PREFACE.to_vec();
        frame::settings(
            &[
                (setting::ENABLE_PUSH, 0),
                (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
                (setting::MAX_FRAME_SIZE, limits.frame),
                (setting::MAX_HEADER_LIST_SIZE, limits.header_list),
            ],
            &mut out,
        );
        let connection_window = i64::from(limits.connection_window).max(FIRST_WINDOW);
        let more = u32::try_from(connection_window - FIRST_WINDOW).unwrap_or_default();
        if more > 0 {
            frame::number(kind::WINDOW_UPDATE, 0, more, &mut out);
        }
        Self {
            limits,
            out,
            decoder: Decoder::default(),
            streams: HashMap::new(),
            active: 0,
            next: 1,
            allowed_streams: FIRST_STREAMS.min(limits.streams),
            first_window: FIRST_WINDOW,
            largest_frame: SMALLEST_MAX_FRAME,
            send_window: FIRST_WINDOW,
            receive_window: connection_window,
            unreturned: 0,
            greeted: false,
            block: None,
            going_away: None,
            ended: None,
            pong: false,
            closing: false,
            owner: None,
            scratch: vec![NO_TABLE],
        }
    }

    /// Takes no further request.
    pub fn is_closed(&self) -> bool {
        self.ended.is_some() || self.going_away.is_some() || self.next > LARGEST_WINDOW as u32
    }

    /// Streams that may be open at a time.
    pub fn stream_limit(&self) -> usize {
        self.allowed_streams
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
        if self.is_closed() || self.active >= self.allowed_streams {
            return Err(Fault::GoingAway(
                self.going_away.unwrap_or(code::REFUSED_STREAM),
            ));
        }
        let id = self.next;
        self.next += 2;
        // In the first request's block it says that there is no table, behind that nothing.
        let mut block = std::mem::take(&mut self.scratch);
        hpack::request(method, authority, path, fields, &mut block);
        frame::headers(id, &block, ends, self.largest_frame, &mut self.out);
        block.clear();
        self.scratch = block;
        let window = i64::from(self.limits.stream_window);
        let mut stream = Stream::new(self.first_window, window, method == Method::HEAD);
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
        if let Some(head) = stream.head.take() {
            return Poll::Ready(Ok(head));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        stream.reading = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What is next of the answer's body. Its bytes count as taken.
    pub fn poll_body(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(self.ended.unwrap_or(Fault::Broken)));
        };
        if let Some(chunk) = stream.chunks.pop_front() {
            let taken = chunk.len() as u32;
            stream.unreturned += taken;
            if !stream.received && stream.unreturned >= self.limits.stream_window / 2 {
                let credit = std::mem::take(&mut stream.unreturned);
                stream.receive_window += i64::from(credit);
                frame::number(kind::WINDOW_UPDATE, id, credit, &mut self.out);
                self.wake_owner();
            }
            self.give_back(taken);
            return Poll::Ready(Ok(Piece::Data(chunk)));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Ok(Piece::Trailers(trailers)));
        }
        if stream.received {
            return Poll::Ready(Ok(Piece::End));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        stream.reading = Some(cx.waker().clone());
        Poll::Pending
    }

    /// All of the answer has been taken by its reader, or will never be more.
    pub fn is_body_at_end(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(|stream| {
            stream.received && stream.chunks.is_empty() && stream.trailers.is_none()
        })
    }

    /// Sends as much of `chunk` as the server's windows and the socket let, and takes that off its front. `ends`: nothing is behind it.
    /// Ready when all of it is sent.
    ///
    /// # Errors
    /// The stream has ended; nobody wants the rest.
    pub fn poll_data(
        &mut self,
        id: u32,
        chunk: &mut Bytes,
        ends: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        loop {
            let Some(stream) = self.streams.get_mut(&id) else {
                return Poll::Ready(Err(self.ended.unwrap_or(Fault::Broken)));
            };
            if let Some(fault) = stream.fault {
                return Poll::Ready(Err(fault));
            }
            let window = self.send_window.min(stream.send_window).max(0) as usize;
            let room = FULL.saturating_sub(self.out.len());
            let most = window.min(self.largest_frame).min(room);
            let length = chunk.len().min(most);
            if length == 0 && !chunk.is_empty() {
                stream.writing = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let last = length == chunk.len();
            if last && length == 0 && !ends {
                return Poll::Ready(Ok(()));
            }
            let data = Frame {
                length,
                kind: kind::DATA,
                flags: if last && ends { flag::END_STREAM } else { 0 },
                stream: id,
            };
            data.write(&mut self.out);
            self.out
                .extend_from_slice(chunk.get(..length).unwrap_or_default());
            chunk.advance(length);
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            if last && ends {
                self.sent(id);
            }
            self.wake_owner();
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Ends the request with trailers.
    pub fn trailers(&mut self, id: u32, fields: &HeaderMap) {
        if self
            .streams
            .get(&id)
            .is_none_or(|s| s.sent || s.fault.is_some())
        {
            return;
        }
        let mut block = std::mem::take(&mut self.scratch);
        hpack::trailers(fields, &mut block);
        frame::headers(id, &block, true, self.largest_frame, &mut self.out);
        block.clear();
        self.scratch = block;
        self.sent(id);
        self.wake_owner();
    }

    /// Ready when the stream has ended before all of the request was sent.
    pub fn poll_unwanted(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.fault.is_none() => {
                stream.writing = Some(cx.waker().clone());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Resets the stream, whose request broke off.
    pub fn reset(&mut self, id: u32, code: u32) {
        self.end(id, code, Fault::Reset(code));
    }

    /// Nobody will read the rest of the answer. A whole answer does not end an upload: it is the server's to say that it wants no
    /// more of it.
    pub fn let_go(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let unread: usize = stream.chunks.drain(..).map(|chunk| chunk.len()).sum();
        stream.let_go = true;
        if stream.fault.is_none() && !stream.received {
            self.end(id, code::CANCEL, Fault::Reset(code::CANCEL));
        }
        self.forget(id);
        self.give_back(unread as u32);
    }

    /// Asks whether the server is there.
    pub fn ping(&mut self) {
        self.pong = false;
        frame::ping(0, *b"mvp-ping", &mut self.out);
        self.wake_owner();
    }

    /// Whether the last PING was answered.
    pub fn ponged(&mut self) -> bool {
        std::mem::take(&mut self.pong)
    }

    /// Says, with the last that is written, that this end of the connection goes in good order.
    pub fn say_goodbye(&mut self) {
        if self.ended.is_none() {
            frame::go_away(code::NO_ERROR, &mut self.out);
            self.ended = Some(Fault::Broken);
        }
    }

    /// Nobody will send another request: the connection ends with its last stream.
    pub fn close(&mut self) {
        self.closing = true;
        self.wake_owner();
    }

    /// What the socket is to be given.
    pub fn outgoing(&self) -> &[u8] {
        &self.out
    }

    /// So many bytes of it were.
    pub fn written(&mut self, count: usize) {
        let was_full = self.out.len() >= FULL;
        self.out.drain(..count.min(self.out.len()));
        if self.out.is_empty() && self.out.capacity() > FULL {
            self.out = Vec::new();
        }
        if was_full && self.out.len() < FULL {
            self.wake_writers();
        }
    }

    /// Reads all whole frames of what came, and leaves the rest.
    pub fn receive(&mut self, bytes: &mut BytesMut) {
        receive::frames(self, bytes);
    }

    /// The socket is closed, or the server was given up.
    pub fn broken(&mut self, fault: Fault) {
        self.ended.get_or_insert(fault);
        let fault = self.ended.unwrap_or(fault);
        for stream in self.streams.values_mut() {
            stream.fail(fault);
        }
        self.active = 0;
    }

    /// Nothing is left to be done but to write what is outgoing.
    pub fn is_done(&self) -> bool {
        self.ended.is_some() || (self.active == 0 && (self.closing || self.going_away.is_some()))
    }

    /// Why the connection ended; `None` while it lives, and after an orderly end.
    pub fn fault(&self) -> Option<Fault> {
        self.ended
    }

    /// Whom to wake when there is something to write.
    pub fn owned_by(&mut self, waker: &Waker) {
        match &mut self.owner {
            Some(owner) => owner.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake_owner(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }

    fn wake_writers(&mut self) {
        self.streams.values_mut().for_each(Stream::wake_writer);
    }

    /// The last byte of the request was sent.
    fn sent(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let was_active = stream.is_active();
            stream.sent = true;
            if was_active && !stream.is_active() {
                self.active = self.active.saturating_sub(1);
            }
        }
        self.forget(id);
    }

    /// Nothing is kept of a stream that has ended and whose answer nobody reads.
    fn forget(&mut self, id: u32) {
        if self
            .streams
            .get(&id)
            .is_some_and(|s| s.let_go && !s.is_active())
        {
            self.streams.remove(&id);
        }
    }

    /// RST_STREAM, and the stream fails.
    fn end(&mut self, id: u32, code: u32, fault: Fault) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_active() {
            frame::number(kind::RST_STREAM, id, code, &mut self.out);
            self.active = self.active.saturating_sub(1);
        }
        stream.fail(fault);
        self.wake_owner();
    }

    /// Lets the server send so many bytes more on all streams together.
    fn give_back(&mut self, count: u32) {
        self.unreturned += count;
        if self.unreturned >= self.limits.connection_window / 2 {
            let credit = std::mem::take(&mut self.unreturned);
            self.receive_window += i64::from(credit);
            frame::number(kind::WINDOW_UPDATE, 0, credit, &mut self.out);
            self.wake_owner();
        }
    }
}
