//! One table: every way an attempt at a server can end, whose fault that is, whether it counts against the server's health,
//! whether another attempt is made, and what the client receives. Pure. `docs/security.md` shows the same table, and a test
//! compares the two.
//!
//! What a client can bring about never counts against a server: three streams that a server reset because a client's requests
//! were malformed would otherwise take the server from everybody else.

use std::fmt::Write;

use crate::route::Failure;

/// Every way an attempt at a server can end.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Ending {
    /// The head of an answer came, whatever its status.
    Answered,
    /// The client went away, or cancelled its request.
    ClientGone,
    /// The client's own upload ended in an error.
    UploadBroken,
    /// The server reset this one stream with a code that is about the request (RFC 9113 §7), PROTOCOL_ERROR above all: Go's
    /// server does so for a malformed authority and for forbidden trailers.
    RequestRejected,
    /// The server reset this one stream with INTERNAL_ERROR or CANCEL: Go's server does so when a handler gives up. A client may
    /// have found out how to make it.
    StreamAborted,
    /// The answer to this one request broke HTTP. It may be that of a backend behind the server, which the client chose.
    AnswerMalformed,
    /// REFUSED_STREAM: the server says that it did not look at the request (RFC 9113 §8.7).
    StreamRefused,
    /// GOAWAY said that the server had not looked at the request (RFC 9113 §6.8), or a kept connection was closed before it was
    /// sent.
    GoingAway,
    /// It is not proved that the server accepts this agent, or the user that it asserts. Nothing was sent.
    Unproved,
    /// Nothing listens at the server's address.
    ConnectRefused,
    /// The connection was reset while it was made.
    ConnectReset,
    /// No TCP and TLS connection in time.
    ConnectTimedOut,
    /// The TLS handshake failed.
    TlsFailed,
    /// The server does not support the version of HTTP that was negotiated.
    ConnectProtocol,
    /// No route, no such host.
    Unreachable,
    /// The connection broke after the request was sent; this request is the first of it to notice.
    ConnectionBroken,
    /// The same, noticed by another request on the same connection before. One break is one failure, however many requests
    /// were under way.
    SharedBreak,
    /// A connection that carried a single request of a caller who is not known to be authenticated broke. A server ends such
    /// connections by itself.
    QuarantineBroken,
    /// A PING was not answered.
    PingUnanswered,
    /// The server broke HTTP/2 for the whole connection.
    ConnectionMalformed,
    /// No response head within the limit. A hang is found by PINGs and by the prober; a slow answer alone is no reason to leave
    /// a server, and a client can ask for what takes long.
    NoAnswer,
    /// The agent had no source port, descriptor or memory left for a connection.
    Shortage,
    /// The agent's own HTTP/2 client ended the connection because of one of its limits.
    OwnLimit,
    /// The agent could not express the request in the server's version of HTTP.
    Unsendable,
}

/// Who caused an ending.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Blame {
    /// It is no failure.
    Nobody,
    Client,
    /// This server.
    Server,
    /// The network between the agent and this server.
    Way,
    /// This agent.
    Agent,
}

/// When another attempt is made. Always only if the whole body can be sent again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Retry {
    Never,
    /// Whatever the method: no server acted on the request.
    Always,
    /// A GET or HEAD, no byte of whose answer was passed on.
    Reads,
}

/// What the client receives when no other attempt is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClientAnswer {
    /// The server's answer.
    Answer,
    /// Nothing: it is gone.
    Nothing,
    /// 400 BadRequest.
    BadRequest,
    /// 503 ServiceUnavailable with Retry-After, naming the server; 502 without it if the request may not be sent again.
    Unavailable,
    /// The same, naming the agent.
    AgentUnavailable,
    /// 504 Timeout.
    Timeout,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Verdict {
    pub fault: Blame,
    /// How it counts against the server's health, if it does.
    pub counts: Option<Failure>,
    pub retry: Retry,
    pub answer: ClientAnswer,
    /// Label of `mvp_retries_total`.
    pub reason: &'static str,
}

impl Ending {
    pub const ALL: [Ending; 24] = [
        Ending::Answered,
        Ending::ClientGone,
        Ending::UploadBroken,
        Ending::RequestRejected,
        Ending::StreamAborted,
        Ending::AnswerMalformed,
        Ending::StreamRefused,
        Ending::GoingAway,
        Ending::Unproved,
        Ending::ConnectRefused,
        Ending::ConnectReset,
        Ending::ConnectTimedOut,
        Ending::TlsFailed,
        Ending::ConnectProtocol,
        Ending::Unreachable,
        Ending::ConnectionBroken,
        Ending::SharedBreak,
        Ending::QuarantineBroken,
        Ending::PingUnanswered,
        Ending::ConnectionMalformed,
        Ending::NoAnswer,
        Ending::Shortage,
        Ending::OwnLimit,
        Ending::Unsendable,
    ];

    /// The row of the table.
    #[rustfmt::skip]
    pub fn verdict(self) -> Verdict {
        use Blame::*;
        use Retry::*;
        let row = |fault, counts, retry, answer, reason| Verdict { fault, counts, retry, answer, reason };
        match self {
            Ending::Answered            => row(Nobody, None, Never, ClientAnswer::Answer, "answered"),
            Ending::ClientGone          => row(Client, None, Never, ClientAnswer::Nothing, "client_gone"),
            Ending::UploadBroken        => row(Client, None, Never, ClientAnswer::BadRequest, "upload"),
            Ending::RequestRejected     => row(Client, None, Never, ClientAnswer::BadRequest, "rejected"),
            Ending::StreamAborted       => row(Server, None, Reads, ClientAnswer::Unavailable, "broken"),
            Ending::AnswerMalformed     => row(Server, None, Reads, ClientAnswer::Unavailable, "malformed"),
            Ending::StreamRefused       => row(Nobody, None, Always, ClientAnswer::Unavailable, "unprocessed"),
            Ending::GoingAway           => row(Nobody, None, Always, ClientAnswer::Unavailable, "unprocessed"),
            Ending::Unproved            => row(Server, None, Always, ClientAnswer::Unavailable, "unproved"),
            Ending::ConnectRefused      => row(Server, Some(Failure::Refused), Always, ClientAnswer::Unavailable, "connect"),
            Ending::ConnectReset        => row(Server, Some(Failure::Reset), Always, ClientAnswer::Unavailable, "connect"),
            Ending::ConnectTimedOut     => row(Way, Some(Failure::TimedOut), Always, ClientAnswer::Unavailable, "connect"),
            Ending::TlsFailed           => row(Server, Some(Failure::Tls), Always, ClientAnswer::Unavailable, "connect"),
            Ending::ConnectProtocol     => row(Server, Some(Failure::Protocol), Always, ClientAnswer::Unavailable, "connect"),
            Ending::Unreachable         => row(Way, Some(Failure::Unreachable), Always, ClientAnswer::Unavailable, "connect"),
            Ending::ConnectionBroken    => row(Server, Some(Failure::Reset), Reads, ClientAnswer::Unavailable, "broken"),
            Ending::SharedBreak         => row(Server, None, Reads, ClientAnswer::Unavailable, "broken"),
            Ending::QuarantineBroken    => row(Client, None, Reads, ClientAnswer::Unavailable, "broken"),
            Ending::PingUnanswered      => row(Way, Some(Failure::TimedOut), Reads, ClientAnswer::Unavailable, "broken"),
            Ending::ConnectionMalformed => row(Server, Some(Failure::Protocol), Reads, ClientAnswer::Unavailable, "broken"),
            Ending::NoAnswer            => row(Server, None, Never, ClientAnswer::Timeout, "timeout"),
            Ending::Shortage            => row(Agent, None, Always, ClientAnswer::AgentUnavailable, "shortage"),
            Ending::OwnLimit            => row(Agent, None, Reads, ClientAnswer::AgentUnavailable, "own_limit"),
            Ending::Unsendable          => row(Agent, None, Never, ClientAnswer::AgentUnavailable, "unsendable"),
        }
    }

    /// True if the server only sends its clients to new connections, so that it may be asked again.
    pub fn asks_to_come_again(self) -> bool {
        matches!(self, Ending::StreamRefused | Ending::GoingAway)
    }

    /// What happened, for messages; the details follow it.
    pub fn words(self) -> &'static str {
        match self {
            Ending::Answered => "it answered",
            Ending::ClientGone => "the client went away",
            Ending::UploadBroken => "the client's upload broke off",
            Ending::RequestRejected => "it refused the request as malformed",
            Ending::StreamRefused | Ending::GoingAway => "the connection was going away",
            Ending::Unproved => "it has not been shown to accept the mixed version proxy",
            Ending::ConnectRefused
            | Ending::ConnectReset
            | Ending::ConnectTimedOut
            | Ending::TlsFailed
            | Ending::ConnectProtocol
            | Ending::Unreachable
            | Ending::Shortage => "cannot connect",
            Ending::StreamAborted
            | Ending::AnswerMalformed
            | Ending::ConnectionBroken
            | Ending::SharedBreak
            | Ending::QuarantineBroken
            | Ending::PingUnanswered
            | Ending::ConnectionMalformed
            | Ending::OwnLimit => "broke off",
            Ending::NoAnswer => "no answer in time",
            Ending::Unsendable => "the request cannot be expressed",
        }
    }

    /// The ending as the documentation names it.
    fn described(self) -> &'static str {
        match self {
            Ending::Answered => "an answer, whatever its status",
            Ending::ClientGone => "the client goes away or cancels",
            Ending::UploadBroken => "the client's upload breaks off",
            Ending::RequestRejected => {
                "the server resets this one stream: PROTOCOL_ERROR and other codes about the request"
            }
            Ending::StreamAborted => "the server resets this one stream: INTERNAL_ERROR, CANCEL",
            Ending::AnswerMalformed => "this one answer breaks HTTP",
            Ending::StreamRefused => "the server resets this one stream: REFUSED_STREAM",
            Ending::GoingAway => {
                "GOAWAY before the request was looked at, or a kept connection found closed"
            }
            Ending::Unproved => "the server is not proved to accept this agent and its users",
            Ending::ConnectRefused => "connection refused",
            Ending::ConnectReset => "connection reset while it is made",
            Ending::ConnectTimedOut => "no connection within `upstream.connectTimeout`",
            Ending::TlsFailed => "TLS handshake fails",
            Ending::ConnectProtocol => "the server does not speak HTTP",
            Ending::Unreachable => "no route, no such host",
            Ending::ConnectionBroken => "the connection breaks under a request",
            Ending::SharedBreak => "the same, for every further request on that connection",
            Ending::QuarantineBroken => {
                "the connection of one request that is not known to be authenticated breaks"
            }
            Ending::PingUnanswered => "a PING is not answered within `upstream.pingTimeout`",
            Ending::ConnectionMalformed => "the server breaks HTTP/2 for the whole connection",
            Ending::NoAnswer => "no answer within `limits.responseTimeout`",
            Ending::Shortage => "no source port, descriptor or memory for a connection",
            Ending::OwnLimit => {
                "the agent's own HTTP/2 client ends the connection (GOAWAY of its own)"
            }
            Ending::Unsendable => "the request cannot be put into the server's HTTP version",
        }
    }
}

impl Blame {
    fn as_str(self) -> &'static str {
        match self {
            Blame::Nobody => "nobody",
            Blame::Client => "the client",
            Blame::Server => "this server",
            Blame::Way => "the way to it",
            Blame::Agent => "this agent",
        }
    }
}

impl Retry {
    fn as_str(self) -> &'static str {
        match self {
            Retry::Never => "no",
            Retry::Always => "yes",
            Retry::Reads => "GET and HEAD",
        }
    }
}

impl ClientAnswer {
    fn as_str(self) -> &'static str {
        match self {
            ClientAnswer::Answer => "the answer",
            ClientAnswer::Nothing => "nothing (499 in the log)",
            ClientAnswer::BadRequest => "400 BadRequest",
            ClientAnswer::Unavailable => "503, naming the server",
            ClientAnswer::AgentUnavailable => "503, naming the agent",
            ClientAnswer::Timeout => "504 Timeout",
        }
    }
}

/// The table of `docs/security.md`.
pub fn markdown_table() -> String {
    let mut out = String::from(
        "| an attempt ends with | whose fault | counts against the server | another attempt | what the client receives |\n|---|---|---|---|---|\n",
    );
    for ending in Ending::ALL {
        let verdict = ending.verdict();
        let counts = match verdict.counts {
            None => "no".to_owned(),
            Some(failure) if failure.is_hard() => format!("`{}`, at once", failure.as_str()),
            Some(failure) => format!("`{}`, three in a row", failure.as_str()),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {counts} | {} | {} |",
            ending.described(),
            verdict.fault.as_str(),
            verdict.retry.as_str(),
            verdict.answer.as_str(),
        );
    }
    out
}

#[cfg(test)]
#[path = "blame_tests.rs"]
mod tests;
