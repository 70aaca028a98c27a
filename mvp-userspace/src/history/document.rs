//! The record in the form of the file: JSON. Whatever is in the file passes through the same bounds as what is recorded.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Event, Kind, Minute, Ring, Series};

/// Bytes that are read: a full record has less.
pub(super) const MOST_BYTES: usize = 8 << 20;
/// How far an event may be in the future, because the clock was set back.
const AHEAD_MS: u64 = 60 * 60 * 1000;
const FORMAT: u32 = 1;

/// What is kept over a restart of the agent.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HistoryDocument {
    /// Whoever wrote it writes no more.
    pub closed: bool,
    /// Since when the record has what happened, in milliseconds since 1970.
    pub begins_ms: u64,
    /// When it was written, in milliseconds since 1970.
    pub saved_ms: u64,
    /// The events.
    pub ring: Ring,
    /// The counts of each minute.
    pub series: Series,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It was not read: nothing that the agent writes is as large.
    #[error("it is larger than {MOST_BYTES} bytes")]
    Large,
    /// The parser's message.
    #[error("it is no record: {0}")]
    Form(#[from] serde_json::Error),
    /// Its number is not the one that this agent reads.
    #[error("another version of the agent wrote it in format {0}")]
    Format(u32),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Read {
    format: u32,
    #[serde(default)]
    closed: bool,
    #[serde(default)]
    begins_ms: u64,
    #[serde(default)]
    saved_ms: u64,
    /// One that another version of the agent wrote is left out, and the others are read.
    #[serde(default)]
    events: Vec<Value>,
    #[serde(default)]
    minutes: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    format: u32,
    closed: bool,
    begins_ms: u64,
    saved_ms: u64,
    events: Vec<&'a Event>,
    minutes: Vec<&'a Minute>,
}

impl HistoryDocument {
    /// Reads a file at this time.
    ///
    /// # Errors
    /// It is no record that this agent understands.
    pub fn parse(data: &[u8], now_ms: u64) -> Result<Self, DocumentError> {
        if data.len() > MOST_BYTES {
            return Err(DocumentError::Large);
        }
        let read: Read = serde_json::from_slice(data)?;
        if read.format != FORMAT {
            return Err(DocumentError::Format(read.format));
        }
        let mut ring = Ring::default();
        for value in read.events {
            let Some(event) = event(value) else { continue };
            if event.at_ms <= now_ms.saturating_add(AHEAD_MS) {
                ring.push(event);
            }
        }
        let mut series = Series::default();
        for value in read.minutes {
            if let Ok(minute) = serde_json::from_value::<Minute>(value) {
                series.add(minute, now_ms / 60_000);
            }
        }
        Ok(Self {
            closed: read.closed,
            begins_ms: read.begins_ms.min(now_ms),
            saved_ms: read.saved_ms.min(now_ms),
            ring,
            series,
        })
    }

    /// # Errors
    /// Only if memory is short.
    pub fn encode(&self) -> Result<Vec<u8>, DocumentError> {
        let written = Written {
            format: FORMAT,
            closed: self.closed,
            begins_ms: self.begins_ms,
            saved_ms: self.saved_ms,
            events: self.ring.iter().collect(),
            minutes: self.series.iter().collect(),
        };
        Ok(serde_json::to_vec(&written)?)
    }

    /// For tests and fuzzing: whatever was read, the record is within its bounds.
    ///
    /// # Panics
    /// If it is not.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn check_bounds(&self) {
        use super::minutes::{ALL_ROWS, DECISIONS, MOST_MINUTES, ROWS};
        assert!(self.ring.len() <= super::EACH * Kind::ALL.len());
        let minutes = self.series.iter().count();
        assert!(minutes as u64 <= MOST_MINUTES + 1);
        let rows: usize = self.series.iter().map(|m| m.prevented.len()).sum();
        assert!(rows <= ALL_ROWS.max(4 * minutes), "{rows} rows");
        for minute in self.series.iter() {
            assert!(minute.prevented.len() <= ROWS + 4);
            for counts in [
                &minute.requests,
                &minute.failed,
                &minute.refused,
                &minute.retired,
            ] {
                assert!(counts.len() <= DECISIONS + 1);
            }
        }
    }
}

/// `None`: it has no kind that is known here, or not its form.
fn event(value: Value) -> Option<Event> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = Kind::parse(text("kind"))?;
    let at_ms = value.get("atMs").and_then(Value::as_u64)?;
    Some(Event::new(
        at_ms,
        kind,
        text("subject"),
        text("detail"),
        text("value"),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::history::fuzz_history;

    const NOW: u64 = 1_800_000_000_000;

    #[test]
    fn it_is_read_as_it_was_written() {
        let mut document = HistoryDocument {
            closed: true,
            begins_ms: NOW - 5,
            saved_ms: NOW,
            ..HistoryDocument::default()
        };
        let event = Event::new(NOW - 3, Kind::ServerVersion, "cp-a", "v1 -> v2", "v2");
        document.ring.push(event);
        let minute = Minute {
            minute: NOW / 60_000,
            forwarded: 4,
            ..Minute::default()
        };
        document.series.add(minute, NOW / 60_000);
        let written = document.encode().unwrap();
        assert_eq!(HistoryDocument::parse(&written, NOW).unwrap(), document);
    }

    #[test]
    fn what_another_version_wrote_is_left_out_and_the_rest_is_read() {
        let text = json!({
            "format": 1, "later": true,
            "events": [
                {"atMs": 1, "kind": "of_another_version"},
                {"atMs": "x", "kind": "guard_idle"},
                {"kind": "guard_idle"},
                7,
                {"atMs": 2, "kind": "guard_idle", "more": []},
                {"atMs": NOW + 2 * AHEAD_MS, "kind": "guard_idle"},
            ],
            "minutes": [{"minute": NOW / 60_000, "forwarded": -1}, {"minute": NOW / 60_000, "forwarded": 2, "more": 1}, null],
        });
        let document = HistoryDocument::parse(text.to_string().as_bytes(), NOW).unwrap();
        assert_eq!(document.ring.len(), 1);
        let forwarded: Vec<_> = document.series.iter().map(|m| m.forwarded).collect();
        assert_eq!(forwarded, [2]);
        assert!(matches!(
            HistoryDocument::parse(br#"{"format":2}"#, NOW),
            Err(DocumentError::Format(2))
        ));
        for broken in ["", "null", "{}", "[]", "{\"format\":1", "\u{feff}{}"] {
            assert!(
                HistoryDocument::parse(broken.as_bytes(), NOW).is_err(),
                "{broken}"
            );
        }
        let large = vec![b' '; MOST_BYTES + 1];
        assert!(matches!(
            HistoryDocument::parse(&large, NOW),
            Err(DocumentError::Large)
        ));
    }

    /// The seeds of the fuzz target are read by every test run.
    #[test]
    fn seeds() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fuzz/seeds/history");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            fuzz_history(&std::fs::read(file.unwrap().path()).unwrap());
            read += 1;
        }
        assert!(read > 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_file_is_refused_or_bounded(data in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_history(&data);
        }

        #[test]
        fn any_record_is_bounded(
            events in proptest::collection::vec((any::<u64>(), "guard_armed|server_seen|x", "\\PC{0,30}"), 0..200),
            minutes in proptest::collection::vec((0u64..2000, "\\PC{0,9}", any::<u64>()), 0..50),
        ) {
            let events: Vec<_> = events.iter()
                .map(|(at, kind, text)| json!({"atMs": at, "kind": kind, "subject": text, "detail": text}))
                .collect();
            let minutes: Vec<_> = minutes.iter()
                .map(|(ago, name, count)| json!({
                    "minute": NOW / 60_000 - ago, "requests": {name: count}, "relayed": count,
                    "prevented": [{"reason": name, "resource": name, "client": name, "count": count}]}))
                .collect();
            let text = json!({"format": 1, "events": events, "minutes": minutes});
            fuzz_history(text.to_string().as_bytes());
        }
    }
}
