//! An upload on its way to a server over HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;
use tokio::task::JoinHandle;

use super::body::UploadBody;

/// Ends when the upload has been handed to h2, when the server does not want more of it, or when the client breaks it off; the stream
/// is then reset as the client's was.
pub struct Pipe {
    body: UploadBody,
    stream: SendStream<Bytes>,
    /// A chunk that waits for the server's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

/// A pipe with a task of its own. Dropped, it goes on; cancelled, it resets the stream.
pub struct Piping(JoinHandle<()>);

impl Pipe {
    pub fn new(body: UploadBody, stream: SendStream<Bytes>) -> Self {
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
                    self.stream.send_reset(reason(&error));
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

impl Future for Pipe {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(error) = ready!(self.poll_pipe(cx)) {
            // Whoever waits for the answer hears of it.
            tracing::debug!(%error, "an upload ended early");
        }
        Poll::Ready(())
    }
}

impl Piping {
    pub fn spawn(pipe: Pipe) -> Self {
        Self(tokio::spawn(pipe))
    }

    pub fn cancel(&self) {
        self.0.abort();
    }
}

/// As the client said, if it did.
fn reason(error: &hyper::Error) -> Reason {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.reason().unwrap_or(Reason::INTERNAL_ERROR);
        }
        source = cause.source();
    }
    Reason::INTERNAL_ERROR
}
