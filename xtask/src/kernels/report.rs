//! What came of a kernel's run, and whether it is what is expected of it.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::cases::{CASES, Case};

/// One kernel's.
pub(super) struct Report {
    pub series: String,
    pub version: String,
    pub took: Duration,
    /// Names of the cases that were to run.
    pub asked: Vec<&'static str>,
    pub cases: BTreeMap<&'static str, Outcome>,
    /// Why the guest did not come to its end.
    pub broken: Option<String>,
}

/// One case's.
#[derive(Default)]
pub(super) struct Outcome {
    pub took: Duration,
    /// What does not work on this kernel, and was seen to be left out by the agent with this reason.
    pub falls_back: Vec<String>,
    /// What differs from kernel to kernel and is right either way.
    pub notes: Vec<String>,
    /// What went wrong, and the end of what the test printed.
    pub failures: Vec<String>,
}

impl Outcome {
    /// What a guest made of it, whatever was expected.
    pub(super) fn word(&self) -> &'static str {
        match (self.failures.is_empty(), self.falls_back.is_empty()) {
            (false, _) => "fails",
            (true, false) => "falls back",
            (true, true) => "passes",
        }
    }
}

/// What a case came to, with what it should have come to in mind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Passes,
    FallsBack,
    Fails,
    /// It works although it is said to fall back: what is said must be brought up to date.
    Surprises,
    Missing,
}

impl Report {
    pub(super) fn new(series: &str, version: &str, cases: &[&'static Case]) -> Self {
        Self {
            series: series.to_owned(),
            version: version.to_owned(),
            took: Duration::ZERO,
            asked: cases.iter().map(|case| case.name).collect(),
            cases: BTreeMap::new(),
            broken: None,
        }
    }

    pub(super) fn failed(&self) -> bool {
        let as_expected =
            |name: &&str| matches!(self.verdict(name), Verdict::Passes | Verdict::FallsBack);
        self.broken.is_some() || !self.asked.iter().all(as_expected)
    }

    /// Lines for what is not simply a pass.
    pub(super) fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut say = |case: &str, what: &str| {
            lines.push(format!("Linux {}: {case}: {what}", self.version));
        };
        for case in CASES {
            let Some(outcome) = self.cases.get(case.name) else {
                continue;
            };
            for why in &outcome.falls_back {
                say(case.name, &format!("falls back: {why}"));
            }
            for note in &outcome.notes {
                say(case.name, note);
            }
            for failure in &outcome.failures {
                say(case.name, &format!("FAILED: {failure}"));
            }
            match self.verdict(case.name) {
                Verdict::Fails if outcome.failures.is_empty() => {
                    say(case.name, "FAILED: falls back, and must not on this kernel");
                }
                Verdict::Surprises => say(
                    case.name,
                    "FAILED: works, and is said to fall back on this kernel: correct the table",
                ),
                _ => {}
            }
        }
        if let Some(why) = &self.broken {
            say("the guest", &format!("FAILED: {why}"));
        }
        lines
    }

    pub(super) fn verdict(&self, name: &str) -> Verdict {
        let Some(outcome) = self.cases.get(name) else {
            return Verdict::Missing;
        };
        let series = self.series.as_str();
        let case = CASES.iter().find(|case| case.name == name);
        let expected = case.is_some_and(|case| case.falls_back_on.contains(&series));
        let either = case.is_some_and(|case| case.either_on.contains(&series));
        match (outcome.failures.is_empty(), outcome.falls_back.is_empty()) {
            (false, _) => Verdict::Fails,
            (true, true) if expected => Verdict::Surprises,
            (true, true) => Verdict::Passes,
            (true, false) if expected || either => Verdict::FallsBack,
            (true, false) => Verdict::Fails,
        }
    }
}

/// The head of a table with a column for each kernel.
pub(super) fn head(reports: &[Report]) -> String {
    let mut out = String::from("| case |");
    for report in reports {
        let _ = write!(out, " {} |", report.version);
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(reports.len()));
    out.push('\n');
    out
}

/// Kernel by case, with the seconds that each case took.
pub(super) fn table(reports: &[Report]) -> String {
    let mut out = head(reports);
    let asked = |case: &&Case| {
        reports
            .iter()
            .any(|report| report.asked.contains(&case.name))
    };
    for case in CASES.iter().filter(asked) {
        let _ = write!(out, "| {} |", case.name);
        for report in reports {
            let took = report
                .cases
                .get(case.name)
                .map_or(0.0, |o| o.took.as_secs_f64());
            let _ = match report.verdict(case.name) {
                Verdict::Passes => write!(out, " passes ({took:.1} s) |"),
                Verdict::FallsBack => write!(out, " falls back ({took:.1} s) |"),
                Verdict::Fails => write!(out, " FAILS ({took:.1} s) |"),
                Verdict::Surprises => write!(out, " PASSES ({took:.1} s) |"),
                Verdict::Missing => write!(out, " NOT RUN |"),
            };
        }
        out.push('\n');
    }
    let _ = write!(out, "| all, with the boot |");
    for report in reports {
        let _ = write!(out, " {:.0} s |", report.took.as_secs_f64());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cases::Choice;

    fn report(series: &str, falls_back: bool) -> Report {
        let mut report = Report::new(series, "5.10.1", &Choice::default().cases());
        for case in CASES {
            let mut outcome = Outcome::default();
            if falls_back && case.falls_back_on.contains(&"5.10") {
                outcome.falls_back.push("why".to_owned());
            }
            report.cases.insert(case.name, outcome);
        }
        report
    }

    #[test]
    fn falling_back_is_right_where_it_is_said_and_nowhere_else() {
        assert!(!report("5.10", true).failed());
        assert!(report("5.10", false).failed(), "works unexpectedly");
        assert!(!report("newest", false).failed());
        assert!(report("newest", true).failed(), "falls back unexpectedly");
        assert!(table(&[report("5.10", true)]).contains("falls back"));
    }

    #[test]
    fn a_case_that_did_not_run_or_failed_fails_the_kernel() {
        let mut missing = report("newest", false);
        missing.cases.remove("doctor");
        assert!(missing.failed());
        let mut failed = report("newest", false);
        if let Some(outcome) = failed.cases.get_mut("doctor") {
            outcome.failures.push("panicked".to_owned());
        }
        assert!(failed.failed());
        assert!(
            failed
                .details()
                .iter()
                .any(|line| line.contains("panicked"))
        );
    }
}
