//! The body of an answer that comes by the agent's own client.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::own::Exchange;
use crate::h2wire::client::{Fault, Piece};
use crate::proxy::wire_body::content_length;

/// Dropping one that has not ended resets its stream.
#[derive(Debug)]
pub struct OwnBody {
    exchange: Exchange,
    /// What is still to come, if the server said how much there is.
    left: Option<u64>,
}

impl OwnBody {
    /// The body behind a head with these fields.
    pub fn new(fields: &HeaderMap, exchange: Exchange) -> Self {
        let ended = exchange.client.lock().is_body_at_end(exchange.id);
        Self {
            exchange,
            left: content_length(fields).or(ended.then_some(0)),
        }
    }

    pub fn left(&self) -> Option<u64> {
        self.left
    }

    pub fn is_end_stream(&self) -> bool {
        self.exchange.client.lock().is_body_at_end(self.exchange.id)
    }

    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let piece = self.exchange.client.lock().poll_body(self.exchange.id, cx);
        Poll::Ready(match ready!(piece) {
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
