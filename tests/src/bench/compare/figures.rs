//! What was measured: rows over rounds with their ratios, and everything that a reader needs to judge them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::scenarios::{About, Better, Values};
use super::timeline::Timeline;
use crate::bench::report::{Report, Row};

/// The whole of one run.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    pub run: Run,
    pub subjects: Vec<Described>,
    /// Subjects and scenarios that could not be measured, and why.
    pub left_out: Vec<LeftOut>,
    pub scenarios: Vec<Measured>,
    /// The first round's.
    pub timelines: Vec<Timeline>,
}

/// The circumstances.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    /// In UTC.
    pub date: String,
    pub quick: bool,
    /// Not optimised: the figures say nothing.
    pub debug: bool,
    pub cores: usize,
    pub kernel: String,
    /// The load of the minute before the run.
    pub load_average: Option<f64>,
    pub rounds: u32,
    pub seconds: f64,
    pub rate: f64,
    pub watches: usize,
}

impl Run {
    /// How many rounds, in words.
    pub(super) fn rounds(&self) -> String {
        match self.rounds {
            1 => "one round".into(),
            rounds => format!("{rounds} rounds"),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Described {
    pub name: &'static str,
    pub title: &'static str,
    pub version: String,
    pub setup: String,
}

#[derive(Debug, Serialize)]
pub(super) struct LeftOut {
    pub what: String,
    pub why: String,
    /// It should have been measured; otherwise it is not installed, or cannot be used here.
    pub failed: bool,
}

/// One scenario.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub about: &'static About,
    /// Names and titles, in the order in which they are shown.
    pub subjects: Vec<(&'static str, &'static str)>,
    pub rows: Vec<Row>,
}

/// The rows of a scenario while its rounds go on.
pub(super) struct Figures {
    about: &'static About,
    report: Report,
}

/// Whom everybody is compared with, where they take part.
const REFERENCES: [&str; 4] = ["direct", "no_agent", "haproxy", "haproxy_round_robin"];

impl Figures {
    pub(super) fn new(about: &'static About) -> Self {
        Self {
            about,
            report: Report::new(about.name),
        }
    }

    /// Adds a round: each subject's values, and their ratios to the references' of the same round.
    pub(super) fn add(&mut self, round: &[(&'static str, Values)]) {
        for metric in self.about.metrics {
            let of = |values: &Values| {
                let found = values.iter().find(|(name, _)| *name == metric.name);
                found.map(|(_, value)| *value)
            };
            let values: Vec<(&str, f64)> = round
                .iter()
                .filter_map(|(subject, values)| Some((*subject, of(values)?)))
                .collect();
            for (subject, value) in &values {
                self.report.add(subject, metric.name, metric.unit, *value);
                if metric.better == Better::Neither {
                    continue;
                }
                for (other, than) in &values {
                    if REFERENCES.contains(other) && other != subject && *than > 0.0 {
                        let pair = format!("{subject}/{other}");
                        let name = format!("{}_ratio", metric.name);
                        self.report.add(&pair, &name, "x", value / than);
                    }
                }
            }
        }
    }

    pub(super) fn finish(self, subjects: Vec<(&'static str, &'static str)>) -> Measured {
        Measured {
            about: self.about,
            subjects,
            rows: self.report.rows(),
        }
    }
}

impl Measured {
    pub(super) fn row(&self, subject: &str, metric: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.subject == subject && row.metric == metric)
    }

    /// Subjects that the others are compared with.
    pub(super) fn references(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let all = self.subjects.iter().copied();
        all.filter(|(name, _)| REFERENCES.contains(name))
    }

    /// The ratio of a subject to one of [`Self::references`].
    pub(super) fn ratio(&self, subject: &str, metric: &str, reference: &str) -> Option<&Row> {
        let pair = format!("{subject}/{reference}");
        self.row(&pair, &format!("{metric}_ratio"))
    }

    /// A table for terminals.
    pub(super) fn table(&self) -> String {
        let mut text = format!("== {}\n", self.about.title);
        for metric in self.about.metrics {
            let any = self
                .subjects
                .iter()
                .any(|(name, _)| self.row(name, metric.name).is_some());
            if !any {
                continue;
            }
            let _ = writeln!(text, "\n{}{}", metric.title, in_unit(metric.unit));
            for (name, title) in &self.subjects {
                let Some(row) = self.row(name, metric.name) else {
                    continue;
                };
                let spread = format!("({} to {})", number(row.min), number(row.max));
                let _ = write!(
                    text,
                    "  {title:<40} {:>10} {spread:<24}",
                    number(row.median)
                );
                for (reference, _) in self.references() {
                    if let Some(ratio) = self.ratio(name, metric.name, reference) {
                        let _ = write!(text, "  {} x {reference}", number(ratio.median));
                    }
                }
                text = text.trim_end().to_owned() + "\n";
            }
        }
        text
    }
}

fn in_unit(unit: &str) -> String {
    match unit {
        "" => String::new(),
        unit => format!(", {unit}"),
    }
}

/// As many decimals as tell values apart.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        whole if whole.fract() == 0.0 => 0,
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

impl Document {
    pub(super) fn write_json(&self, file: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("file {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::scenarios::Scenario;

    fn measured() -> Measured {
        let mut figures = Figures::new(Scenario::Get.about());
        for (direct, mvp, haproxy) in [
            (100.0, 150.0, 200.0),
            (100.0, 170.0, 200.0),
            (200.0, 320.0, 400.0),
        ] {
            figures.add(&[
                ("direct", vec![("p50_us", direct), ("rate", 1.0)]),
                ("mvp", vec![("p50_us", mvp), ("cpu_us", 10.0)]),
                ("haproxy", vec![("p50_us", haproxy)]),
            ]);
        }
        figures.finish(vec![
            ("direct", "direct, no proxy"),
            ("mvp", "mvp"),
            ("haproxy", "HAProxy"),
        ])
    }

    #[test]
    fn ratios_are_of_one_round() {
        let measured = measured();
        assert_eq!(measured.row("mvp", "p50_us").unwrap().median, 170.0);
        assert_eq!(
            measured.ratio("mvp", "p50_us", "direct").unwrap().median,
            1.6
        );
        assert_eq!(
            measured.ratio("mvp", "p50_us", "haproxy").unwrap().median,
            0.8
        );
        assert!(measured.ratio("direct", "p50_us", "direct").is_none());
        assert!(measured.ratio("mvp", "cpu_us", "direct").is_none());
        // Nobody wins by it.
        assert!(measured.row("direct/haproxy", "rate_ratio").is_none());
    }

    #[test]
    fn the_table_has_the_spread_and_both_ratios() {
        let table = measured().table();
        let line = table
            .lines()
            .find(|line| line.trim().starts_with("mvp "))
            .unwrap();
        assert!(line.contains("170 (150 to 320)"), "{line}");
        assert!(line.ends_with("1.60 x direct  0.80 x haproxy"), "{line}");
    }
}
