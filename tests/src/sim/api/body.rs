//! Bodies of answers.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, stream::unfold};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};

/// Any body; errors end it abruptly (RST_STREAM, or a cut connection).
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A body whose length is known.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body whose frames come when they come; an error breaks it off.
pub fn stream(
    frames: impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static,
) -> Body {
    StreamBody::new(frames).boxed_unsync()
}

/// The first `bytes` of `body` (trailers count nothing), then an error. It announces the length of the whole body.
pub fn cut(body: Body, bytes: usize) -> Body {
    let hint = http_body::Body::size_hint(&body);
    let state = (body, bytes);
    let frames = unfold(state, |(mut body, left)| async move {
        if left == 0 {
            // Lets what was written before leave: hyper drops what is buffered when a body fails.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let broken = Err(std::io::ErrorKind::ConnectionReset.into());
            return Some((broken, (body, 0)));
        }
        let frame = body
            .frame()
            .await?
            .map(|frame| frame.map_data(|mut data: Bytes| data.split_to(data.len().min(left))));
        let length = match &frame {
            Ok(frame) => frame.data_ref().map_or(0, Bytes::len),
            Err(_) => 0,
        };
        Some((frame, (body, left - length)))
    });
    let body = self::stream(frames);
    Announced { body, hint }.boxed_unsync()
}

struct Announced {
    body: Body,
    hint: SizeHint,
}

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

/// Counts one until dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts one more.
    pub fn new(counter: &Arc<AtomicUsize>) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that holds a count for as long as it is being sent.
pub struct CountedBody {
    body: Body,
    _count: Counted,
}

impl CountedBody {
    /// `count` is dropped with the body.
    pub fn new(body: Body, count: Counted) -> Self {
        Self {
            body,
            _count: count,
        }
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
