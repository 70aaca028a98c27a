//! `mvp-bench compare` runs, with next to nothing to do, and gives the rows and the page that it promises. The figures themselves say
//! nothing here.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use mvp_tests::bench::process::find;
use mvp_tests::browser::Browser;
use serde_json::Value;
use tempfile::TempDir;

/// One run, of which every test here looks at a part.
static RUN: LazyLock<Run> = LazyLock::new(Run::make);

struct Run {
    document: Value,
    page: PathBuf,
    _dir: TempDir,
}

impl Run {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (json, page) = (dir.path().join("rows.json"), dir.path().join("page.html"));
        let output = Command::new(env!("CARGO_BIN_EXE_mvp-bench"))
            .args(["compare", "--quick", "--seconds", "0.2", "--rate", "50"])
            .args(["--watches", "20", "--threads", "1"])
            .args(["--scenarios", "watches,get,list,connections"])
            .args(["--subjects", "direct,mvp,haproxy,native_simulated"])
            .args(["--mvp-binary", env!("CARGO_BIN_EXE_mvp-agent")])
            .arg("--json")
            .arg(&json)
            .arg("--html")
            .arg(&page)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{errors}");
        let document = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        Self {
            document,
            page,
            _dir: dir,
        }
    }
}

/// The subjects with a row for this metric.
fn subjects<'a>(scenario: &'a Value, metric: &str) -> Vec<&'a str> {
    let rows = scenario["rows"].as_array().unwrap().iter();
    let rows = rows.filter(|row| row["metric"] == metric);
    rows.map(|row| row["subject"].as_str().unwrap()).collect()
}

#[test]
fn every_subject_has_its_rows() {
    let mut expected = vec!["direct", "mvp"];
    if find("haproxy").is_some() {
        expected.push("haproxy");
    }
    expected.push("native_simulated");
    let scenarios = RUN.document["scenarios"].as_array().unwrap();
    let names: Vec<_> = scenarios.iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["watches", "get", "list", "connections"]);
    let metrics = ["delay_p99_ms", "p50_us", "p50_ms", "rate"];
    for (scenario, metric) in scenarios.iter().zip(metrics) {
        assert_eq!(subjects(scenario, metric), expected, "{scenario:#}");
        for row in scenario["rows"].as_array().unwrap() {
            assert_eq!(row["rounds"], 1, "{row}");
            assert!(row["median"].as_f64().is_some(), "{row}");
        }
    }
    // Who has a process has its memory and CPU; direct has neither.
    assert_eq!(subjects(&scenarios[0], "kib_per_watch"), expected[1..]);
    assert_eq!(subjects(&scenarios[1], "cpu_us"), expected[1..]);
    let pairs = subjects(&scenarios[1], "p50_us_ratio");
    assert!(pairs.contains(&"mvp/direct") && pairs.contains(&"native_simulated/direct"));
}

#[test]
fn the_page_can_be_read_on_a_small_screen_and_by_keyboard() {
    let Some(program) = Browser::find() else {
        return;
    };
    let url = format!("file://{}", RUN.page.display());
    let mut browser = Browser::open(&program, &url).unwrap();
    let there = "document.title === 'mvp compared' && document.readyState === 'complete'";
    browser.until(there, Duration::from_secs(30)).unwrap();
    let mut papers = Vec::new();
    for (width, scheme) in [
        (1100, "light"),
        (1100, "dark"),
        (320, "light"),
        (320, "dark"),
    ] {
        browser.look(width, 800, scheme).unwrap();
        let wider = "document.documentElement.scrollWidth - window.innerWidth";
        assert_eq!(browser.value(wider).unwrap(), 0, "{width} {scheme}");
        let paper = "getComputedStyle(document.body).backgroundColor";
        papers.push(browser.value(paper).unwrap());
    }
    assert_ne!(papers[0], papers[1]);
    // Whatever can be used is reached: links, tables that scroll, what opens a table.
    let number = "document.querySelectorAll('a, summary, [tabindex]').length";
    let all = browser.value(number).unwrap().as_u64().unwrap();
    let closed = "document.querySelectorAll('details [tabindex]').length";
    let hidden = browser.value(closed).unwrap().as_u64().unwrap();
    let mark = "document.activeElement.dataset.seen = 'yes', document.activeElement.tagName";
    for _ in 0..all {
        browser.press("Tab", 9).unwrap();
        browser.value(mark).unwrap();
    }
    let seen = "document.querySelectorAll('main [data-seen], body > a[data-seen]').length";
    assert_eq!(browser.value(seen).unwrap(), all - hidden);
    // By the keyboard a table is opened as well.
    browser
        .value("document.querySelector('summary').focus()")
        .unwrap();
    browser.press("Enter", 13).unwrap();
    let open = "document.querySelector('details').open";
    browser.until(open, Duration::from_secs(10)).unwrap();
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}
