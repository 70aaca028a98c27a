//! The body of a request, with what Go's HTTP/2 server checks in it.

use std::{
    error::Error,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// `golang.org/x/net/http/httpguts.ValidTrailerHeader`.
const BAD_TRAILERS: [&str; 21] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "realm",
    "te",
    "trailer",
    "transfer-encoding",
    "www-authenticate",
];

/// As hyper gives it. Trailers that Go refuses end it with an error, and mark the stream to be reset with PROTOCOL_ERROR
/// (`processTrailerHeaders` of Go's http2/server.go, which looks only if the header announced trailers).
#[derive(Debug)]
pub struct Upload {
    incoming: Incoming,
    checked: bool,
    malformed: Arc<AtomicBool>,
}

impl Upload {
    pub fn new(
        incoming: Incoming,
        headers: &HeaderMap,
        http2: bool,
        malformed: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            incoming,
            checked: http2 && headers.contains_key(header::TRAILER),
            malformed: malformed.clone(),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && self.checked
            && trailers.keys().any(|name| is_bad(name.as_str()))
        {
            self.malformed.store(true, Ordering::SeqCst);
            return Poll::Ready(Some(Err("a trailer that no trailer may be".into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

fn is_bad(name: &str) -> bool {
    name.starts_with("if-") || BAD_TRAILERS.contains(&name)
}
