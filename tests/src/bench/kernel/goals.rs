//! What the figures should be.

use std::fmt::Write as _;

use crate::bench::report::Row;

struct Goal {
    scenario: &'static str,
    subject: &'static str,
    metric: &'static str,
    at_most: f64,
}

const GOALS: [Goal; 12] = [
    goal("idle_guard", "idle/none", "latency_p50_ratio", 1.01),
    goal("idle_guard", "idle/none", "connect_latency_p50_ratio", 1.01),
    goal("relay", "mvp/inspected", "added_p50_ratio", 0.4),
    goal("relay", "mvp/haproxy", "added_p50_ratio", 0.25),
    goal("relay", "mvp/best", "latency_p50_ratio", 1.1),
    goal("relay", "mvp/best", "time_16x4_ratio", 1.1),
    goal("relay", "mvp/best", "list_p50_ratio", 1.1),
    goal("relay", "mvp/best", "list_time_16x4_ratio", 1.1),
    goal("splice", "sockmap/copy", "cpu_per_gb_ratio", 0.5),
    goal("splice", "splice/copy", "cpu_per_gb_ratio", 0.5),
    goal("splice", "sockmap/copy", "rtt_p50_ratio", 0.8),
    goal("splice", "splice/copy", "rtt_p50_ratio", 0.8),
];

const fn goal(
    scenario: &'static str,
    subject: &'static str,
    metric: &'static str,
    at_most: f64,
) -> Goal {
    Goal {
        scenario,
        subject,
        metric,
        at_most,
    }
}

/// Goals that were measured, one line for each: the median decides.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<11} {:<14} {:<26} {:>7} {:>9}  {}\n",
        "scenario", "subject", "metric", "median", "goal", "reached"
    );
    for goal in &GOALS {
        let row = rows.iter().find(|row| {
            row.scenario == goal.scenario
                && row.subject == goal.subject
                && row.metric == goal.metric
        });
        let Some(row) = row else { continue };
        let reached = if row.median <= goal.at_most {
            "yes"
        } else {
            "no"
        };
        let _ = writeln!(
            text,
            "{:<11} {:<14} {:<26} {:>7.3} {:>9}  {reached}",
            goal.scenario,
            goal.subject,
            goal.metric,
            row.median,
            format!("<= {}", goal.at_most)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::Report;

    #[test]
    fn the_median_decides_and_what_was_not_measured_is_not_told() {
        let mut relay = Report::new("relay");
        [0.39, 0.4, 0.9]
            .into_iter()
            .for_each(|value| relay.add("mvp/inspected", "added_p50_ratio", "x", value));
        relay.add("mvp/haproxy", "added_p50_ratio", "x", 0.351);
        let text = table(&relay.rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].contains("mvp/inspected") && lines[1].ends_with("yes"),
            "{text}"
        );
        assert!(
            lines[2].contains("mvp/haproxy") && lines[2].ends_with("no"),
            "{text}"
        );
    }
}
