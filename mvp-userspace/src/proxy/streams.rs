//! HTTP/2 towards a client, on the h2 crate itself: the requests of a connection are answered in the connection's own task.
//!
//! hyper's server gives every request a task of its own. That a request, its connection and the connections to servers are on one
//! thread makes it a detour: each request is made twice as many wake-ups, and its state is copied into the task.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream};
use h2::Reason;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use http::header::{CONTENT_LENGTH, DATE, TE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite};

use super::idle::InStream;
use super::keep_alive::{KeepAlive, Pings};
use super::pipe::Pipe;
use super::wire_body::WireBody;
use crate::net::next_turn;

/// RFC 9110 §5.6.7.
const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Streams of one connection that end in one turn of its thread's event loop. Others come between the turns: a client may have a hundred
/// answers ready at once, or give up a hundred requests at once.
const ENDED_A_TURN: usize = 8;

/// Serves one connection until it ends. `F` answers one request.
pub(super) struct Serving<S, F, A> {
    state: State<S>,
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
    pub(super) fn new(builder: &Builder, stream: S, keep_alive: KeepAlive, answer: F) -> Self {
        Self {
            state: State::Beginning(Box::pin(builder.handshake(stream)), Some(keep_alive)),
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
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let State::Beginning(handshake, keep_alive) = &mut this.state {
            let mut connection = ready!(handshake.as_mut().poll(cx))?;
            let pings = connection.ping_pong().map(Pings::Library);
            if this.ends {
                connection.graceful_shutdown();
            }
            let keep_alive = keep_alive.take().map(|k| k.with(pings));
            this.state = State::Begun(Box::new(connection), keep_alive);
        }
        this.poll_streams(cx)
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
        let (mut head, body) = answer.into_parts();
        let ends = body.is_end_stream();
        complete(&mut head.headers);
        if let Some(length) = body.size_hint().exact().filter(|_| !ends) {
            let field = head.headers.entry(CONTENT_LENGTH);
            field.or_insert_with(|| HeaderValue::from(length));
        }
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

/// Takes what is ready of `stream`, `most` items at most. If there may be more, the task is woken again, behind whatever else is ready.
fn take_ready<S: Stream + Unpin>(stream: &mut S, most: usize, cx: &mut Context<'_>) {
    for _ in 0..most {
        if !matches!(Pin::new(&mut *stream).poll_next(cx), Poll::Ready(Some(_))) {
            return;
        }
    }
    next_turn(cx);
}

/// What an answer has over HTTP/2: a date, and nothing that is between client and server of one connection (RFC 9113 §8.2.2), of which
/// `strip_hop_by_hop` leaves what a request may have.
fn complete(headers: &mut HeaderMap) {
    headers.remove(TE);
    headers.entry(DATE).or_insert_with(|| {
        let now = OffsetDateTime::now_utc().format(HTTP_DATE);
        HeaderValue::try_from(now.unwrap_or_default()).unwrap_or(HeaderValue::from_static(""))
    });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_burst_of_ends_is_spread_over_turns() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let ready = |count| {
            (0..count)
                .map(std::future::ready)
                .collect::<FuturesUnordered<_>>()
        };
        for (open, left, again) in [(100, 92, true), (8, 0, true), (7, 0, false), (0, 0, false)] {
            let mut open = ready(open);
            take_ready(&mut open, ENDED_A_TURN, &mut cx);
            assert_eq!(open.len(), left);
            assert_eq!(woken.0.swap(false, Ordering::Relaxed), again, "{left} left");
        }
    }

    /// Sockets are looked at between the turns of a burst: who has just sent something does not wait for the whole burst.
    #[test]
    fn others_sockets_are_looked_at_between_the_turns_of_a_burst() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let left_when_heard = runtime.block_on(async {
            let (mut here, there) = tokio::net::UnixStream::pair().unwrap();
            let left = Arc::new(AtomicUsize::new(usize::MAX));
            let burst = tokio::spawn({
                let left = Arc::clone(&left);
                let mut open: FuturesUnordered<_> = (0..100).map(std::future::ready).collect();
                std::future::poll_fn(move |cx| {
                    if left.load(Ordering::Relaxed) == usize::MAX {
                        // In the first turn somebody else sends something.
                        there.try_write(b"x").unwrap();
                    }
                    take_ready(&mut open, ENDED_A_TURN, cx);
                    left.store(open.len(), Ordering::Relaxed);
                    if open.is_empty() {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
            });
            here.read_u8().await.unwrap();
            let heard = left.load(Ordering::Relaxed);
            burst.await.unwrap();
            heard
        });
        assert!(
            (76..100).contains(&left_when_heard),
            "{left_when_heard} of 100 were left"
        );
    }

    #[test]
    fn an_answer_gets_a_date_unless_it_has_one() {
        let mut headers = HeaderMap::new();
        complete(&mut headers);
        let date = headers[DATE].to_str().unwrap().to_owned();
        let (date, zone) = date.split_at(date.len() - 4);
        assert_eq!(
            (date.len(), zone),
            ("Sun, 29 Nov 2026 15:43:29".len(), " GMT")
        );
        headers.insert(DATE, HeaderValue::from_static("then"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        complete(&mut headers);
        assert_eq!(headers[DATE], "then");
        assert!(!headers.contains_key(TE));
    }
}
