//! One request and its answer, as a connection knows them.

use std::task::Waker;

use http::{HeaderMap, StatusCode};

use super::chunks::Chunks;

/// How a stream, or the connection below it, ended before its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// RST_STREAM with this code of RFC 9113 §7.
    #[error("the other side reset the stream (code {0})")]
    Reset(u32),
    /// The agent reset the stream, since what came on it follows no rules.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// GOAWAY, and the server will not look at this request.
    #[error("the server ends the connection (code {0})")]
    GoingAway(u32),
    /// The agent ended the connection, since what came on it follows no rules.
    #[error("the connection's bytes are malformed: {0}")]
    ConnectionMalformed(&'static str),
    /// The agent ended the connection, since a limit of its own was reached.
    #[error("more than the agent takes: {0}")]
    OwnLimit(&'static str),
    /// It is closed, or broken.
    #[error("the connection broke")]
    Broken,
    /// The server, or the way to it, is dead.
    #[error("a PING was not answered in time")]
    PingUnanswered,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// The value of `:status`.
    pub status: StatusCode,
    /// The fields without pseudo-fields.
    pub fields: HeaderMap,
}

/// `own` is what only one end of a connection keeps.
#[derive(Debug)]
pub(super) struct Stream<T> {
    /// All that the agent has to say was written.
    pub(super) sent: bool,
    /// All that the other side has to say has come.
    pub(super) received: bool,
    /// Bytes of a body that may still be sent, negative after the other side made its windows smaller (§6.9.2).
    pub(super) send_window: i64,
    /// Bytes of a body that may still come.
    pub(super) receive_window: i64,
    /// Bytes that were taken by whoever reads, and of which the other side has not heard.
    pub(super) unreturned: u32,
    pub(super) chunks: Chunks,
    /// Bytes of a body have come.
    pub(super) has_data: bool,
    /// A body without a byte has ended by a frame of its own, of which its reader has not heard: a message with a body that is empty is
    /// another one than a message without (RFC 9112 §6.3 lets HTTP/1.1 show it).
    pub(super) empty_end: bool,
    pub(super) trailers: Option<HeaderMap>,
    /// Bytes of the body still to come, if the head says how many it has.
    pub(super) left: Option<u64>,
    pub(super) fault: Option<Fault>,
    /// Nobody reads what comes any more.
    pub(super) let_go: bool,
    pub(super) reading: Option<Waker>,
    pub(super) writing: Option<Waker>,
    pub(super) own: T,
}

impl<T> Stream<T> {
    pub(super) fn new(send_window: i64, receive_window: i64, own: T) -> Self {
        Self {
            sent: false,
            received: false,
            send_window,
            receive_window,
            unreturned: 0,
            chunks: Chunks::default(),
            has_data: false,
            empty_end: false,
            trailers: None,
            left: None,
            fault: None,
            let_go: false,
            reading: None,
            writing: None,
            own,
        }
    }

    /// It counts for the limit of streams at a time.
    pub(super) fn is_active(&self) -> bool {
        self.fault.is_none() && !(self.sent && self.received)
    }

    pub(super) fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reading.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writing.take() {
            waker.wake();
        }
    }
}

/// Leaves a waker, without a new reference if it is the one that is there.
pub(super) fn leave(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(there) => there.clone_from(waker),
        none => *none = Some(waker.clone()),
    }
}
