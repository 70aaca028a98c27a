//! A body on its way out by the agent's own HTTP/2.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::own_io::Shared;
use crate::h2wire::{Fault, Side};
use crate::proxy::wire_body::BodyError;

/// Ends when all of the body was sent, when the other side does not want more of it, or when the body breaks off; the stream is then reset
/// as that on which it came.
pub(in crate::proxy) struct Pump<B, S: Side> {
    connection: Shared<S>,
    id: u32,
    body: B,
    /// A chunk that waits for the other side's window or for the socket, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin, S: Side> Pump<B, S> {
    pub(in crate::proxy) fn new(connection: Shared<S>, id: u32, body: B) -> Self {
        Self {
            connection,
            id,
            body,
            waiting: None,
        }
    }

    fn poll_pump(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            if let Some((chunk, last)) = &mut self.waiting {
                let last = *last;
                let sent = self.connection.lock().poll_data(self.id, chunk, last, cx);
                ready!(sent)?;
                self.waiting = None;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                // Whoever waits for the body hears as well that nobody wants it.
                Poll::Pending => {
                    return self
                        .connection
                        .lock()
                        .poll_unwanted(self.id, cx)
                        .map(|()| Ok(()));
                }
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.waiting = Some((chunk, self.body.is_end_stream())),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.connection.lock().trailers(self.id, &trailers);
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
                Some(Err(error)) => {
                    let code = error.reset().into();
                    self.connection.lock().reset(self.id, code);
                    return Poll::Ready(Ok(()));
                }
                None => self.waiting = Some((Bytes::new(), true)),
            }
        }
    }
}

impl<B: Body<Data = Bytes, Error = BodyError> + Unpin, S: Side> Future for Pump<B, S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Err(fault) = ready!(self.poll_pump(cx)) {
            // Whoever is at the other end of the body notices that it is dropped.
            tracing::debug!(%fault, "a body ended early");
        }
        Poll::Ready(())
    }
}
