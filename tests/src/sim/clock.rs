//! Timestamps as Kubernetes writes them.

use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};

const SECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MICROS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// `metav1.Time` of now.
pub(super) fn now() -> String {
    format(OffsetDateTime::now_utc(), SECONDS)
}

/// `metav1.MicroTime` of now.
pub(super) fn now_micro() -> String {
    format(OffsetDateTime::now_utc(), MICROS)
}

/// Age of a timestamp as kubectl prints it (`duration.HumanDuration`, without its finer steps); `<unknown>` if it is none.
pub(super) fn age(timestamp: &str) -> String {
    let Ok(then) = time::PrimitiveDateTime::parse(timestamp, SECONDS) else {
        return "<unknown>".into();
    };
    let seconds = (OffsetDateTime::now_utc() - then.assume_utc())
        .whole_seconds()
        .max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn format(time: OffsetDateTime, items: &[BorrowedFormatItem<'_>]) -> String {
    time.format(items)
        .unwrap_or_else(|_| "1970-01-01T00:00:00Z".into())
}
