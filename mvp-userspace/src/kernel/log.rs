//! The log of the BPF programs: aya-log records, read from a ring buffer, become `tracing` events.

use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

use super::Error;

/// Target of the events.
pub const TARGET: &str = "mvp::kernel::bpf";

/// Turns what the BPF programs log into `tracing` events with target [`TARGET`]. Dropping it loses later records (the
/// programs go on: a full ring buffer drops records and never blocks).
pub struct LogForwarder(EbpfLogger<Tracing>);

impl LogForwarder {
    /// Must be called before the first program is loaded: it takes the ring buffer's map out of `bpf`.
    pub(super) fn new(bpf: &mut Ebpf) -> Result<Self, Error> {
        EbpfLogger::init_with_logger(bpf, Tracing)
            .map(Self)
            .map_err(|e| Error::Object(format!("its log: {e}")))
    }

    /// The ring buffer's map.
    #[expect(
        unsafe_code,
        reason = "the logger gives its descriptor as a number only"
    )]
    pub(super) fn ring(&self) -> BorrowedFd<'_> {
        // SAFETY: the logger owns the descriptor and keeps it open as long as it lives.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }

    /// Emits what is in the ring buffer now.
    pub fn flush(&mut self) {
        self.0.flush();
    }

    /// Emits records as they come, until dropped.
    ///
    /// # Errors
    /// When the ring buffer's descriptor cannot be watched.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    #[expect(
        unsafe_code,
        reason = "AsyncFd cannot see that the logger keeps its descriptor open"
    )]
    pub async fn run(self) -> Result<(), Error> {
        let io = |e| Error::io("watching the log ring buffer", &e);
        // SAFETY: the logger owns the ring buffer's map descriptor, never replaces it, and closes it when dropped.
        let ring = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut ring = ring.map_err(|e| io(e.into()))?;
        loop {
            let mut ready = ring.readable_mut().await.map_err(io)?;
            // Cleared before reading: a record that comes in between makes the descriptor readable again.
            ready.clear_ready();
            ready.get_inner_mut().flush();
        }
    }
}

/// aya-log writes to a `log::Log`. This one goes to the `tracing` subscriber of the calling thread, whether or not the
/// process has the bridge from `log` to `tracing` installed.
struct Tracing;

impl log::Log for Tracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let (program, text) = (record.target(), record.args());
        match record.level() {
            log::Level::Error => tracing::error!(target: TARGET, program, "{text}"),
            log::Level::Warn => tracing::warn!(target: TARGET, program, "{text}"),
            log::Level::Info => tracing::info!(target: TARGET, program, "{text}"),
            log::Level::Debug => tracing::debug!(target: TARGET, program, "{text}"),
            log::Level::Trace => tracing::trace!(target: TARGET, program, "{text}"),
        }
    }

    fn flush(&self) {}
}
