//! Bodies as they come, of requests and of answers, over either HTTP version.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::http2::OwnBody;
use super::pipe::Piping;
use crate::h2wire::Fault;
use crate::h2wire::client::Requesting;
use crate::h2wire::server::Answering;

/// Dropping one that has not ended resets its stream.
#[derive(Debug)]
pub enum WireBody {
    Http1(Incoming),
    Http2(Http2Body),
    /// Of an answer, received over HTTP/2 by the agent's own client.
    Own(OwnBody<Requesting>),
    /// Of a request, received over HTTP/2 by the agent's own server.
    Request(OwnBody<Answering>),
    /// There is none.
    Empty,
}

#[derive(Debug)]
pub struct Http2Body {
    stream: RecvStream,
    /// What is still to come, if the sender said how much there is.
    left: Option<u64>,
    data_ended: bool,
    /// For an answer: what is left of the request's own body.
    upload: Option<Piping>,
}

/// How a body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("{0}")]
    Http1(#[source] hyper::Error),
    #[error("{0}")]
    Http2(#[source] h2::Error),
    #[error("{0}")]
    Own(#[source] Fault),
}

impl WireBody {
    /// The body that comes on a stream behind `headers`.
    pub fn http2(headers: &HeaderMap, stream: RecvStream, upload: Option<Piping>) -> Self {
        let ended = stream.is_end_stream();
        Self::Http2(Http2Body {
            left: content_length(headers).or(ended.then_some(0)),
            stream,
            data_ended: false,
            upload,
        })
    }
}

impl Body for WireBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(BodyError::Http2),
            Self::Own(body) => body.poll_frame(cx).map_err(BodyError::Own),
            Self::Request(body) => body.poll_frame(cx).map_err(BodyError::Own),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
            Self::Own(body) => body.is_end_stream(),
            Self::Request(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(body) => known(body.left),
            Self::Own(body) => known(body.left()),
            Self::Request(body) => known(body.left()),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

fn known(left: Option<u64>) -> SizeHint {
    left.map_or(SizeHint::default(), SizeHint::with_exact)
}

impl Http2Body {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    // It cannot be more than was received.
                    let _ = self.stream.flow_control().release_capacity(chunk.len());
                    self.left = self
                        .left
                        .map(|left| left.saturating_sub(chunk.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Some(Err(error)) => return Poll::Ready(ended(error)),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(Frame::trailers).map(Ok)),
            Err(error) => Poll::Ready(ended(error)),
        }
    }
}

impl Drop for Http2Body {
    fn drop(&mut self) {
        // The answer was given up. A whole answer does not end the upload: the server says when it does not want more of it.
        if let Some(upload) = &self.upload
            && !self.stream.is_end_stream()
        {
            upload.cancel();
        }
    }
}

/// NO_ERROR: the server wants no more of the request, behind its whole answer (RFC 9113 §8.1).
fn ended<T>(error: h2::Error) -> Option<Result<T, h2::Error>> {
    match error.reason() {
        Some(Reason::NO_ERROR) => None,
        _ => Some(Err(error)),
    }
}

impl BodyError {
    /// What to reset the stream with on which the body goes on: the code that ended the one on which it came.
    pub fn reset(&self) -> Reason {
        match self {
            Self::Http2(error) => error.reason(),
            Self::Own(Fault::Reset(code)) => Some(Reason::from(*code)),
            // The agent's own code for it.
            Self::Own(Fault::Malformed(_)) => Some(Reason::PROTOCOL_ERROR),
            Self::Http1(_) | Self::Own(_) => None,
        }
        .unwrap_or(Reason::INTERNAL_ERROR)
    }
}

/// h2 has checked that it is a number, and that no more comes.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let first = values.next()?;
    if values.any(|value| value != first) {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}
