//! The body of a request on its way out by the agent's own client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as _;

use super::own::{Exchange, Shared};
use crate::h2wire::client::Fault;
use crate::proxy::body::UploadBody;

/// Ends when all of the body was sent, when the server does not want more of it, or when the body breaks off; the stream is then reset
/// as that on which it came.
pub(super) struct Upload {
    client: Shared,
    id: u32,
    body: UploadBody,
    /// A chunk that waits for the server's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    pub(super) fn new(exchange: &Exchange, body: UploadBody) -> Self {
        Self {
            client: exchange.client.clone(),
            id: exchange.id,
            body,
            waiting: None,
        }
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if self.client.lock().poll_unwanted(self.id, cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            if let Some((chunk, last)) = &mut self.waiting {
                let last = *last;
                ready!(self.client.lock().poll_data(self.id, chunk, last, cx))?;
                self.waiting = None;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.waiting = Some((chunk, self.body.is_end_stream())),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.client.lock().trailers(self.id, &trailers);
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
                Some(Err(error)) => {
                    let code = error.reset().into();
                    self.client.lock().reset(self.id, code);
                    return Poll::Ready(Ok(()));
                }
                None => self.waiting = Some((Bytes::new(), true)),
            }
        }
    }
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(fault) = ready!(self.poll_upload(cx)) {
            // Whoever is at the other end of the body notices that it is dropped.
            tracing::debug!(%fault, "a body ended early");
        }
        Poll::Ready(())
    }
}
