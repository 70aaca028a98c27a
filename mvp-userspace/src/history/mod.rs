//! What happened on this node: a bounded ring of events and a day's counts by the minute, kept in memory and, over a restart of the
//! agent, in one file. `mvp report`, the page and `mvp top` read the same of it.
//!
//!
//! file | has |
//! |---|---|
//!
//! `kinds` | the one table of what is noted |
//!
//! `ring` | events, the newest of each kind |
//!
//! `minutes` | counts by the minute, for a day |
//!
//! `tally` | what data threads count of forwarded requests |
//!
//! `record` | all of it together, shared by the agent's threads |
//!
//! `document` | its form in the file, which is read as if a stranger had written it |
//!
//! `file` | the file |
//!
//! `report` | what an upgrade would have been without the agent. Pure |

mod document;
mod file;
mod kinds;
mod minutes;
mod record;
mod report;
mod ring;
mod tally;

pub use document::{DocumentError, HistoryDocument};
pub use file::{Keep, Kept};
pub use kinds::Kind;
pub use minutes::{MOST_MINUTES, Minute, Prevented, Series};
pub use record::{Added, History, HistoryView, TrafficView, unix_millis};
pub use report::{Convergence, ErrorRow, PreventedRow, Report, RetiredView, clock};
pub use ring::{EACH, Event, Ring};
pub use tally::{Forwarded, Tally};

/// Reads what a stranger may have written. Panics if what is then kept is above its bounds, or is not read again as it was.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_history(data: &[u8]) {
    const NOW: u64 = 1_800_000_000_000;
    let Ok(document) = HistoryDocument::parse(data, NOW) else {
        return;
    };
    document.check_bounds();
    let written = document.encode().unwrap_or_default();
    let again = HistoryDocument::parse(&written, NOW);
    assert!(again.is_ok_and(|again| again == document));
}
