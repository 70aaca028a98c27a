//! One HTTP/2 connection, without its socket: what both ends of it have in common.
//!
//! Nothing here blocks or reads a clock. Whoever waits for something to read or for room leaves a waker, and so does whoever owns the
//! socket.

use std::fmt::Debug;
use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use http::HeaderMap;

use super::block::Block;
use super::flood::Burst;
use super::frame::{self, FIRST_WINDOW, Frame, SMALLEST_MAX_FRAME, code, flag, kind, setting};
use super::hpack::{self, Decoder, NO_TABLE};
use super::outbox::Outbox;
use super::receive::{self, Ends, Step};
use super::stream::{Fault, Stream, leave};

/// Bytes that wait for the socket, above which no body adds to them.
pub(super) const FULL: usize = 64 * 1024;
/// What the agent's PINGs say.
const PING: [u8; 8] = *b"mvp-ping";

/// What the agent allows the other side.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one body that may come before they are taken by its reader, at most 2^31 - 1.
    pub stream_window: u32,
    /// The same of all bodies of the connection together.
    pub connection_window: u32,
    /// Bytes of a frame's payload, from 2^14 to 2^24 - 1.
    pub frame: u32,
    /// Fields of a message, measured as for SETTINGS_MAX_HEADER_LIST_SIZE.
    pub header_list: u32,
    /// Streams at a time; towards a server, whatever that allows.
    pub streams: usize,
    /// Blocks of fields that are taken in one turn of the thread's event loop. Each may take a millisecond, with as many fields as are
    /// allowed.
    pub blocks_a_turn: usize,
}

/// See the module. `S` is the agent's end of it.
#[derive(Debug)]
pub struct Connection<S: Side> {
    pub(super) limits: Limits,
    pub(super) out: Outbox,
    pub(super) decoder: Decoder,
    pub(super) streams: HashMap<u32, Stream<S::Own>>,
    /// Streams that count for the limit of streams at a time.
    pub(super) active: usize,
    /// The highest stream that has begun.
    pub(super) last: u32,
    /// What the other side's SETTINGS allow.
    pub(super) first_window: i64,
    pub(super) largest_frame: usize,
    /// Bytes that may still be sent, and may still come, on all streams together.
    pub(super) send_window: i64,
    pub(super) receive_window: i64,
    unreturned: u32,
    /// SETTINGS came, as they have to before everything else.
    pub(super) greeted: bool,
    /// A block whose end has not come.
    pub(super) block: Option<Block>,
    pub(super) ended: Option<Fault>,
    pub(super) burst: Burst,
    pong: bool,
    /// Of whoever owns the socket.
    owner: Option<Waker>,
    /// Room for a block that is written, and what the next one begins with.
    scratch: Vec<u8>,
    pub(super) side: S,
}

/// What is next of a body.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of it, without padding.
    Data(Bytes),
    /// The trailers; nothing is behind them.
    Trailers(HeaderMap),
    /// There is nothing more, and there were no trailers.
    End,
}

/// What only one end of a connection knows and does.
pub trait Side: Debug + Sized {
    /// What it keeps of a stream.
    type Own: Debug;

    /// Whether all that comes before the first frame has come; it is taken off the front.
    ///
    /// # Errors
    /// It is not what has to come.
    fn greets(connection: &mut Connection<Self>, bytes: &mut BytesMut) -> Result<bool, Ends>;

    /// Whether the body may begin.
    fn takes_data(own: &Self::Own) -> bool;

    /// DATA came on a stream that has ended before its time, or of which nothing is known any more.
    fn closed(connection: &mut Connection<Self>, id: u32);

    /// Whether a block of fields may come on this stream at all.
    ///
    /// # Errors
    /// It may not.
    fn may_have_headers(connection: &Connection<Self>, head: Frame) -> Step;

    /// Takes a whole block of fields.
    ///
    /// # Errors
    /// The connection is of no further use.
    fn block(connection: &mut Connection<Self>, block: &Block, bytes: &[u8]) -> Step;

    /// Takes a setting that is not of both ends.
    ///
    /// # Errors
    /// It may not be set so.
    fn set(connection: &mut Connection<Self>, name: u16, value: u32) -> Step;

    /// The answer to a PING has come.
    fn pong(connection: &mut Connection<Self>, payload: [u8; 8]);

    /// GOAWAY has come: `last` is the highest stream of this end that was handled (RFC 9113 §6.8).
    fn go_away(connection: &mut Connection<Self>, last: u32, code: u32);

    /// For GOAWAY: the highest stream of the other side's that was handled.
    fn last_handled(connection: &Connection<Self>) -> u32;

    /// The agent has reset a stream.
    fn was_reset(connection: &mut Connection<Self>, id: u32, code: u32);

    /// A part of a stream has ended: ends the rest of it if nobody wants that, and forgets what nobody needs.
    fn settle(connection: &mut Connection<Self>, id: u32);

    /// No further request will be sent or taken.
    fn is_leaving(connection: &Connection<Self>) -> bool;
}

impl<S: Side> Connection<S> {
    /// With the agent's SETTINGS to be written; `own` are those that only this end has.
    pub(super) fn begin(limits: Limits, own: (u16, u32), before: &[u8], side: S) -> Self {
        let mut out = Outbox::default();
        out.frames().extend_from_slice(before);
        frame::settings(
            &[
                own,
                (setting::INITIAL_WINDOW_SIZE, limits.stream_window),
                (setting::MAX_FRAME_SIZE, limits.frame),
                (setting::MAX_HEADER_LIST_SIZE, limits.header_list),
            ],
            out.frames(),
        );
        let connection_window = i64::from(limits.connection_window).max(FIRST_WINDOW);
        let more = u32::try_from(connection_window - FIRST_WINDOW).unwrap_or_default();
        if more > 0 {
            frame::number(kind::WINDOW_UPDATE, 0, more, out.frames());
        }
        Self {
            limits,
            out,
            decoder: Decoder::default(),
            streams: HashMap::new(),
            active: 0,
            last: 0,
            first_window: FIRST_WINDOW,
            largest_frame: SMALLEST_MAX_FRAME,
            send_window: FIRST_WINDOW,
            receive_window: connection_window,
            unreturned: 0,
            greeted: false,
            block: None,
            ended: None,
            burst: Burst::default(),
            pong: false,
            owner: None,
            scratch: Vec::new(),
            side,
        }
    }

    /// Whether all of the body has come, and nothing waits for its reader.
    pub fn is_body_at_end(&self, id: u32) -> bool {
        self.streams.get(&id).is_none_or(|stream| {
            stream.received
                && stream.chunks.is_empty()
                && stream.trailers.is_none()
                && !stream.empty_end
        })
    }

    /// What is next of the body that comes. Its bytes count as taken.
    pub fn poll_body(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(self.ended.unwrap_or(Fault::Broken)));
        };
        if let Some(chunk) = stream.chunks.pop() {
            let taken = chunk.len() as u32;
            stream.unreturned += taken;
            if !stream.received
                && stream.fault.is_none()
                && stream.unreturned >= self.limits.stream_window / 2
            {
                let credit = std::mem::take(&mut stream.unreturned);
                stream.receive_window += i64::from(credit);
                frame::number(kind::WINDOW_UPDATE, id, credit, self.out.frames());
                self.wake_owner();
            }
            self.give_back(taken);
            return Poll::Ready(Ok(Piece::Data(chunk)));
        }
        if let Some(trailers) = stream.trailers.take() {
            return Poll::Ready(Ok(Piece::Trailers(trailers)));
        }
        if stream.received {
            stream.empty_end = false;
            return Poll::Ready(Ok(Piece::End));
        }
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        leave(&mut stream.reading, cx.waker());
        Poll::Pending
    }

    /// Sends as much of `chunk` as the other side's windows and the socket let, and takes that off its front. `ends`: nothing is behind
    /// it. Ready when all of it is sent.
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
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(self.ended.unwrap_or(Fault::Broken)));
        };
        if let Some(fault) = stream.fault {
            return Poll::Ready(Err(fault));
        }
        let mut wrote = false;
        let done = loop {
            let window = self.send_window.min(stream.send_window).max(0) as usize;
            let room = FULL.saturating_sub(self.out.len());
            let most = window.min(self.largest_frame).min(room);
            let length = chunk.len().min(most);
            if length == 0 && !chunk.is_empty() {
                leave(&mut stream.writing, cx.waker());
                break false;
            }
            let last = length == chunk.len();
            if last && length == 0 && !ends {
                break true;
            }
            let data = Frame {
                length,
                kind: kind::DATA,
                flags: if last && ends { flag::END_STREAM } else { 0 },
                stream: id,
            };
            data.write(self.out.frames());
            self.out.chunk(chunk.split_to(length));
            stream.send_window -= length as i64;
            self.send_window -= length as i64;
            wrote = true;
            if last {
                break true;
            }
        };
        if done && ends {
            self.sent(id);
        }
        if wrote {
            self.wake_owner();
        }
        match done {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        }
    }

    /// Ends what is sent with trailers.
    pub fn trailers(&mut self, id: u32, fields: &HeaderMap) {
        if self
            .streams
            .get(&id)
            .is_none_or(|s| s.sent || s.fault.is_some())
        {
            return;
        }
        self.write_block(id, true, |block| hpack::trailers(fields, block));
        self.sent(id);
        self.wake_owner();
    }

    /// Ready when the stream has ended before all was sent.
    pub fn poll_unwanted(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.fault.is_none() => {
                leave(&mut stream.writing, cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Resets the stream: what was to be sent broke off.
    pub fn reset(&mut self, id: u32, code: u32) {
        self.end(id, code, Fault::Reset(code));
    }

    /// Nobody will read the rest of what comes.
    pub fn let_go(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let unread = stream.chunks.bytes();
        stream.chunks.clear();
        stream.let_go = true;
        S::settle(self, id);
        self.give_back(unread as u32);
    }

    /// Asks whether the other side is there.
    pub fn ping(&mut self) {
        self.pong = false;
        frame::ping(0, PING, self.out.frames());
        self.wake_owner();
    }

    /// Whether the last PING was answered.
    pub fn ponged(&mut self) -> bool {
        std::mem::take(&mut self.pong)
    }

    pub(super) fn answered_ping(&mut self, payload: [u8; 8]) {
        self.pong |= payload == PING;
    }

    /// Says, with the last that is written, that this end of the connection goes in good order.
    pub fn say_goodbye(&mut self) {
        if self.ended.is_none() {
            let last = S::last_handled(self);
            frame::go_away(last, code::NO_ERROR, self.out.frames());
            self.ended = Some(Fault::Broken);
        }
    }

    /// Whether anything waits for the socket.
    pub fn has_outgoing(&self) -> bool {
        self.out.len() > 0
    }

    /// Fills `slices` with what the socket is to be given first, and returns how many of them it took.
    pub fn outgoing<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.out.slices(slices)
    }

    /// So many bytes of it were written.
    pub fn written(&mut self, count: usize) {
        let was_full = self.out.len() >= FULL;
        self.out.advance(count);
        if was_full && self.out.len() < FULL {
            self.wake_writers();
        }
    }

    /// Reads all whole frames of what came, as long as the turn has not [enough](Self::has_enough), and leaves the rest.
    pub fn receive(&mut self, bytes: &mut BytesMut) {
        receive::frames(self, bytes);
    }

    /// The socket is closed, or the other side was given up.
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
        self.ended.is_some() || (self.active == 0 && S::is_leaving(self))
    }

    /// What ended the connection. `None` while it is open, or if it ended in good order.
    pub fn fault(&self) -> Option<Fault> {
        self.ended
    }

    /// Whom to wake when there is something to write.
    pub fn owned_by(&mut self, waker: &Waker) {
        leave(&mut self.owner, waker);
    }

    /// The owner is at work, and writes without being woken.
    pub fn is_awake(&mut self) {
        self.owner = None;
    }

    pub(super) fn wake_owner(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }

    pub(super) fn wake_writers(&mut self) {
        self.streams.values_mut().for_each(Stream::wake_writer);
    }

    /// Writes a block of fields that `write` appends.
    pub(super) fn write_block(&mut self, id: u32, ends: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let mut block = std::mem::take(&mut self.scratch);
        write(&mut block);
        frame::headers(id, &block, ends, self.largest_frame, self.out.frames());
        block.clear();
        self.scratch = block;
    }

    /// The next block that is written begins with the table's size, which is nothing (RFC 7541 §4.2).
    pub(super) fn announce_table(&mut self) {
        if self.scratch.is_empty() {
            self.scratch.push(NO_TABLE);
        }
    }

    /// The last byte of what is to be sent was sent.
    pub(super) fn sent(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let was_active = stream.is_active();
            stream.sent = true;
            if was_active && !stream.is_active() {
                self.active = self.active.saturating_sub(1);
            }
        }
        S::settle(self, id);
    }

    /// RST_STREAM, and the stream fails.
    pub(super) fn end(&mut self, id: u32, code: u32, fault: Fault) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.is_active() {
            frame::number(kind::RST_STREAM, id, code, self.out.frames());
            self.active = self.active.saturating_sub(1);
            stream.fail(fault);
            S::was_reset(self, id, code);
        } else {
            stream.fail(fault);
        }
        self.wake_owner();
    }

    /// Lets the other side send so many bytes more on all streams together.
    pub(super) fn give_back(&mut self, count: u32) {
        self.unreturned += count;
        if self.unreturned >= self.limits.connection_window / 2 && self.unreturned > 0 {
            let credit = std::mem::take(&mut self.unreturned);
            self.receive_window += i64::from(credit);
            frame::number(kind::WINDOW_UPDATE, 0, credit, self.out.frames());
            self.wake_owner();
        }
    }

    /// What is counted is what there is, for the fuzz targets and their tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn check(&self) {
        let active = self.streams.values().filter(|stream| stream.is_active());
        match self.ended {
            None => assert_eq!(self.active, active.count()),
            Some(_) => assert_eq!(active.count(), 0),
        }
        assert!(self.active <= self.limits.streams);
        for stream in self.streams.values() {
            let queued = stream.chunks.bytes();
            assert!(
                queued <= self.limits.stream_window as usize,
                "{queued} bytes"
            );
        }
    }
}
