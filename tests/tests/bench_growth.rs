//! `mvp-bench growth` runs, with its smallest sizes, and gives the rows that it promises. The figures themselves say nothing here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Runs one scenario and gives subject and metric of each of its rows.
fn rows(scenario: &str, at_most: &str) -> BTreeSet<(String, String)> {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("rows.json");
    let output = Command::new(env!("CARGO_BIN_EXE_mvp-bench"))
        .args(["growth", "--quick", "--seconds", "0.2"])
        .args(["--scenarios", scenario, "--at-most", at_most])
        .args(["--mvp-binary", env!("CARGO_BIN_EXE_mvp-agent")])
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for row in &rows {
        assert_eq!(row["scenario"], "growth", "{row}");
        // Direct is measured beside each of the two agents.
        assert!((1..=2).contains(&row["rounds"].as_u64().unwrap()), "{row}");
        assert!(row["median"].as_f64().is_some(), "{row}");
    }
    let word = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let seen: BTreeSet<_> = rows
        .iter()
        .map(|row| (word(row, "subject"), word(row, "metric")))
        .collect();
    assert_eq!(seen.len(), rows.len(), "a row is there twice");
    seen
}

fn expected(prefix: &str, rows: &[(&str, &[&str])]) -> BTreeSet<(String, String)> {
    let of_subject = |(subject, metrics): &(&str, &[&str])| {
        let subject = (*subject).to_owned();
        let names = metrics
            .iter()
            .map(move |metric| (subject.clone(), format!("{prefix}_{metric}")));
        names.collect::<Vec<_>>()
    };
    rows.iter().flat_map(of_subject).collect()
}

const AGENT: &[&str] = &["ready_ms", "memory_mib", "idle_cpu_ms_per_s"];
const COMPUTED: &[&str] = &[
    "read_ms",
    "keys",
    "table_build_ms",
    "lookup_p50_ns",
    "merge_ms",
    "document_kib",
    "encode_ms",
];

#[test]
fn servers_of_one_version_and_of_two() {
    let prefixes = [
        "servers_1_one_version",
        "servers_4_one_version",
        "servers_4_two_versions",
    ];
    let all = prefixes.map(|prefix| expected(prefix, &[("mvp", AGENT), ("in_process", COMPUTED)]));
    assert_eq!(rows("servers", "4"), all.into_iter().flatten().collect());
}

#[test]
fn types_on_servers_of_one_version_and_of_two() {
    let (times, ratios): (&[&str], &[&str]) = (
        &[
            "discovery_200_p50_ms",
            "discovery_304_p50_ms",
            "created_p50_ms",
            "created_p99_ms",
        ],
        &[
            "discovery_200_p50_ratio",
            "discovery_304_p50_ratio",
            "created_p50_ratio",
            "created_p99_ratio",
        ],
    );
    let all = ["types_100_one_version", "types_100_two_versions"].map(|prefix| {
        expected(
            prefix,
            &[
                ("mvp", AGENT),
                ("mvp", times),
                ("direct", times),
                ("mvp/direct", ratios),
                ("in_process", COMPUTED),
            ],
        )
    });
    assert_eq!(rows("types", "100"), all.into_iter().flatten().collect());
}

#[test]
fn kept_connections() {
    let agent: &[&str] = &[
        "kib_each",
        "socket_kib_each",
        "idle_cpu_ms_per_s",
        "get_p50_us",
        "get_p99_us",
    ];
    let direct: &[&str] = &["get_p50_us", "get_p99_us"];
    let ratios: &[&str] = &["get_p50_ratio", "get_p99_ratio"];
    let all = [
        ("mvp_h2", agent),
        ("mvp_h2wire", agent),
        ("direct", direct),
        ("mvp_h2/direct", ratios),
        ("mvp_h2wire/direct", ratios),
    ];
    assert_eq!(
        rows("connections", "100"),
        expected("connections_100", &all)
    );
}

#[test]
fn idle_watches_and_events() {
    let agent: &[&str] = &[
        "kib_each",
        "idle_cpu_ms_per_s",
        "delay_p50_ms",
        "delay_p99_ms",
    ];
    let direct: &[&str] = &["delay_p50_ms", "delay_p99_ms"];
    let ratios: &[&str] = &["delay_p50_ratio", "delay_p99_ratio"];
    let all = [
        ("mvp_h2", agent),
        ("mvp_h2wire", agent),
        ("direct", direct),
        ("mvp_h2/direct", ratios),
        ("mvp_h2wire/direct", ratios),
    ];
    assert_eq!(rows("watches", "100"), expected("watches_100", &all));
}
