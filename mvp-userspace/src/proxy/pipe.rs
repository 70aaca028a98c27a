//! A body on its way out over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http_body::Body;
use tokio::task::JoinHandle;

use super::body::UploadBody;
use super::wire_body::BodyError;

/// Ends when all of the body has been handed to h2, when the other side does not want more of it, or when the body breaks off; the
/// stream is then reset as that on which it came.
pub struct Pipe<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// A chunk that waits for the other side's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

/// An upload with a task of its own. If this is dropped, the upload goes on; if it is cancelled, the stream is reset.
#[derive(Debug)]
pub struct Piping(JoinHandle<()>);

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Pipe<B> {
    pub fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            waiting: None,
        }
    }

    fn poll_pipe(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if self.stream.poll_reset(cx)?.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Some((chunk, last)) = self.waiting.take() {
                while self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(granted)) => {
                            granted?;
                        }
                        // The stream has ended.
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => {
                            self.waiting = Some((chunk, last));
                            return Poll::Pending;
                        }
                    }
                }
                // What is above the window waits in h2, one chunk at most.
                self.stream.send_data(chunk, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if chunk.is_empty() => {
                        let last = self.body.is_end_stream();
                        self.stream.send_data(chunk, last)?;
                        if last {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Ok(chunk) => {
                        self.stream.reserve_capacity(1);
                        self.waiting = Some((chunk, self.body.is_end_stream()));
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.stream.reserve_capacity(0);
                            self.stream.send_trailers(trailers)?;
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
                Some(Err(error)) => {
                    self.stream.send_reset(error.reset());
                    return Poll::Ready(Ok(()));
                }
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin> Future for Pipe<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.poll_pipe(cx)) {
            // The receiver at the other end of the body notices that it is dropped.
            tracing::debug!(%error, "a body ended early");
        }
        Poll::Ready(())
    }
}

impl Piping {
    pub fn spawn(pipe: Pipe<UploadBody>) -> Self {
        Self(tokio::spawn(pipe))
    }

    pub fn cancel(&self) {
        self.0.abort();
    }
}
