//! Bytes of a pair so far, and the two ways in which its owner ends it.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch::Receiver;

use super::Signal;

/// Bytes moved in userspace, by direction.
#[derive(Debug, Default)]
pub(super) struct Traffic([AtomicU64; 2]);

impl Traffic {
    pub(super) fn add(&self, direction: usize, bytes: usize) {
        let [first, second] = &self.0;
        let moved = if direction & 1 == 0 { first } else { second };
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> [u64; 2] {
        self.0.each_ref().map(|moved| moved.load(Ordering::Relaxed))
    }

    pub(super) fn total(&self) -> u64 {
        self.get().into_iter().fold(0, u64::wrapping_add)
    }
}

/// Resolves when the pair is to be closed. `total` is asked only while the pair is to retire.
pub(super) async fn ended(
    signal: &mut Receiver<Signal>,
    silence: Duration,
    total: impl Fn() -> u64,
) {
    loop {
        let now = *signal.borrow_and_update();
        match now {
            Signal::Stop => return,
            Signal::Run => {
                if signal.changed().await.is_err() {
                    // Its owner is gone without having asked for anything: pairs go on.
                    pending::<()>().await;
                }
            }
            Signal::Retire => {
                let before = total();
                // A closed channel cannot ask for more than this any more.
                let changed = async {
                    if signal.changed().await.is_err() {
                        pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep(silence) => if total() == before { return },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::watch;

    use super::*;

    /// Looked at in pairs, before and after a silence: three times something has moved, the fourth time nothing has.
    #[test]
    fn a_pair_retires_after_a_silence_and_not_before() {
        let (_owner, mut signal) = watch::channel(Signal::Retire);
        let looks = Cell::new(0);
        let total = || {
            looks.set(looks.get() + 1);
            looks.get().min(7)
        };
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
            .block_on(ended(&mut signal, Duration::from_millis(1), total));
        assert_eq!(looks.get(), 8);
    }
}
