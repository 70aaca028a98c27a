//! The body of an answer on its way to the client, and everything that ends with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::Shared;
use super::access::AccessRecord;
use super::checkout::Lease;
use super::events::WatchFraming;
use super::wire_body::{BodyError, WireBody};
use super::with_head::{First, first};
use crate::identity::ClientKey;

/// What hyper sends to the client. Dropping it ends the server's stream at once (hyper resets it).
pub struct Download {
    /// Comes before the rest of `inner`.
    before: Option<First<WireBody>>,
    inner: Inner,
    /// Only answers that stream on without an end of their own (watches) care about draining.
    watch: Option<EndAtEvent>,
    record: Option<Box<AccessRecord>>,
    /// Counts the client's cancellation if the answer is dropped before its end.
    cancel: Option<CancelNote>,
    _lease: Option<Lease>,
}

/// The client and the counter of a cancellation, for an answer that is given up.
pub struct CancelNote {
    pub shared: Arc<Shared>,
    pub client: ClientKey,
}

enum Inner {
    Upstream(WireBody),
    Whole(Option<Bytes>),
}

/// A watch may end at any event, and every client resumes it; in the middle of an event it must break, not end.
struct EndAtEvent {
    events: WatchFraming,
    draining: Pin<Box<dyn Future<Output = ()> + Send>>,
    drained: bool,
}

impl Download {
    pub fn upstream(
        incoming: WireBody,
        lease: Lease,
        mut record: Option<Box<AccessRecord>>,
    ) -> Self {
        if incoming.is_end_stream() {
            complete(&mut record);
        }
        Self {
            before: None,
            inner: Inner::Upstream(incoming),
            watch: None,
            record,
            cancel: None,
            _lease: Some(lease),
        }
    }

    pub fn whole(bytes: Bytes, mut record: Option<Box<AccessRecord>>) -> Self {
        if bytes.is_empty() {
            complete(&mut record);
        }
        Self {
            before: None,
            inner: Inner::Whole(Some(bytes).filter(|b| !b.is_empty())),
            watch: None,
            record,
            cancel: None,
            _lease: None,
        }
    }

    /// Passes on `bytes` of the answer that were read already.
    pub fn after(mut self, bytes: Bytes) -> Self {
        self.before = Some(Some(Ok(Frame::data(bytes))));
        self
    }

    /// Waits for what a server's body begins with, but not for long, so that it leaves together with the head. Not for an answer that may
    /// have a head long before its body.
    pub async fn begin(&mut self) {
        if let Inner::Upstream(incoming) = &mut self.inner
            && self.before.is_none()
            && !incoming.is_end_stream()
        {
            self.before = first(incoming).await;
        }
    }

    /// Has the client's cancellation counted if it gives the answer up.
    pub fn noting(mut self, note: CancelNote) -> Self {
        self.cancel = Some(note);
        self
    }

    /// Ends the answer at the next event once `draining` resolves, and when its server dies between two events.
    pub fn watch(
        mut self,
        events: WatchFraming,
        draining: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.watch = Some(EndAtEvent {
            events,
            draining: Box::pin(draining),
            drained: false,
        });
        self
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let incoming = match &mut this.inner {
            Inner::Upstream(incoming) => incoming,
            Inner::Whole(bytes) => {
                let bytes = bytes.take();
                if let (Some(record), Some(bytes)) = (&mut this.record, &bytes) {
                    record.sent(bytes.len());
                    record.complete();
                }
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
        };
        if let Some(watch) = &mut this.watch
            && this.before.is_none()
        {
            if !watch.drained {
                watch.drained = watch.draining.as_mut().poll(cx).is_ready();
            }
            if watch.drained && watch.events.at_boundary() {
                this.cancel = None;
                complete(&mut this.record);
                return Poll::Ready(None);
            }
        }
        let next = match this.before.take() {
            Some(first) => first,
            None => ready!(Pin::new(&mut *incoming).poll_frame(cx)),
        };
        match next {
            Some(Ok(frame)) => {
                // hyper asks for no further frame then.
                if frame.is_trailers() || incoming.is_end_stream() {
                    this.cancel = None;
                    complete(&mut this.record);
                }
                if let Some(chunk) = frame.data_ref() {
                    if let Some(record) = &mut this.record {
                        record.sent(chunk.len());
                    }
                    if let Some(watch) = &mut this.watch {
                        watch.events.passed(chunk);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.cancel = None;
                if let Some(record) = &mut this.record {
                    record.broke();
                }
                if this.watch.as_ref().is_some_and(|w| w.events.at_boundary()) {
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.cancel = None;
                complete(&mut this.record);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            _ if self.before.is_some() => false,
            Inner::Upstream(incoming) => incoming.is_end_stream(),
            Inner::Whole(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            _ if self.before.is_some() => SizeHint::default(),
            Inner::Upstream(incoming) => incoming.size_hint(),
            Inner::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let ended = match &self.inner {
            Inner::Upstream(incoming) => self.before.is_none() && incoming.is_end_stream(),
            Inner::Whole(_) => true,
        };
        if let Some(note) = self.cancel.take()
            && !ended
        {
            note.shared.cancels.cancelled(note.client, Instant::now());
        }
    }
}

fn complete(record: &mut Option<Box<AccessRecord>>) {
    if let Some(record) = record {
        record.complete();
    }
}
