//! What can go wrong with a server, on command.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;

/// Faults of one server. A restart clears them, as it would clear those of a process.
#[derive(Debug, Default)]
pub struct Faults {
    hanging: AtomicBool,
    sleepers: Mutex<Vec<Waker>>,
    slow_micros: AtomicU64,
    resets: AtomicUsize,
    refusals: AtomicUsize,
    rejections: AtomicUsize,
    cuts: AtomicUsize,
    cut_after: AtomicUsize,
    scope: Mutex<String>,
    not_ready: AtomicBool,
    starting: AtomicBool,
    warming_up: AtomicBool,
    refuses_front_proxy: AtomicBool,
    lacks_reviews: AtomicBool,
    discovery: Mutex<Option<Bytes>>,
}

/// What happens to one request instead of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// RST_STREAM with INTERNAL_ERROR; on HTTP/1.1 the connection breaks.
    Reset,
    /// RST_STREAM with REFUSED_STREAM: the request was not looked at.
    Refused,
    /// The stream is reset as malformed: PROTOCOL_ERROR.
    Rejected,
    /// The answer breaks off after so many bytes of its body.
    Cut(usize),
}

impl Faults {
    pub fn hang(&self, on: bool) {
        self.hanging.store(on, Ordering::SeqCst);
        if !on {
            let sleepers =
                std::mem::take(&mut *self.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
            sleepers.into_iter().for_each(Waker::wake);
        }
    }

    pub fn slow(&self, delay: Duration) {
        self.slow_micros
            .store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn reset_next(&self, requests: usize) {
        self.resets.store(requests, Ordering::SeqCst);
    }

    pub fn refuse_streams(&self, requests: usize) {
        self.refusals.store(requests, Ordering::SeqCst);
    }

    pub fn reject_next(&self, requests: usize) {
        self.rejections.store(requests, Ordering::SeqCst);
    }

    /// Breaks off the bodies of the next `requests` answers after `bytes`.
    pub fn cut_next(&self, requests: usize, bytes: usize) {
        self.cut_after.store(bytes, Ordering::SeqCst);
        self.cuts.store(requests, Ordering::SeqCst);
    }

    /// Only requests whose path begins with `prefix` are slow, reset, refused or cut.
    pub fn only_on(&self, prefix: &str) {
        *self.scope.lock().unwrap_or_else(PoisonError::into_inner) = prefix.to_owned();
    }

    pub fn not_ready(&self, on: bool) {
        self.not_ready.store(on, Ordering::SeqCst);
    }

    pub fn starting(&self, on: bool) {
        self.starting.store(on, Ordering::SeqCst);
    }

    pub fn warm_up(&self, on: bool) {
        self.warming_up.store(on, Ordering::SeqCst);
    }

    pub fn is_warming_up(&self) -> bool {
        self.warming_up.load(Ordering::SeqCst)
    }

    pub fn refuse_front_proxy(&self, on: bool) {
        self.refuses_front_proxy.store(on, Ordering::SeqCst);
    }

    pub fn refuses_front_proxy(&self) -> bool {
        self.refuses_front_proxy.load(Ordering::SeqCst)
    }

    pub fn lack_reviews(&self, on: bool) {
        self.lacks_reviews.store(on, Ordering::SeqCst);
    }

    pub fn lacks_reviews(&self) -> bool {
        self.lacks_reviews.load(Ordering::SeqCst)
    }

    pub fn discovery(&self, document: Option<Bytes>) {
        *self
            .discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = document;
    }

    pub fn false_discovery(&self) -> Option<Bytes> {
        self.discovery
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn clear(&self) {
        self.discovery(None);
        self.slow(Duration::ZERO);
        self.reset_next(0);
        self.refuse_streams(0);
        self.reject_next(0);
        self.cut_next(0, 0);
        self.only_on("");
        self.not_ready(false);
        self.starting(false);
        self.warm_up(false);
        self.refuse_front_proxy(false);
        self.lack_reviews(false);
        self.hang(false);
    }

    pub fn is_not_ready(&self) -> bool {
        self.not_ready.load(Ordering::SeqCst)
    }

    pub fn is_starting(&self) -> bool {
        self.starting.load(Ordering::SeqCst)
    }

    /// True if requests to `path` are meant at all.
    pub(super) fn concern(&self, path: &str) -> bool {
        let scope = self.scope.lock().unwrap_or_else(PoisonError::into_inner);
        path.starts_with(scope.as_str())
    }

    pub(super) fn delay(&self) -> Duration {
        Duration::from_micros(self.slow_micros.load(Ordering::Relaxed))
    }

    /// The fault of the next request, if any is due.
    pub(super) fn take(&self) -> Option<Fault> {
        let due = |counter: &AtomicUsize| {
            counter
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
        };
        if due(&self.resets) {
            return Some(Fault::Reset);
        }
        if due(&self.refusals) {
            return Some(Fault::Refused);
        }
        if due(&self.rejections) {
            return Some(Fault::Rejected);
        }
        due(&self.cuts).then(|| Fault::Cut(self.cut_after.load(Ordering::SeqCst)))
    }

    /// Pending while the server hangs.
    pub(super) fn poll_running(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.hanging.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        self.sleepers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(cx.waker().clone());
        // It may have been woken between the look and the registration.
        if self.hanging.load(Ordering::SeqCst) {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }
}
