//! From what the rounds showed to rows.

use super::{SUBJECTS, Subject};
use crate::bench::report::{Report, median};
use crate::bench::target::Measured;

/// What one subject showed under each load of one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Small GETs, one at a time.
    pub message: Seen,
    /// Small GETs on 16 connections with 4 streams each.
    pub messages: Seen,
    /// Lists, one at a time.
    pub list: Seen,
    /// Lists on 16 connections with 4 streams each.
    pub lists: Seen,
}

/// What one load showed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Median latency, us.
    pub p50: f64,
    /// Answers per second.
    pub rate: f64,
    /// CPU of the whole machine for each answer, us.
    pub cpu: f64,
}

/// What every subject showed in one round.
pub(super) struct Round(pub Vec<(Subject, Figures)>);

impl From<&Measured> for Seen {
    fn from(measured: &Measured) -> Self {
        Self {
            p50: measured.outcome.latency.micros(0.5),
            rate: measured.outcome.requests_per_second(),
            cpu: measured.machine_cpu_micros(),
        }
    }
}

impl Round {
    fn of(&self, wanted: Subject) -> Option<&Figures> {
        let found = self.0.iter().find(|(subject, _)| *subject == wanted);
        found.map(|(_, figures)| figures)
    }
}

/// Rows in the order of [`SUBJECTS`], whatever the rounds' orders were.
pub(super) fn report(rounds: &[Round]) -> Report {
    let mut report = Report::new("relay");
    for round in rounds {
        let Some(direct) = round.of(Subject::Direct) else {
            continue;
        };
        for subject in SUBJECTS {
            if let Some(figures) = round.of(subject) {
                absolute(&mut report, subject, figures, direct);
            }
        }
        for other in [Subject::Inspected, Subject::Haproxy, Subject::HaproxyTcp] {
            if let (Some(mvp), Some(other_figures)) = (round.of(Subject::Mvp), round.of(other)) {
                let pair = format!("mvp/{}", other.name());
                compared(&mut report, &pair, mvp, other_figures, direct);
            }
        }
    }
    for cost in &COSTS {
        against_the_best(&mut report, rounds, cost);
    }
    report
}

/// What each load is judged by: time, of which less is better.
struct Cost {
    metric: &'static str,
    of: fn(&Figures) -> f64,
}

const COSTS: [Cost; 4] = [
    Cost {
        metric: "latency_p50_ratio",
        of: |f| f.message.p50,
    },
    Cost {
        metric: "time_16x4_ratio",
        of: |f| 1e6 / f.messages.rate,
    },
    Cost {
        metric: "list_p50_ratio",
        of: |f| f.list.p50,
    },
    Cost {
        metric: "list_time_16x4_ratio",
        of: |f| 1e6 / f.lists.rate,
    },
];

fn absolute(report: &mut Report, subject: Subject, f: &Figures, direct: &Figures) {
    let mut add = |metric, unit, value| report.add(subject.name(), metric, unit, value);
    add("latency_p50_us", "us", f.message.p50);
    add("latency_p50_us_16x4", "us", f.messages.p50);
    add("throughput_rps_1x1", "req/s", f.message.rate);
    add("throughput_rps", "req/s", f.messages.rate);
    add("machine_cpu_us_per_request_1x1", "us", f.message.cpu);
    add("machine_cpu_us_per_request", "us", f.messages.cpu);
    add("list_p50_ms", "ms", f.list.p50 / 1e3);
    add("list_rps_16x4", "req/s", f.lists.rate);
    add("list_machine_cpu_ms_1x1", "ms", f.list.cpu / 1e3);
    add("list_machine_cpu_ms", "ms", f.lists.cpu / 1e3);
    if subject != Subject::Direct {
        add("added_p50_us", "us", f.message.p50 - direct.message.p50);
        add(
            "added_p50_us_16x4",
            "us",
            f.messages.p50 - direct.messages.p50,
        );
    }
}

fn compared(report: &mut Report, pair: &str, mvp: &Figures, other: &Figures, direct: &Figures) {
    let mut add = |metric, value| report.add(pair, metric, "x", value);
    let added = |f: &Figures| f.message.p50 - direct.message.p50;
    if added(other) > 0.0 {
        add("added_p50_ratio", added(mvp) / added(other));
    }
    add("cpu_1x1_ratio", mvp.message.cpu / other.message.cpu);
    add("cpu_ratio", mvp.messages.cpu / other.messages.cpu);
    // Under saturation less may be waited for behind a proxy than before the server: no ratio of such differences.
    add(
        "latency_p50_16x4_ratio",
        mvp.messages.p50 / other.messages.p50,
    );
    for cost in &COSTS[1..] {
        add(cost.metric, (cost.of)(mvp) / (cost.of)(other));
    }
}

/// The best mode is the one with the least median over all rounds: the least of each round would be luck in part. Ratios are of values of
/// the same round.
fn against_the_best(report: &mut Report, rounds: &[Round], cost: &Cost) {
    let typical = |subject| {
        let figures = rounds.iter().filter_map(|round| round.of(subject));
        let values: Vec<f64> = figures.map(cost.of).collect();
        (!values.is_empty()).then(|| median(values))
    };
    let fixed = SUBJECTS
        .into_iter()
        .filter(|subject| matches!(subject, Subject::Fixed(_)));
    let best = fixed
        .filter_map(|subject| Some((typical(subject)?, subject)))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, best)) = best else { return };
    for subject in SUBJECTS {
        if subject.splice().is_none() {
            continue;
        }
        for round in rounds {
            if let (Some(f), Some(best)) = (round.of(subject), round.of(best)) {
                let pair = format!("{}/best", subject.name());
                report.add(&pair, cost.metric, "x", (cost.of)(f) / (cost.of)(best));
            }
        }
    }
}
