//! From the figures of a round to rows.

use super::cases::Case;
use super::{Subject, name};
use crate::bench::report::Report;
use crate::bench::target::{Measured, Suffixes};

/// The subjects of rows that compare.
const RATIOS: [(&str, Subject, Subject); 3] = [
    ("mvp/haproxy", Subject::Mvp, Subject::Haproxy),
    ("other/haproxy", Subject::Other, Subject::Haproxy),
    ("other/mvp", Subject::Other, Subject::Mvp),
];

/// Turns one round into values. Rows are made in the order of the subjects' names whatever the round's order was.
pub(super) fn record(cases: &[Case], results: &[(Subject, Vec<Measured>)], report: &mut Report) {
    let of = |wanted: Subject| {
        results
            .iter()
            .find(|(subject, _)| *subject == wanted)
            .map(|(_, measured)| measured)
    };
    for (index, case) in cases.iter().enumerate() {
        let (load, ending) = (case.load, case.ending);
        let Suffixes { latency, work } = load.suffixes;
        let direct = of(Subject::Direct).map(|measured| &measured[index].outcome.latency);
        let mut added = Vec::new();
        let mut cpu = Vec::new();
        let mut rates = Vec::new();
        for subject in [
            Subject::Direct,
            Subject::Mvp,
            Subject::Other,
            Subject::Haproxy,
        ] {
            let Some(Measured {
                outcome, cpu: used, ..
            }) = of(subject).map(|measured| &measured[index])
            else {
                continue;
            };
            let mut add =
                |metric: String, unit, value| report.add(name(subject), &metric, unit, value);
            if case.is_closed_loop() {
                let rate = outcome.requests_per_second();
                rates.push((subject, rate));
                add(format!("throughput_rps{work}{ending}"), "req/s", rate);
            }
            for (label, quantile) in [("p50", 0.5), ("p99", 0.99)] {
                add(
                    format!("{label}_us{latency}{ending}"),
                    "us",
                    outcome.latency.micros(quantile),
                );
                if let (Some(direct), false) = (direct, subject == Subject::Direct) {
                    let more = outcome.latency.micros(quantile) - direct.micros(quantile);
                    add(format!("added_{label}_us{latency}{ending}"), "us", more);
                    if label == "p50" {
                        added.push((subject, more));
                    }
                }
            }
            if let Some(used) = used {
                let micros = used.as_secs_f64() * 1e6 / outcome.answers.total() as f64;
                add(format!("cpu_us_per_request{work}{ending}"), "us", micros);
                cpu.push((subject, micros));
            }
        }
        for (pair, one, other) in RATIOS {
            let both = |values: &[(Subject, f64)]| {
                let value = |wanted| values.iter().find(|(subject, _)| *subject == wanted);
                Some((value(one)?.1, value(other)?.1))
            };
            // Under saturation less may be waited for behind a proxy than before the upstream: no ratio of such differences.
            if let (1, Some((one, other))) = (load.connections, both(&added))
                && other > 0.0
            {
                report.add(
                    pair,
                    &format!("added_p50_ratio{latency}{ending}"),
                    "x",
                    one / other,
                );
            }
            if let Some((one, other)) = both(&cpu) {
                report.add(pair, &format!("cpu_ratio{work}{ending}"), "x", one / other);
            }
            if let Some((one, other)) = both(&rates) {
                let metric = format!("throughput_ratio{work}{ending}");
                report.add(pair, &metric, "x", one / other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::forward::cases;
    use crate::bench::upstream::Answering;
    use crate::load::{Answers, Latency, Outcome};

    fn names(answering: Answering) -> Vec<String> {
        let cases = cases::of(answering);
        let measured = |micros: u64| {
            let mut latency = Latency::new();
            latency.record(Duration::from_micros(micros));
            let outcome = Outcome {
                answers: Answers {
                    ok: 1,
                    ..Answers::default()
                },
                latency,
                elapsed: Duration::from_secs(1),
                bytes: 0,
            };
            Measured {
                outcome,
                cpu: Some(Duration::from_micros(micros)),
                machine_cpu: 0.0,
            }
        };
        let of = |micros| cases.iter().map(|_| measured(micros)).collect();
        let results = [
            (Subject::Direct, of(100)),
            (Subject::Mvp, of(150)),
            (Subject::Haproxy, of(200)),
        ];
        let mut report = Report::new("forward");
        record(cases, &results, &mut report);
        let names = report.rows().into_iter();
        let names = names.filter(|row| row.subject != "direct" && row.subject != "haproxy");
        names.map(|row| row.metric).collect()
    }

    /// Who keeps the rows of other runs compares them by name.
    #[test]
    fn rows_of_lean_answers_keep_their_names() {
        let mut names = names(Answering::Lean);
        names.sort();
        let expected = [
            "added_p50_ratio",
            "added_p50_us",
            "added_p50_us_16x4",
            "added_p99_us",
            "added_p99_us_16x4",
            "cpu_ratio",
            "cpu_ratio_1x1",
            "cpu_us_per_request",
            "cpu_us_per_request_1x1",
            "p50_us",
            "p50_us_16x4",
            "p99_us",
            "p99_us_16x4",
            "throughput_ratio",
            "throughput_ratio_1x1",
            "throughput_rps",
            "throughput_rps_1x1",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn rows_of_real_answers_have_names_of_their_own() {
        let (lean, real) = (names(Answering::Lean), names(Answering::Real));
        assert!(real.iter().all(|name| name.ends_with("_real")));
        for kept in lean {
            assert!(real.contains(&format!("{kept}_real")), "{kept}");
        }
        for more in ["p50_us_list_5m", "added_p50_us_list_100k", "p50_us_event"] {
            assert!(real.contains(&format!("{more}_real")), "{more}");
        }
        assert!(!real.iter().any(|name| name.contains("rps_event")));
    }
}
