//! Every scenario of `mvp-bench kernel` runs, with next to nothing to do, and gives the rows that it promises. The figures
//! themselves say nothing here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use mvp_tests::bench::process::find;
use mvp_tests::netns::privileged;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Row {
    scenario: String,
    subject: String,
    metric: String,
    unit: String,
    median: f64,
    min: f64,
    max: f64,
    rounds: u32,
}

fn bench(scenario: &str, agent: &str, json: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mvp-bench"))
        .args(["kernel", "--scenario", scenario, "--rounds", "2"])
        .args(["--seconds", "0.2", "--gigabytes", "0.1"])
        .args(["--round-trips", "50", "--connections", "20"])
        .args(["--mvp-binary", agent, "--json"])
        .arg(json)
        .output()
        .unwrap()
}

/// Runs the scenario and compares its rows with what is `expected` of them.
fn check(scenario: &str, expected: impl FnOnce(&[Row]) -> Vec<(String, &'static str)>) {
    if !privileged(scenario, true) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("rows.json");
    let output = bench(scenario, env!("CARGO_BIN_EXE_mvp-agent"), &json);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let rows: Vec<Row> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for row in &rows {
        assert_eq!(row.scenario, scenario);
        assert!(row.min <= row.median && row.median <= row.max, "{row:?}");
        assert_eq!(row.metric.ends_with("_ratio"), row.unit == "x", "{row:?}");
        assert!((1..=2).contains(&row.rounds), "{row:?}");
    }
    let seen: BTreeSet<(String, &str)> = rows
        .iter()
        .map(|row| (row.subject.clone(), row.metric.as_str()))
        .collect();
    assert_eq!(seen.len(), rows.len(), "a row twice");
    let expected: BTreeSet<(String, &str)> = expected(&rows).into_iter().collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    let surplus: Vec<_> = seen.difference(&expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing {missing:?}, surplus {surplus:?}\n{text}"
    );
    // Those that have a goal are told with it.
    let goals = text.split("== goals").nth(1).unwrap();
    assert_eq!(
        goals.contains(scenario),
        ["idle_guard", "relay", "splice"].contains(&scenario),
        "{text}"
    );
}

fn each(
    subjects: &[&str],
    metrics: &[&'static str],
) -> impl Iterator<Item = (String, &'static str)> {
    let pairs = |subject: &&str| {
        let subject = subject.to_string();
        metrics.iter().map(move |metric| (subject.clone(), *metric))
    };
    subjects
        .iter()
        .flat_map(pairs)
        .collect::<Vec<_>>()
        .into_iter()
}

/// Whether a ratio can be made must not depend on luck: it is there where there is something to divide by in any round.
fn row<'a>(rows: &'a [Row], subject: &str, metric: &str) -> Option<&'a Row> {
    rows.iter()
        .find(|row| row.subject == subject && row.metric == metric)
}

#[test]
fn idle_guard() {
    check("idle_guard", |_| {
        let absolute = ["latency_p50_us", "connect_latency_p50_us"];
        let ratios = ["latency_p50_ratio", "connect_latency_p50_ratio"];
        each(&["none", "again", "idle", "local"], &absolute)
            .chain(each(&["again/none", "idle/none", "local/none"], &ratios))
            .chain(each(&["idle"], &["agent_cpu_ms_per_s"]))
            .collect()
    });
}

#[test]
fn relay() {
    check("relay", |rows| {
        let absolute = [
            "latency_p50_us",
            "latency_p50_us_16x4",
            "machine_cpu_us_per_request",
            "machine_cpu_us_per_request_1x1",
            "throughput_rps",
            "throughput_rps_1x1",
            "list_p50_ms",
            "list_rps_16x4",
            "list_machine_cpu_ms",
            "list_machine_cpu_ms_1x1",
        ];
        let relayed = ["mvp", "sockmap", "splice", "copy"];
        let mut others = vec!["inspected"];
        if find("haproxy").is_some() {
            others.extend(["haproxy", "haproxy_tcp"]);
        }
        let proxies = [&others[..], &relayed].concat();
        let mut expected: Vec<_> = each(&["direct"], &absolute)
            .chain(each(&proxies, &absolute))
            .chain(each(&proxies, &["added_p50_us", "added_p50_us_16x4"]))
            .collect();
        let times = ["time_16x4_ratio", "list_p50_ratio", "list_time_16x4_ratio"];
        for other in others {
            let pair = format!("mvp/{other}");
            let ratios = ["cpu_ratio", "cpu_1x1_ratio", "latency_p50_16x4_ratio"];
            expected.extend(each(&[&pair], &ratios).chain(each(&[&pair], &times)));
            if row(rows, other, "added_p50_us").is_some_and(|added| added.max > 0.0) {
                expected.push((pair, "added_p50_ratio"));
            }
        }
        for subject in relayed {
            let pair = format!("{subject}/best");
            expected.extend(each(&[&pair], &["latency_p50_ratio"]));
            expected.extend(each(&[&pair], &times));
        }
        expected
    });
}

#[test]
fn splice() {
    check("splice", |rows| {
        let absolute = ["cpu_per_gb", "gb_per_s", "rtt_p50_us"];
        let mut expected: Vec<_> =
            each(&["direct", "sockmap", "splice", "copy"], &absolute).collect();
        for pair in ["sockmap/copy", "splice/copy"] {
            expected.extend(each(&[pair], &["cpu_per_gb_ratio", "rtt_p50_ratio"]));
            // With so little CPU time there may be no difference to divide by.
            if row(rows, pair, "added_cpu_per_gb_ratio").is_some() {
                expected.push((pair.into(), "added_cpu_per_gb_ratio"));
            }
        }
        expected
    });
}

#[test]
fn shortcut() {
    check("shortcut", |_| {
        let absolute = [
            "rtt_p50_us",
            "gb_per_s",
            "cpu_per_gb",
            "latency_p50_us",
            "latency_p50_us_16x4",
            "machine_cpu_us_per_request",
            "machine_cpu_us_per_request_1x1",
        ];
        let ratios = [
            "rtt_p50_ratio",
            "gb_per_s_ratio",
            "cpu_per_gb_ratio",
            "latency_p50_ratio",
            "latency_p50_16x4_ratio",
            "cpu_ratio",
            "cpu_1x1_ratio",
        ];
        each(&["on", "off"], &absolute)
            .chain(each(&["on/off"], &ratios))
            .collect()
    });
}

#[test]
fn steer_cost() {
    check("steer_cost", |_| {
        let subjects = ["idle", "armed_other_port", "armed_pass", "steered"];
        each(&subjects, &["run_ns", "runs_per_connection"]).collect()
    });
}

#[test]
fn what_cannot_be_measured_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("rows.json");
    let output = bench("relay", "/nonexistent/mvp", &json);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("not measured: relay"),
        "{errors}"
    );
    assert_eq!(std::fs::read_to_string(json).unwrap(), "[]\n");
}
