//! HTTP/2 towards a server on the h2 crate.
//!
//! hyper's client gives every request a channel, a task and three wake-ups of its own, since its callers may be on any thread. Here a
//! request, its connection and its client are on one thread: the request is given to h2 where it is, and whoever wants the answer
//! waits for it there. Only an upload that does not fit at once has a task.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Settings, announce_length};
use crate::proxy::attempt::http2_error;
use crate::proxy::blame::Ending;
use crate::proxy::body::UploadBody;
use crate::proxy::error::AttemptError;
use crate::proxy::keep_alive::{KeepAlive, Pings};
use crate::proxy::pipe::{Pipe, Piping};
use crate::proxy::wire_body::WireBody;

/// Streams before the server has said how many it allows: what RFC 9113 §6.5.2 recommends as the least.
const FIRST_STREAMS: usize = 100;
/// Bytes of one upload that wait for the connection.
const SEND_BUFFER: usize = 1024 * 1024;

/// Where requests are given to a connection. Cheap to clone; the connection ends with the last one and the last answer.
#[derive(Clone)]
pub(crate) struct Sender {
    send: SendRequest<Bytes>,
    link: Arc<Link>,
}

/// What a connection's requests and its driver know of it.
#[derive(Debug)]
pub(super) struct Link {
    /// Streams that the server allows at a time, as its SETTINGS last said, at most so many as were asked for.
    streams: AtomicUsize,
    /// A PING was not answered, and that is why the connection has ended.
    unanswered: AtomicBool,
    /// A request has noticed that the connection broke.
    broken: AtomicBool,
}

/// Drives a connection until it ends.
pub(super) struct Driver<S> {
    connection: Connection<S, Bytes>,
    keep_alive: KeepAlive,
    link: Arc<Link>,
    most_streams: usize,
}

/// See [`super::handshake`].
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    settings: Settings,
) -> Result<(Sender, Driver<S>), h2::Error> {
    let (limits, most_streams) = (settings.limits, settings.limits.streams);
    let mut builder = Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_frame_size(limits.frame)
        .max_header_list_size(limits.header_list)
        // The connection is shared: what one client cancels must not end it for the others. h2 counts over the connection's whole
        // life, the frames that a server still sends on cancelled streams among them.
        .max_local_error_reset_streams(None)
        .max_concurrent_reset_streams(settings.remembered_resets)
        .enable_push(false)
        .initial_max_send_streams(FIRST_STREAMS)
        .max_send_buffer_size(SEND_BUFFER);
    let (send, mut connection) = builder.handshake(stream).await?;
    let streams = connection.max_concurrent_send_streams().min(most_streams);
    let link = Arc::new(Link {
        streams: AtomicUsize::new(streams),
        unanswered: AtomicBool::new(false),
        broken: AtomicBool::new(false),
    });
    let driver = Driver {
        keep_alive: settings
            .keep_alive
            .with(connection.ping_pong().map(Pings::Library)),
        connection,
        link: Arc::clone(&link),
        most_streams,
    };
    Ok((Sender { send, link }, driver))
}

impl Sender {
    /// Takes no further request: it has ended, the server is ending it, or its stream numbers are used up.
    pub(crate) fn is_closed(&mut self) -> bool {
        // Pending only behind a request of this very sender.
        let mut nobody = Context::from_waker(Waker::noop());
        matches!(self.send.poll_ready(&mut nobody), Poll::Ready(Err(_)))
    }

    /// How many streams the server allows at a time, by its SETTINGS.
    pub(crate) fn stream_limit(&self) -> usize {
        self.link.streams.load(Ordering::Relaxed)
    }

    /// True for the first who asks.
    pub(crate) fn breaks_first(&self) -> bool {
        !self.link.broken.swap(true, Ordering::Relaxed)
    }

    /// Sends one request and waits for the head of its answer. Dropping the future resets the stream.
    pub(crate) async fn send(
        &mut self,
        request: Request<UploadBody>,
    ) -> Result<Response<WireBody>, AttemptError> {
        let (mut head, upload) = request.into_parts();
        announce_length(&mut head, &upload);
        let ends = upload.is_end_stream();
        let request = Request::from_parts(head, ());
        let (mut answer, stream) = self.send.send_request(request, ends).map_err(unsent)?;
        let mut pipe = (!ends).then(|| Pipe::new(upload, stream));
        let answer = std::future::poll_fn(|cx| {
            if let Some(uploading) = &mut pipe
                && Pin::new(uploading).poll(cx).is_ready()
            {
                pipe = None;
            }
            Pin::new(&mut answer).poll(cx)
        })
        .await;
        let (head, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) => return Err(self.link.error(&error)),
        };
        // What is left of the upload goes on beside the answer.
        let body = WireBody::http2(&head.headers, body, pipe.map(Piping::spawn));
        Ok(Response::from_parts(head, body))
    }
}

impl Link {
    fn error(&self, error: &h2::Error) -> AttemptError {
        match self.unanswered.load(Ordering::Relaxed) {
            true => AttemptError::bare(Ending::PingUnanswered),
            false => http2_error(error),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let ended = Pin::new(&mut this.connection).poll(cx);
        if ended.is_ready() {
            return ended;
        }
        let streams = this.connection.max_concurrent_send_streams();
        let streams = streams.min(this.most_streams);
        this.link.streams.store(streams, Ordering::Relaxed);
        if !this.keep_alive.is_alive(cx) {
            this.link.unanswered.store(true, Ordering::Relaxed);
            // Dropped with this future, the connection ends under all its streams.
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

/// h2 did not take the request: nothing of it was sent.
fn unsent(error: h2::Error) -> AttemptError {
    let ending = match error.is_go_away() || error.is_io() {
        true => Ending::GoingAway,
        false => Ending::Unsendable,
    };
    AttemptError::new(ending, error.to_string())
}
