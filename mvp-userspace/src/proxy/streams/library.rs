//! HTTP/2 towards a client, on the h2 crate itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use h2::Reason;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ENDED_A_TURN, Ended, Granted, begin, take_ready};
use crate::h2wire::Fault;
use crate::proxy::flood::{FloodGuard, Flooded};
use crate::proxy::idle::InStream;
use crate::proxy::keep_alive::{KeepAlive, Pings};
use crate::proxy::pipe::Pipe;
use crate::proxy::wire_body::WireBody;

/// Serves one connection until it ends. `F` answers one request.
pub(in crate::proxy) struct Serving<S, F, A> {
    state: State<FloodGuard<S>>,
    flooded: Flooded,
    answer: F,
    open: FuturesUnordered<OneStream<A>>,
    /// Asked to end before the connection had begun.
    ends: bool,
}

enum State<S> {
    Beginning(Pin<Box<Handshake<S, Bytes>>>, Option<KeepAlive>),
    Begun(Box<Connection<S, Bytes>>, Option<KeepAlive>),
}

/// From a request to the last byte of its answer, or the client's reset.
struct OneStream<A> {
    respond: SendResponse<Bytes>,
    state: Progress<A>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer has a body, and each would have to be allocated"
)]
enum Progress<A> {
    Awaited(Pin<Box<A>>),
    Sent(Pipe<InStream>),
    Ended,
}

impl<S, F, A> Serving<S, F, A>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Request<WireBody>) -> A + Unpin,
    A: Future<Output = Response<InStream>>,
{
    /// Begins with the client's preface.
    pub(super) fn new(granted: Granted, stream: S, keep_alive: KeepAlive, answer: F) -> Self {
        let limits = granted.limits;
        let (stream, flooded) = FloodGuard::new(stream, granted, keep_alive.reads());
        let mut builder = Builder::new();
        builder
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_frame_size(limits.frame)
            .max_concurrent_streams(u32::try_from(limits.streams).unwrap_or(u32::MAX))
            // h2 derives from it, and from the frame size, how many frames a header may come in; clients' frames are smaller than
            // ours.
            .max_header_list_size(limits.header_list)
            .max_pending_accept_reset_streams(granted.pending_resets)
            // Counted over the connection's whole life; `FloodGuard` counts by rate.
            .max_local_error_reset_streams(None);
        Self {
            state: State::Beginning(Box::pin(builder.handshake(stream)), Some(keep_alive)),
            flooded,
            answer,
            open: FuturesUnordered::new(),
            ends: false,
        }
    }

    /// Tells the client that no further request will be taken, and ends once all that came are answered.
    pub(super) fn graceful_shutdown(&mut self) {
        match &mut self.state {
            State::Beginning(..) => self.ends = true,
            State::Begun(connection, _) => connection.graceful_shutdown(),
        }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        if let State::Beginning(handshake, keep_alive) = &mut self.state {
            let mut connection = ready!(handshake.as_mut().poll(cx))?;
            let pings = connection.ping_pong().map(Pings::Library);
            if self.ends {
                connection.graceful_shutdown();
            }
            let keep_alive = keep_alive.take().map(|k| k.with(pings));
            self.state = State::Begun(Box::new(connection), keep_alive);
        }
        self.poll_streams(cx)
    }

    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        let State::Begun(connection, keep_alive) = &mut self.state else {
            return Poll::Pending;
        };
        loop {
            // This is also what reads, and what writes the frames of all streams.
            while let Poll::Ready(request) = connection.poll_accept(cx) {
                let Some(request) = request else {
                    return Poll::Ready(Ok(()));
                };
                let (request, respond) = request?;
                let (head, stream) = request.into_parts();
                let body = WireBody::http2(&head.headers, stream, None);
                let answer = (self.answer)(Request::from_parts(head, body));
                self.open.push(OneStream {
                    respond,
                    state: Progress::Awaited(Box::pin(answer)),
                });
            }
            if keep_alive.as_mut().is_some_and(|k| !k.is_alive(cx)) {
                tracing::debug!("a client did not answer a PING");
                *keep_alive = None;
                connection.abrupt_shutdown(Reason::NO_ERROR);
                continue;
            }
            // What they write wakes this task, which so comes to write it behind all others that are ready now.
            take_ready(&mut self.open, ENDED_A_TURN, cx);
            return Poll::Pending;
        }
    }
}

impl<S, F, A> Future for Serving<S, F, A>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Request<WireBody>) -> A + Unpin,
    A: Future<Output = Response<InStream>>,
{
    type Output = Result<(), Ended>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = ready!(self.poll_connection(cx));
        Poll::Ready(match self.flooded.happened() {
            true => Err(Ended::Own(Fault::OwnLimit("resets or frames in a time"))),
            false => ended.map_err(Ended::Library),
        })
    }
}

impl<A: Future<Output = Response<InStream>>> Future for OneStream<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            let answer = match &mut this.state {
                Progress::Awaited(answer) => {
                    // A panic is one request's, not the connection's.
                    match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
                        Ok(Poll::Ready(answer)) => answer,
                        // The client may give it up.
                        Ok(Poll::Pending) => {
                            return this.respond.poll_reset(cx).map(|_reason| ());
                        }
                        Err(_panic) => {
                            this.respond.send_reset(Reason::INTERNAL_ERROR);
                            return Poll::Ready(());
                        }
                    }
                }
                Progress::Sent(pipe) => return Pin::new(pipe).poll(cx),
                Progress::Ended => return Poll::Ready(()),
            };
            this.state = this.begin(answer);
        }
    }
}

impl<A> OneStream<A> {
    /// Sends the head.
    fn begin(&mut self, answer: Response<InStream>) -> Progress<A> {
        let (head, body, ends) = begin(answer);
        match self
            .respond
            .send_response(Response::from_parts(head, ()), ends)
        {
            Ok(_) if ends => Progress::Ended,
            Ok(stream) => Progress::Sent(Pipe::new(body, stream)),
            Err(error) => {
                tracing::debug!(%error, "an answer was not sent");
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                Progress::Ended
            }
        }
    }
}
