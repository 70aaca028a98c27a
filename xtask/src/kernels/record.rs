//! The table in docs/kernel.md, written by a run that was asked to, and held to the cases by a test.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    cases::CASES,
    report::{Report, Verdict, head},
};
use crate::run::root;

const BEGIN: &str = "<!-- written by cargo xtask test --kernels --record -->\n";
const END: &str = "<!-- end of what is written -->\n";

/// Puts the table of these reports in the place of the one that is there.
///
/// # Errors
/// If the page cannot be read or written, or has no place for it.
pub(super) fn write(reports: &[Report]) -> Result<()> {
    let page = page();
    let text = fs::read_to_string(&page).with_context(|| format!("{}", page.display()))?;
    let (before, _, after) = around(&text).context("docs/kernel.md has no place for the table")?;
    fs::write(
        &page,
        format!("{before}{BEGIN}{}{END}{after}", table(reports)),
    )?;
    Ok(())
}

/// Without times, which differ from run to run.
fn table(reports: &[Report]) -> String {
    let mut out = head(reports);
    for case in CASES {
        let _ = write!(out, "| {} |", case.name);
        for report in reports {
            let _ = match report.verdict(case.name) {
                Verdict::Passes => write!(out, " passes |"),
                Verdict::FallsBack => write!(out, " falls back |"),
                Verdict::Fails | Verdict::Surprises => write!(out, " **fails** |"),
                Verdict::Missing => write!(out, " not run |"),
            };
        }
        out.push('\n');
    }
    out
}

fn page() -> PathBuf {
    root().join("docs/kernel.md")
}

/// What is before the table, the table, and what is after it.
fn around(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (table, after) = rest.split_once(END)?;
    Some((before, table, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever adds a case, or changes what is expected of one, runs the kernels and records what they did.
    #[test]
    fn the_page_has_every_case_and_nothing_that_is_not_expected() {
        let text = fs::read_to_string(page()).unwrap();
        let (_, table, _) = around(&text).unwrap();
        let rows: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let versions = &rows[0][1..];
        let series = |version: &str| {
            let known = ["5.10", "6.1", "6.12"];
            let found = known
                .into_iter()
                .find(|series| version.starts_with(&format!("{series}.")));
            found.unwrap_or("newest")
        };
        let names: Vec<_> = rows[2..].iter().map(|row| row[0]).collect();
        assert_eq!(
            names,
            CASES.iter().map(|case| case.name).collect::<Vec<_>>()
        );
        for (case, row) in CASES.iter().zip(&rows[2..]) {
            for (version, said) in versions.iter().zip(&row[1..]) {
                let on = series(version);
                let expected = match (
                    case.falls_back_on.contains(&on),
                    case.either_on.contains(&on),
                ) {
                    (true, _) => &["falls back"][..],
                    (false, true) => &["passes", "falls back"],
                    (false, false) => &["passes"],
                };
                assert!(
                    expected.contains(said),
                    "{} on {version}: {said}",
                    case.name
                );
            }
        }
    }
}
