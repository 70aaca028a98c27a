//! The report as a page to keep: no script, no other file, and whatever others named is text.

use std::fmt::Write as _;

use super::text::time;
use super::{Convergence, ErrorRow, PreventedRow, Report, event_cells};

const STYLE: &str = include_str!("../../admin/page/style.css");

impl Report {
    /// A page that needs nothing else.
    pub fn html(&self) -> String {
        let node = escape(&self.node);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>mvp report of {node}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
             <h1>What the agent of {node} did</h1>\n<p>{} until {}, mvp {}.</p>\n",
            time(self.from_ms.max(self.begins_ms)),
            time(self.to_ms),
            escape(&self.version)
        );
        let figures = self.figures();
        let rows = figures
            .iter()
            .map(|(figure, meaning)| [figure.as_str(), meaning.as_str()]);
        table(&mut out, "Figures", &["Figure", "Meaning"], rows);
        out += "<h2>What is not known</h2>\n<ul>\n";
        for line in &self.unknown {
            let _ = writeln!(out, "<li>{}</li>", escape(line));
        }
        out += "</ul>\n";
        let prevented = self.prevented_by.iter().map(PreventedRow::cells);
        let head = ["Count", "Instead of", "Type", "Client"];
        table(&mut out, "False 404s prevented", &head, prevented);
        let head = ["Count", "Reason", "Meaning"];
        for (title, rows) in [("Errors", &self.errors), ("Refused", &self.refused)] {
            table(&mut out, title, &head, rows.iter().map(ErrorRow::cells));
        }
        let convergences = self.convergences.iter().map(Convergence::cells);
        let head = ["First sign", "Took", "Signs", "Connections of before"];
        table(&mut out, "Convergence", &head, convergences);
        let head = ["Time", "Event", "Of", "Detail"];
        table(
            &mut out,
            "Events",
            &head,
            self.events.iter().map(event_cells),
        );
        out + "</main>\n</body>\n</html>\n"
    }
}

/// Nothing if there are no rows.
fn table<S: AsRef<str>, const N: usize>(
    out: &mut String,
    title: &str,
    head: &[&str; N],
    rows: impl Iterator<Item = [S; N]>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = write!(
        out,
        "<h2>{title}</h2>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{title}\">\n<table>\n<tr>"
    );
    for cell in head {
        let _ = write!(out, "<th scope=\"col\">{cell}</th>");
    }
    *out += "</tr>\n";
    for row in rows {
        *out += "<tr>";
        for cell in &row {
            let _ = write!(out, "<td>{}</td>", escape(cell.as_ref()));
        }
        *out += "</tr>\n";
    }
    *out += "</table>\n</div>\n";
}

/// As text, wherever in the page it stands.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Event, Kind, PreventedRow};

    #[test]
    fn what_others_named_is_text() {
        let evil = "</td><script>alert(1)</script>\" onload='x' &amp;".to_owned();
        let report = Report {
            node: evil.clone(),
            version: evil.clone(),
            unknown: vec![evil.clone()],
            prevented_by: vec![PreventedRow {
                resource: evil.clone(),
                client: evil.clone(),
                ..PreventedRow::default()
            }],
            events: vec![Event {
                at_ms: 0,
                kind: Kind::ServerSeen,
                subject: evil.clone(),
                detail: evil.clone(),
                value: evil,
            }],
            ..Report::default()
        };
        let page = report.html();
        assert!(!page.contains("<script") && !page.contains("onload='"));
        assert_eq!(
            page.matches("&lt;script&gt;alert(1)&lt;/script&gt;")
                .count(),
            8
        );
        assert!(page.contains("&amp;amp;"));
    }

    #[test]
    fn it_needs_nothing_else() {
        let page = Report::default().html();
        for elsewhere in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(elsewhere), "{elsewhere}");
        }
        assert!(!page.contains("Errors</h2>"), "no table without rows");
    }
}
