//! The report for a terminal.

use std::fmt::Write as _;

use super::{Convergence, ErrorRow, PreventedRow, Report, event_cells, seconds};
use crate::text::table::{clean, table};

/// Events that the text shows; `-o json` has all.
const EVENTS: usize = 40;

impl Report {
    /// Every figure with what it means.
    pub fn text(&self) -> String {
        let mut out = format!(
            "{}: {} until {}\n\n",
            clean(&self.node),
            time(self.from_ms.max(self.begins_ms)),
            time(self.to_ms)
        );
        for (figure, meaning) in self.figures() {
            let _ = writeln!(out, "{figure:>9}  {meaning}");
        }
        self.tables(&mut out);
        out += "\nWhat is not known\n";
        for line in &self.unknown {
            let _ = writeln!(out, "  {}", clean(line));
        }
        self.tell_events(&mut out);
        out
    }

    /// The figures in their order, each with a sentence that says what it is and what it is not.
    pub fn figures(&self) -> Vec<(String, String)> {
        let retired = &self.retirement;
        let count = |rows: &[ErrorRow]| rows.iter().map(|row| row.count).sum::<u64>();
        let slowest = self.slowest_ms.map_or_else(|| "-".to_owned(), seconds);
        vec![
            (
                self.requests.to_string(),
                "requests came to this agent.".to_owned(),
            ),
            (
                self.forwarded.to_string(),
                "of them were answered by another server than this node's.".to_owned(),
            ),
            (
                self.prevented.to_string(),
                "of those would have been a false 404 (or 405 for a verb): this node's server does not serve the type, and the \
                 one that was asked answered for it. Answers that are themselves 401, 403, 404, 405, 429 or an error are not counted."
                    .to_owned(),
            ),
            (
                self.served_while_down.to_string(),
                "of those were answered while this node's server was down. What a client would have done instead, such as trying \
                 again, is not known."
                    .to_owned(),
            ),
            (
                self.retries.to_string(),
                "second attempts were made after a first one had failed; most clients saw nothing of that.".to_owned(),
            ),
            (
                self.relayed_connections.to_string(),
                "connections were forwarded whole to a server that serves everything. Their requests are not seen.".to_owned(),
            ),
            (
                (retired.destroyed + retired.late).to_string(),
                format!(
                    "connections that clients had made with kube-apiserver itself were ended, so that they come to the agent; {} of \
                     them where a request may have been cut. {} more went by themselves.",
                    retired.late, retired.gone
                ),
            ),
            (
                slowest,
                "is the slowest convergence: from the first sign of an upgrade until the last of those connections was gone."
                    .to_owned(),
            ),
            (
                seconds(self.armed_ms),
                "is for how long a sign of an upgrade held, and new connections were inspected.".to_owned(),
            ),
            (
                count(&self.errors).to_string(),
                "requests could not be answered by any server, and got 500 or above from the agent.".to_owned(),
            ),
            (
                self.server_errors.to_string(),
                "requests got 500 or above from a server; the agent passed that on, as it was.".to_owned(),
            ),
            (
                count(&self.refused).to_string(),
                "requests were refused by the agent itself, with 400 to 499.".to_owned(),
            ),
        ]
    }

    fn tables(&self, out: &mut String) {
        if !self.prevented_by.is_empty() {
            let rows: Vec<_> = self.prevented_by.iter().map(PreventedRow::cells).collect();
            *out += "\nFalse 404s prevented, by type and by what the client calls itself\n";
            *out += &indented(&table(["COUNT", "INSTEAD OF", "TYPE", "CLIENT"], &rows));
            if self.prevented_left_out > 0 {
                let _ = writeln!(out, "  and {} rows more", self.prevented_left_out);
            }
        }
        for (title, rows) in [
            ("Errors, by reason", &self.errors),
            ("Refused, by reason", &self.refused),
        ] {
            if rows.is_empty() {
                continue;
            }
            let rows: Vec<_> = rows.iter().map(ErrorRow::cells).collect();
            let _ = write!(
                out,
                "\n{title}\n{}",
                indented(&table(["COUNT", "REASON", "MEANING"], &rows))
            );
        }
        if !self.convergences.is_empty() {
            let rows: Vec<_> = self.convergences.iter().map(Convergence::cells).collect();
            let head = ["FIRST SIGN", "TOOK", "SIGNS", "CONNECTIONS OF BEFORE"];
            let _ = write!(out, "\nConvergence\n{}", indented(&table(head, &rows)));
        }
    }

    fn tell_events(&self, out: &mut String) {
        if self.events.is_empty() {
            return;
        }
        let left_out = self.events.len().saturating_sub(EVENTS);
        let rows: Vec<_> = self.events.iter().skip(left_out).map(event_cells).collect();
        *out += "\nEvents\n";
        if left_out > 0 {
            let _ = writeln!(out, "  {left_out} earlier ones are left out");
        }
        let head = ["TIME", "EVENT", "OF", "DETAIL"];
        *out += &indented(&table(head, &rows));
    }
}

/// `2026-11-29 10:44:07Z`.
pub(super) fn time(ms: u64) -> String {
    let seconds = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp(seconds) else {
        return "-".to_owned();
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// `10:44:07`, UTC as everywhere here.
pub fn clock(ms: u64) -> String {
    let time = time(ms);
    let clock = time.split_once(' ').map(|(_, clock)| clock);
    clock.unwrap_or("-").trim_end_matches('Z').to_owned()
}

fn indented(table: &str) -> String {
    table.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{ErrorRow, Event, Kind, PreventedRow};

    #[test]
    fn times_are_readable() {
        assert_eq!(time(0), "1970-01-01 00:00:00Z");
        assert_eq!(time(1_796_000_000_123), "2026-11-30 00:53:20Z");
        assert_eq!(time(u64::MAX), "-");
        assert_eq!(clock(1_796_000_000_123), "00:53:20");
        assert_eq!(clock(u64::MAX), "-");
    }

    #[test]
    fn an_empty_report_still_says_what_its_figures_are() {
        let text = Report::default().text();
        assert!(
            text.contains("        0  requests came to this agent."),
            "{text}"
        );
        assert!(text.contains("What is not known"));
        assert!(!text.contains("INSTEAD OF") && !text.contains("Events\n"));
    }

    #[test]
    fn what_others_named_cannot_steer_the_terminal() {
        let evil = "a\u{1b}[2Jb".to_owned();
        let report = Report {
            node: evil.clone(),
            prevented_by: vec![PreventedRow {
                resource: evil.clone(),
                client: evil.clone(),
                instead_of: 404,
                count: 7,
            }],
            errors: vec![ErrorRow {
                decision: "server_failed".into(),
                meaning: "m".into(),
                count: 1,
            }],
            events: vec![Event {
                at_ms: 1,
                kind: Kind::ServerSeen,
                subject: evil.clone(),
                detail: evil,
                value: String::new(),
            }],
            ..Report::default()
        };
        let text = report.text();
        assert!(!text.contains('\u{1b}'));
        assert!(
            text.contains("  7      404         a?[2Jb  a?[2Jb\n"),
            "{text}"
        );
        assert!(text.contains("server_seen"));
    }
}
