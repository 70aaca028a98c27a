//! HTTP/2 towards a client, by the h2 crate or by the agent's own server (`serving.http2`): the requests of a connection are answered in the
//! connection's own task.
//!
//! hyper's server gives every request a task of its own. That a request, its connection and the connections to servers are on one
//! thread makes it a detour: each request is made twice as many wake-ups, and its state is copied into the task.

mod library;
mod own;
#[cfg(test)]
mod own_tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::Stream;
use http::header::{CONTENT_LENGTH, DATE, TE};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Body;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite};

use super::idle::InStream;
use super::keep_alive::KeepAlive;
use super::wire_body::WireBody;
use crate::config::Http2;
use crate::h2wire::{Fault, Limits};
use crate::net::next_turn;

/// RFC 9110 §5.6.7.
const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);

/// Streams of one connection that end in one turn of its thread's event loop. Others come between the turns: a client may have a hundred
/// answers ready at once, or give up a hundred requests at once.
const ENDED_A_TURN: usize = 8;

/// Serves one connection until it ends. `F` answers one request.
pub(super) enum Serving<S, F, A> {
    Library(library::Serving<S, F, A>),
    Own(own::Serving<S, F, A>),
}

/// What a client is granted.
#[derive(Clone, Copy)]
pub(super) struct Granted {
    pub limits: Limits,
    /// Requests that it may give up before they were looked at, and resets for errors of its own: at once, and each minute.
    pub pending_resets: usize,
}

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("{0}")]
    Library(#[source] h2::Error),
    #[error("{0}")]
    Own(#[source] Fault),
    #[error("{0}")]
    Socket(#[source] io::Error),
}

impl<S, F, A> Serving<S, F, A>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(Request<WireBody>) -> A + Unpin,
    A: Future<Output = Response<InStream>>,
{
    /// Begins with the client's preface.
    pub(super) fn new(
        engine: Http2,
        granted: Granted,
        stream: S,
        keep_alive: KeepAlive,
        answer: F,
    ) -> Self {
        match engine {
            Http2::Library => {
                Self::Library(library::Serving::new(granted, stream, keep_alive, answer))
            }
            Http2::Own => Self::Own(own::Serving::new(granted, stream, keep_alive, answer)),
        }
    }

    /// Tells the client that no further request will be taken, and ends once all that came are answered.
    pub(super) fn graceful_shutdown(&mut self) {
        match self {
            Self::Library(serving) => serving.graceful_shutdown(),
            Self::Own(serving) => serving.graceful_shutdown(),
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
        match &mut *self {
            Self::Library(serving) => Pin::new(serving).poll(cx),
            Self::Own(serving) => Pin::new(serving).poll(cx),
        }
    }
}

/// The head of an answer as it is sent, its body, and whether that is empty.
fn begin(answer: Response<InStream>) -> (http::response::Parts, InStream, bool) {
    let (mut head, body) = answer.into_parts();
    let ends = body.is_end_stream();
    complete(&mut head.headers);
    if let Some(length) = body.size_hint().exact().filter(|_| !ends) {
        let field = head.headers.entry(CONTENT_LENGTH);
        field.or_insert_with(|| HeaderValue::from(length));
    }
    (head, body, ends)
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

    use futures_util::stream::FuturesUnordered;
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
