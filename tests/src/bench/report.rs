//! Figures over rounds: a table for people, rows for machines.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One metric of one subject over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The benchmark's verb.
    pub scenario: &'static str,
    /// What was measured.
    pub subject: String,
    /// The figure's name; rows of one metric can be compared.
    pub metric: String,
    /// `us`, `1/s`, `MB/s` and the like.
    pub unit: &'static str,
    /// The median over the rounds.
    pub median: f64,
    /// The least value of all rounds.
    pub min: f64,
    /// The greatest value of all rounds.
    pub max: f64,
    /// How many values there were.
    pub rounds: usize,
}

/// The rows of one scenario, in the order in which their metrics first got a value.
#[derive(Debug)]
pub struct Report {
    scenario: &'static str,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    subject: String,
    metric: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Report {
    /// No rows yet.
    pub fn new(scenario: &'static str) -> Self {
        Self {
            scenario,
            series: Vec::new(),
        }
    }

    /// Adds one round's value.
    pub fn add(&mut self, subject: &str, metric: &str, unit: &'static str, value: f64) {
        match self
            .series
            .iter_mut()
            .find(|s| s.subject == subject && s.metric == metric)
        {
            Some(series) => series.values.push(value),
            None => self.series.push(Series {
                subject: subject.into(),
                metric: metric.into(),
                unit,
                values: vec![value],
            }),
        }
    }

    /// One for each subject and metric.
    pub fn rows(&self) -> Vec<Row> {
        self.series
            .iter()
            .map(|series| series.row(self.scenario))
            .collect()
    }

    /// Sorted by metric, so that the subjects of one metric stand below each other.
    pub fn table(&self) -> String {
        let mut rows = self.rows();
        rows.sort_by(|a, b| a.metric.cmp(&b.metric));
        let width = rows.iter().map(|row| row.metric.len()).fold(32, usize::max);
        let mut text = format!(
            "{:<width$} {:<17} {:>12} {:>12} {:>12}  {:<6} {}\n",
            "metric", "subject", "median", "min", "max", "unit", "rounds"
        );
        for row in rows {
            let _ = writeln!(
                text,
                "{:<width$} {:<17} {:>12} {:>12} {:>12}  {:<6} {}",
                row.metric,
                row.subject,
                number(row.median),
                number(row.min),
                number(row.max),
                row.unit,
                row.rounds
            );
        }
        text
    }

    /// Writes the rows as one JSON array.
    pub fn write_json(&self, file: &Path) -> Result<()> {
        write_json(file, &self.rows())
    }
}

/// Writes rows, of several scenarios maybe, as one JSON array.
pub fn write_json(file: &Path, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(rows)? + "\n";
    std::fs::write(file, text).with_context(|| format!("file {}", file.display()))
}

impl Series {
    fn row(&self, scenario: &'static str) -> Row {
        let ends = |end: fn(f64, f64) -> f64| self.values.iter().copied().reduce(end);
        Row {
            scenario,
            subject: self.subject.clone(),
            metric: self.metric.clone(),
            unit: self.unit,
            median: round(median(self.values.clone())),
            min: round(ends(f64::min).unwrap_or_default()),
            max: round(ends(f64::max).unwrap_or_default()),
            rounds: self.values.len(),
        }
    }
}

/// For an even number of values the mean of the middle two; 0 for none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    (values[last / 2] + values[last.div_ceil(2)]) / 2.0
}

/// A thousandth is finer than anything measured here.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn number(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 1000.0 => 0,
        middle if middle >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_the_middle_and_the_ends() {
        let mut report = Report::new("forward");
        [3.0, 1.0, 2.0]
            .into_iter()
            .for_each(|value| report.add("mvp", "added_p50_us", "us", value));
        [4.0, 1.0]
            .into_iter()
            .for_each(|value| report.add("haproxy", "added_p50_us", "us", value));
        let rows = report.rows();
        assert_eq!(
            (rows[0].median, rows[0].min, rows[0].max, rows[0].rounds),
            (2.0, 1.0, 3.0, 3)
        );
        assert_eq!(rows[1].median, 2.5);
        assert_eq!(
            serde_json::to_value(&rows[0]).unwrap(),
            serde_json::json!({"scenario": "forward", "subject": "mvp", "metric": "added_p50_us", "unit": "us",
                "median": 2.0, "min": 1.0, "max": 3.0, "rounds": 3})
        );
        assert!(
            report
                .table()
                .lines()
                .any(|line| line.starts_with("added_p50_us") && line.contains("haproxy"))
        );
    }
}
