//! Looks now and then whether the allocator keeps much more than the agent uses, and has it given back. A burst of requests is over in
//! seconds; what it took would else stay resident for good, and count against the container's limit.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::kernel::{Resident, give_back};

/// The time between two looks, which cost some microseconds.
const LOOK: Duration = Duration::from_secs(10);
/// Kept without a word: giving back and taking again costs a page fault for each 4 KiB.
const KEPT: u64 = 16 << 20;

/// Looks until dropped.
pub(super) async fn run() {
    let Some(begin) = Resident::now() else {
        tracing::warn!("/proc/self/status cannot be read: free memory stays with the agent");
        return;
    };
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Code is not in use in this sense, and is always there.
    let mut usual = begin.unused();
    loop {
        tick.tick().await;
        let Some(now) = Resident::now() else { continue };
        usual = usual.min(now.unused());
        if !is_much(usual, now) {
            continue;
        }
        // On a thread of its own: no heartbeat waits for it.
        let given = tokio::task::spawn_blocking(give_back).await;
        let after = Resident::now().unwrap_or(now);
        // What cannot be given back is not tried for again until there is less of it.
        usual = usual.max(after.unused());
        tracing::debug!(
            before = now.resident,
            after = after.resident,
            given = given.unwrap_or(false),
            "free memory given back"
        );
    }
}

fn is_much(usual: u64, now: Resident) -> bool {
    now.unused() > usual.saturating_add(KEPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_free_and_more_than_usual_is_given_back() {
        let mib = |resident: u64, in_use: u64| Resident {
            resident: resident << 20,
            in_use: in_use << 20,
        };
        let usual = 20 << 20;
        assert!(!is_much(usual, mib(30, 10)));
        assert!(!is_much(usual, mib(500, 480)));
        assert!(!is_much(usual, mib(46, 10)));
        assert!(is_much(usual, mib(47, 10)));
        assert!(
            !is_much(usual, mib(10, 20)),
            "pages that were never touched"
        );
    }
}
