//! A body that comes by the agent's own HTTP/2.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::own_io::Exchange;
use crate::h2wire::{Fault, Piece, Side};
use crate::proxy::wire_body::content_length;

/// Dropping one that has not ended lets go what is left.
#[derive(Debug)]
pub struct OwnBody<S: Side> {
    exchange: Exchange<S>,
    /// What is still to come, if the sender said how much there is.
    left: Option<u64>,
}

impl<S: Side> OwnBody<S> {
    /// The body behind a head with these fields.
    pub(in crate::proxy) fn new(fields: &HeaderMap, exchange: Exchange<S>) -> Self {
        let ended = exchange.connection.lock().is_body_at_end(exchange.id);
        Self {
            exchange,
            left: content_length(fields).or(ended.then_some(0)),
        }
    }

    pub fn left(&self) -> Option<u64> {
        self.left
    }

    pub fn is_end_stream(&self) -> bool {
        let connection = self.exchange.connection.lock();
        connection.is_body_at_end(self.exchange.id)
    }

    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let mut connection = self.exchange.connection.lock();
        Poll::Ready(match ready!(connection.poll_body(self.exchange.id, cx)) {
            Ok(Piece::Data(chunk)) => {
                self.left = self
                    .left
                    .map(|left| left.saturating_sub(chunk.len() as u64));
                Some(Ok(Frame::data(chunk)))
            }
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(fault) => Some(Err(fault)),
        })
    }
}
