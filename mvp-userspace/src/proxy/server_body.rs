//! The body of a server's answer as it comes, over either HTTP version.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::pipe::Piping;

/// Dropping it ends the server's stream.
pub enum ServerBody {
    Http1(Incoming),
    Http2(Http2Body),
}

pub struct Http2Body {
    stream: RecvStream,
    /// What is still to come, if the server said how much there is.
    left: Option<u64>,
    data_ended: bool,
    /// What is left of the request's own body.
    upload: Option<Piping>,
}

/// How a server's answer broke off. The source is the HTTP library's error: towards an HTTP/2 client the stream is reset with the same
/// code.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("{0}")]
    Http1(#[source] hyper::Error),
    #[error("{0}")]
    Http2(#[source] h2::Error),
}

impl ServerBody {
    /// An answer whose upload may still be under way.
    pub fn of_http2(answer: Response<(RecvStream, Option<Piping>)>) -> Response<Self> {
        let (head, (stream, upload)) = answer.into_parts();
        let ended = stream.is_end_stream();
        let body = Http2Body {
            left: content_length(&head.headers).or(ended.then_some(0)),
            stream,
            data_ended: false,
            upload,
        };
        Response::from_parts(head, Self::Http2(body))
    }
}

impl Body for ServerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http1(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(BodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(body) => body.left.map_or(SizeHint::default(), SizeHint::with_exact),
        }
    }
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
        // Given up. A whole answer does not end the upload: it is the server's to say that it wants no more of it.
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

/// h2 has checked that it is a number, and that no more comes.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let first = values.next()?;
    if values.any(|value| value != first) {
        return None;
    }
    first.to_str().ok()?.parse().ok()
}
