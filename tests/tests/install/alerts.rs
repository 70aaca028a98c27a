//! The alerts and the dashboard: every metric and label that they name is one that the agent has, and promtool understands all of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use mvp::metrics::{ALL, MetricKind, Spec};
use mvp_tests::bench::process::find;
use mvp_tests::helm::chart;
use serde_json::{Value, json};

/// Labels that Prometheus adds to every sample, and the bucket of a histogram.
const COMMON: &[&str] = &["instance", "job", "le"];
/// Words of PromQL that look like labels.
const GRAMMAR: &[&str] = &["by", "on", "and", "or", "ignoring", "without"];

fn promtool() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".cache/tools/bin/promtool");
    let found = find("promtool").or_else(|| own.is_file().then_some(own));
    if found.is_none() {
        let required = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!required, "promtool is missing: cargo xtask setup");
        println!("skipped: promtool is missing: cargo xtask setup");
    }
    found
}

fn rules() -> Value {
    let text = std::fs::read_to_string(chart().join("files/rules.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn alerts() -> Vec<Value> {
    rules()["groups"][0]["rules"].as_array().unwrap().clone()
}

fn dashboard() -> Value {
    let text = std::fs::read_to_string(chart().join("files/dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every expression of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(text) if name == "expr" => found.push(text.to_owned()),
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|e| expressions(e, found)),
        _ => {}
    }
}

/// A metric by a name that a scrape has.
fn metric(name: &str) -> Option<&'static Spec> {
    ALL.iter().copied().find(|spec| match spec.kind {
        MetricKind::Histogram => {
            let rest = name.strip_prefix(spec.name);
            rest.is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
        }
        _ => spec.name == name,
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| !word.is_empty())
}

/// The expression without what stands in quotes.
fn unquoted(text: &str) -> String {
    text.split('"').step_by(2).collect()
}

/// The metrics of an expression, after a look at its labels.
fn checked(expression: &str) -> Vec<&'static Spec> {
    let plain = unquoted(expression);
    let names = words(&plain).filter(|word| {
        ["mvp_", "apiserver_", "aggregator_"]
            .iter()
            .any(|start| word.starts_with(start))
    });
    let metrics: Vec<_> = names
        .map(|name| metric(name).unwrap_or_else(|| panic!("{name} is no metric: {expression}")))
        .collect();
    let known: BTreeSet<&str> = metrics
        .iter()
        .flat_map(|spec| spec.labels)
        .chain(COMMON)
        .copied()
        .collect();
    // Selectors are `{label="..."}`, lists `by (label, label)`.
    let selectors = plain
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next());
    let selected = selectors
        .flat_map(|inside| inside.split(','))
        .map(|one| one.trim_end_matches(['=', '!', '~']).trim());
    let mut lists = Vec::new();
    for word in ["by (", "on (", "without (", "ignoring ("] {
        lists.extend(
            plain
                .split(word)
                .skip(1)
                .filter_map(|rest| rest.split(')').next()),
        );
    }
    let listed = lists.into_iter().flat_map(words);
    for label in selected
        .chain(listed)
        .filter(|label| !label.is_empty() && !GRAMMAR.contains(label))
    {
        assert!(
            known.contains(label),
            "{label} is no label of what {expression} names"
        );
    }
    metrics
}

#[test]
fn what_is_no_metric_or_label_is_found() {
    assert_eq!(
        checked("sum by (server) (mvp_server_available{job=\"x\"}) == 0").len(),
        1
    );
    for wrong in [
        "mvp_server_availabel == 0",
        "sum by (node) (mvp_server_available)",
        "mvp_server_available{reason=\"x\"} == 0",
        "rate(mvp_added_seconds[5m])",
        "rate(mvp_retries[5m])",
    ] {
        assert!(
            std::panic::catch_unwind(|| checked(wrong)).is_err(),
            "{wrong}"
        );
    }
}

#[test]
fn the_alerts_name_metrics_and_labels_that_there_are() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap().to_owned();
        let expression = alert["expr"].as_str().unwrap();
        let metrics = checked(expression);
        assert!(
            !metrics.is_empty() || expression.starts_with("up{"),
            "{name}"
        );
        let known: BTreeSet<&str> = metrics
            .iter()
            .flat_map(|spec| spec.labels)
            .chain(COMMON)
            .copied()
            .collect();
        for text in ["summary", "action"] {
            let text = alert["annotations"][text]
                .as_str()
                .unwrap_or_else(|| panic!("{name}: {text}"));
            for part in text.split("$labels.").skip(1) {
                let label = words(part).next().unwrap();
                assert!(known.contains(label), "{name}: {label}");
            }
        }
        assert!(names.insert(name), "an alert is there twice");
    }
    assert!(names.len() >= 15, "{names:?}");
}

#[test]
fn the_dashboard_shows_every_metric_and_none_that_there_is_not() {
    let mut all = Vec::new();
    expressions(&dashboard(), &mut all);
    let shown: BTreeSet<&str> = all
        .iter()
        .flat_map(|expression| checked(expression))
        .map(|spec| spec.name)
        .collect();
    let missing: Vec<_> = ALL
        .iter()
        .map(|spec| spec.name)
        .filter(|name| !shown.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_dashboards_panels_stand_side_by_side() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        assert!(!panel["title"].as_str().unwrap().is_empty());
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x + w <= 24, "{}", panel["title"]);
        for cell in (y..y + h).flat_map(|y| (x..x + w).map(move |x| (x, y))) {
            assert!(taken.insert(cell), "{} overlaps", panel["title"]);
        }
        if panel["type"] != "row" {
            assert!(
                !panel["description"].as_str().unwrap().is_empty(),
                "{}",
                panel["title"]
            );
        }
    }
}

#[test]
fn promtool_tests_the_alerts() {
    let Some(promtool) = promtool() else { return };
    let dir = tempfile::tempdir().unwrap();
    let rules = chart().join("files/rules.yaml");
    std::fs::copy(&rules, dir.path().join("rules.yaml")).unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("prometheus/alerts.test.yaml");
    let text = std::fs::read_to_string(&tests).unwrap();
    for alert in alerts() {
        let name = alert["alert"].as_str().unwrap();
        assert!(
            text.contains(&format!("alertname: {name}\n")),
            "{name} is not tested"
        );
    }
    std::fs::copy(&tests, dir.path().join("alerts.test.yaml")).unwrap();
    for args in [
        ["check", "rules", "rules.yaml"],
        ["test", "rules", "alerts.test.yaml"],
    ] {
        let done = Command::new(&promtool)
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&[done.stdout, done.stderr].concat())
        );
    }
}

#[test]
fn promtool_understands_what_the_dashboard_asks() {
    let Some(promtool) = promtool() else { return };
    let mut all = Vec::new();
    expressions(&dashboard(), &mut all);
    let rules: Vec<_> = all
        .iter()
        .enumerate()
        // What Grafana puts in.
        .map(|(i, text)| json!({"record": format!("panel:{i}"), "expr": text.replace("$__rate_interval", "5m")}))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let text = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    std::fs::write(dir.path().join("rules.yaml"), text).unwrap();
    let done = Command::new(promtool)
        .args(["check", "rules", "rules.yaml"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat())
    );
}
