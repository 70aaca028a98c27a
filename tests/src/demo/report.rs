//! The result: a table for people, JSON for machines.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::operation::Kind;
use super::phase::Outcome;
use super::plane::NAMES;

#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub without: Option<Outcome>,
    pub with: Option<Outcome>,
}

impl Report {
    /// One column for each half.
    pub(super) fn table(&self) -> String {
        let halves: Vec<(&str, &Outcome)> =
            [("without", &self.without), ("with agents", &self.with)]
                .into_iter()
                .filter_map(|(name, outcome)| Some((name, outcome.as_ref()?)))
                .collect();
        let mut text = String::new();
        let mut row = |name: &str, cell: &dyn Fn(&Outcome) -> String| {
            let cells: Vec<String> = halves
                .iter()
                .map(|(_, outcome)| format!("{:>14}", cell(outcome)))
                .collect();
            let _ = writeln!(text, "{name:<34}{}", cells.concat());
        };
        row("requests", &|half| half.seen.requests().to_string());
        row("false 404s", &|half| half.seen.false_404().to_string());
        row("errors", &|half| half.errors().to_string());
        for kind in Kind::ALL {
            row(&format!("  {}: failed of all", kind.name()), &|half| {
                let answers = half.seen.answers.get(&kind).copied().unwrap_or_default();
                format!("{} of {}", answers.not_ok(), answers.total())
            });
        }
        row("discovery answers 304", &|half| {
            half.seen.not_modified.to_string()
        });
        row("watches resumed", &|half| {
            half.seen.watches_resumed.to_string()
        });
        row("watch events, missed of all", &|half| {
            format!("{} of {}", half.missed_events, half.seen.watch_events)
        });
        row("client latency p50", &|half| {
            format!("{:.0} us", half.seen.latency.micros(0.5))
        });
        row("client latency p99", &|half| {
            format!("{:.0} us", half.seen.latency.micros(0.99))
        });
        let measured = |half: &Outcome, cell: &dyn Fn(&super::agents::Measured) -> String| {
            half.agents.as_ref().map_or("-".into(), cell)
        };
        row("forwarded to another server", &|half| {
            measured(half, &|agents| agents.forwarded.to_string())
        });
        row("added by the agent p50", &|half| {
            measured(half, &|agents| format!("{:.0} us", agents.added_p50_us))
        });
        row("added by the agent p99", &|half| {
            measured(half, &|agents| format!("{:.0} us", agents.added_p99_us))
        });

        let names: Vec<String> = halves
            .iter()
            .map(|(name, _)| format!("{name:>14}"))
            .collect();
        let kernel = self
            .with
            .as_ref()
            .and_then(|with| with.agents.as_ref())
            .map(|agents| agents.kernel.as_str());
        let kernel = kernel
            .map(|line| format!("kernel: {line}\n"))
            .unwrap_or_default();
        format!("{:<34}{}\n{text}{kernel}", "", names.concat())
    }

    /// `None` unless both halves ran.
    pub(super) fn json(&self) -> Option<Value> {
        let (without, with) = (self.without.as_ref()?, self.with.as_ref()?);
        let agents = with.agents.as_ref()?;
        Some(json!({
            "servers": NAMES.len(),
            "upgraded": NAMES.len(),
            "without": {
                "requests": without.seen.requests(),
                "false_404": without.seen.false_404(),
                "errors": without.errors(),
            },
            "with": {
                "requests": with.seen.requests(),
                "forwarded": agents.forwarded,
                "false_404": with.seen.false_404(),
                "errors": with.errors(),
                "added_us": {"p50": agents.added_p50_us.round(), "p99": agents.added_p99_us.round()},
            },
            "kernel": agents.kernel,
        }))
    }

    pub(super) fn write_json(&self, file: &Path) -> Result<()> {
        let json = self
            .json()
            .context("--json needs both halves of the demo")?;
        let text = serde_json::to_string_pretty(&json)? + "\n";
        std::fs::write(file, text).with_context(|| format!("file {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::agents::Measured;
    use crate::demo::tally::Tally;
    use crate::load::Answer;

    #[test]
    fn json_has_the_promised_shape() {
        let tally = Tally::default();
        tally.count(Kind::Get, Answer::Ok);
        tally.count(Kind::New, Answer::NoSuchType);
        tally.count(Kind::Watch, Answer::Transport);
        let without = Outcome {
            seen: tally.seen(),
            missed_events: 1,
            agents: None,
        };
        let agents = Measured {
            forwarded: 9,
            added_p50_us: 80.4,
            added_p99_us: 300.0,
            kernel: "none".into(),
        };
        let with = Outcome {
            missed_events: 0,
            agents: Some(agents),
            ..without.clone()
        };
        assert!(with.check().is_err());
        let report = Report {
            without: Some(without),
            with: Some(with),
        };
        assert_eq!(
            report.json().unwrap(),
            json!({"servers": 3, "upgraded": 3,
                "without": {"requests": 3, "false_404": 1, "errors": 2},
                "with": {"requests": 3, "forwarded": 9, "false_404": 1, "errors": 1, "added_us": {"p50": 80.0, "p99": 300.0}},
                "kernel": "none"})
        );
        assert!(
            report
                .table()
                .lines()
                .any(|line| line.starts_with("false 404s") && line.ends_with('1'))
        );
    }
}
