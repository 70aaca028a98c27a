//! Bodies on their way through. Chunks are handed on as they are: `Bytes` are counted references, never copied here.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::headers::strip_forbidden_trailers;
use super::wire_body::{BodyError, WireBody};
use crate::identity::{Trust, strip_headers};
use crate::net::OpenCount;

/// Chunks of an upload kept until the server's answer begins, so that a request which a server certainly did not process can
/// be sent again. An upload larger than this cannot be.
const REPLAY_LIMIT: usize = 256 * 1024;

/// A request's body, readable by one attempt after another.
#[derive(Clone, Debug)]
pub enum Upload {
    Empty,
    Stream(Arc<Mutex<UploadSource>>),
}

#[derive(Debug)]
pub struct UploadSource {
    incoming: WireBody,
    trust: Arc<Trust>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Chunks were passed on that are not kept: no second attempt can have them.
    lost: bool,
    recording: bool,
    trailers: Option<http::HeaderMap>,
    ended: bool,
    failed: bool,
    /// Bytes received from the client.
    received: u64,
}

/// What one attempt reads of an [`Upload`]: first what was kept, then what is still to come.
#[derive(Debug)]
pub struct UploadBody {
    upload: Upload,
    position: usize,
    trailers_sent: bool,
    /// Counts as an upload under way on its connection.
    _upload: Option<Arc<OpenCount>>,
}

impl Upload {
    /// `trust` has the names of identity headers, which are removed from trailers as well.
    pub fn new(incoming: WireBody, trust: &Arc<Trust>) -> Self {
        if incoming.is_end_stream() {
            return Self::Empty;
        }
        Self::Stream(Arc::new(Mutex::new(UploadSource {
            incoming,
            trust: Arc::clone(trust),
            kept: Vec::new(),
            kept_bytes: 0,
            lost: false,
            recording: true,
            trailers: None,
            ended: false,
            failed: false,
            received: 0,
        })))
    }

    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// A body for one more attempt, counted as an upload until it is dropped.
    pub fn body(&self, upload: Option<Arc<OpenCount>>) -> UploadBody {
        UploadBody {
            upload: self.clone(),
            position: 0,
            trailers_sent: false,
            _upload: upload,
        }
    }

    /// True if another attempt can send the whole body.
    pub fn is_replayable(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => !lock(source).lost,
        }
    }

    /// Whether the client broke off its upload.
    pub fn has_failed(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Stream(source) => lock(source).failed,
        }
    }

    /// The answer has begun: no other attempt will be made, and nothing is kept from now on.
    pub fn stop_recording(&self) {
        if let Self::Stream(source) = self {
            let mut source = lock(source);
            source.recording = false;
            source.lost |= source.received > 0;
            source.kept = Vec::new();
            source.kept_bytes = 0;
        }
    }

    /// Bytes received from the client so far.
    pub fn received(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Stream(source) => lock(source).received,
        }
    }
}

impl UploadSource {
    fn keep(&mut self, chunk: &Bytes) {
        self.received += chunk.len() as u64;
        if !self.recording || self.lost || self.kept_bytes + chunk.len() > REPLAY_LIMIT {
            self.lost = true;
            self.kept = Vec::new();
            self.kept_bytes = 0;
            return;
        }
        self.kept_bytes += chunk.len();
        self.kept.push(chunk.clone());
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Upload::Stream(source) = &this.upload else {
            return Poll::Ready(None);
        };
        let mut source = lock(source);
        if let Some(chunk) = source.kept.get(this.position) {
            this.position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if source.ended {
            if let Some(trailers) = source.trailers.clone().filter(|_| !this.trailers_sent) {
                this.trailers_sent = true;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut source.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let frame = match frame.into_trailers() {
                    Ok(mut trailers) => {
                        strip_headers(&mut trailers, &source.trust);
                        strip_forbidden_trailers(&mut trailers);
                        source.trailers = Some(trailers.clone());
                        source.ended = true;
                        this.trailers_sent = true;
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                };
                if let Some(chunk) = frame.data_ref() {
                    source.keep(chunk);
                    this.position = source.kept.len();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                source.failed = true;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                source.ended = true;
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.upload {
            Upload::Empty => true,
            Upload::Stream(source) => {
                let source = lock(source);
                self.position >= source.kept.len()
                    && (source.incoming.is_end_stream()
                        || (source.ended && source.trailers.is_none()))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.upload {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Stream(source) => {
                let source = lock(source);
                let kept: u64 = source
                    .kept
                    .get(self.position..)
                    .unwrap_or_default()
                    .iter()
                    .map(|c| c.len() as u64)
                    .sum();
                match source.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(rest + kept),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

fn lock(source: &Mutex<UploadSource>) -> MutexGuard<'_, UploadSource> {
    // A panic while the lock was held leaves at worst a body that ends early; never a reason to take the agent down.
    source.lock().unwrap_or_else(PoisonError::into_inner)
}
