//! One request and its answer, as a connection knows them.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

/// How a stream, or the connection below it, ended before its time.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// RST_STREAM with this code of RFC 9113 §7.
    #[error("the server reset the stream (code {0})")]
    Reset(u32),
    /// The agent reset the stream, since what came on it follows no rules.
    #[error("the answer is malformed: {0}")]
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

#[derive(Debug)]
pub(super) struct Stream {
    /// All of the request has been written.
    pub sent: bool,
    /// All of the answer has come.
    pub received: bool,
    /// Bytes of the request's body that may still be sent, negative after the server made its windows smaller (§6.9.2).
    pub send_window: i64,
    /// Bytes of the answer's body that may still come.
    pub receive_window: i64,
    /// Bytes that were taken by whoever reads the answer, and of which the server has not heard.
    pub unreturned: u32,
    /// A request that has an answer without a body whatever its fields say.
    pub is_head: bool,
    pub has_head: bool,
    pub head: Option<Head>,
    pub chunks: VecDeque<Bytes>,
    pub trailers: Option<HeaderMap>,
    /// Bytes of the body still to come, if the answer says how many it has.
    pub left: Option<u64>,
    pub fault: Option<Fault>,
    /// Nobody reads the answer any more.
    pub let_go: bool,
    pub reading: Option<Waker>,
    pub writing: Option<Waker>,
}

impl Stream {
    pub(super) fn new(send_window: i64, receive_window: i64, is_head: bool) -> Self {
        Self {
            sent: false,
            received: false,
            send_window,
            receive_window,
            unreturned: 0,
            is_head,
            has_head: false,
            head: None,
            chunks: VecDeque::new(),
            trailers: None,
            left: None,
            fault: None,
            let_go: false,
            reading: None,
            writing: None,
        }
    }

    /// It counts for the server's limit of streams at a time.
    pub(super) fn is_active(&self) -> bool {
        self.fault.is_none() && !(self.sent && self.received)
    }

    pub(super) fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
        self.wake();
    }

    pub(super) fn wake(&mut self) {
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
