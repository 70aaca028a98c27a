//! HTTP/2 towards a client, by the agent's own server.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ENDED_A_TURN, Ended, Granted, begin, take_ready};
use crate::h2wire::Fault;
use crate::h2wire::frame::code;
use crate::h2wire::server::{Answering, Incoming, Server};
use crate::proxy::flood::Floods;
use crate::proxy::http2::{Exchange, Io, OwnBody, Pump, Shared, fault};
use crate::proxy::idle::InStream;
use crate::proxy::keep_alive::{KeepAlive, Pings, Reads};
use crate::proxy::wire_body::WireBody;

/// Serves one connection until it ends. `F` answers one request.
pub(in crate::proxy) struct Serving<S, F, A> {
    io: Io<S, Answering>,
    answer: F,
    open: FuturesUnordered<OneStream<A>>,
    keep_alive: KeepAlive,
    reads: Reads,
    floods: Floods,
    /// What broke the socket.
    broke: Option<io::Error>,
    /// It ends because nobody needs it any more.
    in_order: bool,
}

/// From a request to the last byte of its answer, or the client's reset.
struct OneStream<A> {
    responder: Responder,
    state: Progress<A>,
}

/// How far it is.
enum Progress<A> {
    Awaited(Pin<Box<A>>),
    /// It waits for room.
    Answered(Option<Response<InStream>>),
    Sent(Pump<InStream, Answering>),
    Ended,
}

/// Where a stream's answer goes. Dropped before its end, it resets the stream.
struct Responder {
    server: Shared<Answering>,
    id: u32,
}

impl<S, F, A> Serving<S, F, A>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Request<WireBody>) -> A + Unpin,
    A: Future<Output = Response<InStream>>,
{
    pub(super) fn new(granted: Granted, stream: S, keep_alive: KeepAlive, answer: F) -> Self {
        let server = Shared::new(Server::new(granted.limits));
        let keep_alive = keep_alive.with(Some(Pings::Server(server.clone())));
        Self {
            io: Io::new(stream, server),
            answer,
            open: FuturesUnordered::new(),
            reads: keep_alive.reads(),
            keep_alive,
            floods: Floods::new(granted.pending_resets),
            broke: None,
            in_order: false,
        }
    }

    pub(super) fn graceful_shutdown(&mut self) {
        self.io.connection.lock().graceful_shutdown();
    }

    fn break_with(&mut self, error: io::Error) {
        self.io.connection.lock().broken(fault(&error));
        self.broke.get_or_insert(error);
    }

    fn accept(&mut self) {
        loop {
            let incoming = self.io.connection.lock().accept();
            let Some(Incoming { stream, head, ends }) = incoming else {
                return;
            };
            let server = &self.io.connection;
            let body = match ends {
                true => WireBody::Empty,
                false => {
                    let exchange = Exchange {
                        connection: server.clone(),
                        id: stream,
                    };
                    WireBody::Request(OwnBody::new(head.headers(), exchange))
                }
            };
            let responder = Responder {
                server: server.clone(),
                id: stream,
            };
            let answer = (self.answer)(head.map(|()| body));
            self.open.push(OneStream {
                responder,
                state: Progress::Awaited(Box::pin(answer)),
            });
        }
    }

    /// Ends the connection of a client that does too much of what costs the agent more than the client.
    fn watch_for_floods(&mut self) {
        let mut server = self.io.connection.lock();
        let misdeeds = server.take_misdeeds();
        if !self.floods.allow(misdeeds) {
            let fault = Fault::OwnLimit("requests that are given up or refused in a time");
            server.abrupt_shutdown(code::ENHANCE_YOUR_CALM, fault);
        }
    }

    /// How it ended, once everything is written.
    fn end(&mut self) -> Result<(), Ended> {
        let ended = self.io.connection.lock().fault();
        match (self.broke.take(), ended) {
            // The client closed it.
            (Some(error), _) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            (Some(error), _) => Err(Ended::Socket(error)),
            (None, Some(fault)) if !self.in_order => Err(Ended::Own(fault)),
            (None, _) => Ok(()),
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
        let this = &mut *self;
        let done = {
            let mut server = this.io.connection.lock();
            server.is_awake();
            server.is_done()
        };
        if !done {
            match this.io.poll_read(cx) {
                Ok(true) => this.reads.count(),
                Ok(false) => {}
                Err(error) => this.break_with(error),
            }
            if !this.keep_alive.is_alive(cx) {
                tracing::debug!("a client did not answer a PING");
                let mut server = this.io.connection.lock();
                server.abrupt_shutdown(code::NO_ERROR, Fault::PingUnanswered);
            }
            if this.io.connection.lock().fault().is_none() {
                this.accept();
                this.watch_for_floods();
                // What they write is written below, with what all others write that are ready now.
                take_ready(&mut this.open, ENDED_A_TURN, cx);
            }
        }
        let done = {
            let mut server = this.io.connection.lock();
            let done = server.is_done();
            if done && server.fault().is_none() {
                this.in_order = true;
                server.say_goodbye();
            }
            done
        };
        if done {
            // Nobody hears their answers.
            this.open.clear();
        }
        match this.io.poll_write(cx) {
            Poll::Ready(Ok(())) if done => {
                let _ = ready!(this.io.poll_shutdown(cx));
                return Poll::Ready(this.end());
            }
            Poll::Ready(Err(error)) => {
                this.break_with(error);
                this.open.clear();
                return Poll::Ready(this.end());
            }
            _ => {}
        }
        this.io.connection.lock().owned_by(cx.waker());
        Poll::Pending
    }
}

/// Dropped, it ends all that waits for it.
impl<S, F, A> Drop for Serving<S, F, A> {
    fn drop(&mut self) {
        self.io.connection.lock().broken(Fault::Broken);
    }
}

impl<A: Future<Output = Response<InStream>>> Future for OneStream<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Responder { server, id } = &this.responder;
        loop {
            this.state = match &mut this.state {
                Progress::Awaited(answer) => {
                    // A panic is one request's, not the connection's.
                    match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
                        Ok(Poll::Ready(answer)) => Progress::Answered(Some(answer)),
                        // The client may give it up.
                        Ok(Poll::Pending) => return server.lock().poll_unwanted(*id, cx),
                        Err(_panic) => Progress::Ended,
                    }
                }
                Progress::Answered(answer) => {
                    ready!(server.lock().poll_room(*id, cx));
                    match answer.take() {
                        Some(answer) => this.responder.send(answer),
                        None => Progress::Ended,
                    }
                }
                Progress::Sent(pump) => return Pin::new(pump).poll(cx),
                Progress::Ended => return Poll::Ready(()),
            };
        }
    }
}

impl Responder {
    /// Sends the head.
    fn send<A>(&self, answer: Response<InStream>) -> Progress<A> {
        let (head, body, ends) = begin(answer);
        let sent = self
            .server
            .lock()
            .respond(self.id, head.status, &head.headers, ends);
        match sent {
            Ok(()) if ends => Progress::Ended,
            Ok(()) => Progress::Sent(Pump::new(self.server.clone(), self.id, body)),
            Err(fault) => {
                tracing::debug!(%fault, "an answer was not sent");
                Progress::Ended
            }
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.server.lock().answered(self.id);
    }
}
