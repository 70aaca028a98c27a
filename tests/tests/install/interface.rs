//! What is stable: the keys of the configuration, the metrics with their labels, and what `-o json` says. Each release has a file of them
//! in `tests/interface`, and whatever was in one stays as long as the major version does (docs/operations.md#versions). More may come.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::Path;

use mvp::admin::{
    CanaryView, CertificateView, ConnectionView, ExplainView, LegView, ReasonView, RouteView,
    ServerView, StanceView, StatusView, ThreadView,
};
use mvp::config::KEYS;
use mvp::history::{Event, HistoryView, Kind, Minute, Report};
use mvp::metrics::ALL;
use serde::Serialize;
use serde_json::Value;

/// Every key, metric and field, one in each line.
fn interface() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    all.extend(KEYS.iter().map(|key| format!("config {}", key.name)));
    all.extend(ALL.iter().map(|spec| {
        let labels = spec.labels.join(",");
        format!("metric {}{{{labels}}} {}", spec.name, spec.kind.as_str())
    }));
    let server = ServerView::default();
    let status = StatusView {
        stance: StanceView {
            reasons: vec![ReasonView::default()],
            ..StanceView::default()
        },
        servers: vec![server.clone()],
        threads: vec![ThreadView::default()],
        certificates: vec![CertificateView::default()],
        ..StatusView::default()
    };
    fields("status", &status, &mut all);
    fields("servers", &vec![server], &mut all);
    fields("routes", &vec![RouteView::default()], &mut all);
    fields("explain", &ExplainView::default(), &mut all);
    fields("explain-connection", &ConnectionView::default(), &mut all);
    let canary = CanaryView {
        servers: [("*".to_owned(), LegView::default())].into(),
        ..CanaryView::default()
    };
    fields("check-canary", &canary, &mut all);
    let event = Event::new(0, Kind::AgentStarted, "", "", "");
    let history = HistoryView {
        minutes: vec![Minute::default()],
        events: vec![event],
        ..HistoryView::default()
    };
    fields("history", &history, &mut all);
    fields("report", &Report::default(), &mut all);
    all.extend(
        Kind::ALL
            .iter()
            .map(|kind| format!("event {}", kind.as_str())),
    );
    all
}

/// The paths of all fields: `json status .guard.state`.
fn fields(command: &str, view: &impl Serialize, all: &mut BTreeSet<String>) {
    fn walk(path: &str, value: &Value, all: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let path = format!("{path}.{name}");
                    all.insert(path.clone());
                    walk(&path, member, all);
                }
            }
            Value::Array(elements) => {
                let path = format!("{path}[]");
                elements.iter().for_each(|one| walk(&path, one, all));
            }
            _ => {}
        }
    }
    let value = serde_json::to_value(view).unwrap();
    walk(&format!("json {command} "), &value, all);
}

#[test]
fn what_a_release_promised_is_there() {
    let now = interface();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("interface");
    // As long as it has not been released, the present version promises what it has.
    let present = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap().0;
    let file = folder.join(format!("{present}.txt"));
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(!written.is_empty(), "{}:\n{}", file.display(), {
        let lines: Vec<_> = now.iter().map(String::as_str).collect();
        lines.join("\n")
    });
    let mut releases = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let gone: Vec<_> = text.lines().filter(|line| !now.contains(*line)).collect();
        let release = path.display();
        assert!(gone.is_empty(), "{release} promises {gone:#?}");
        assert!(text.lines().count() > 100, "{release}");
        releases += 1;
    }
    assert!(releases > 0);
}

/// An agent of another release says more, or less, than this program knows.
#[test]
fn the_status_of_another_release_is_read() {
    let mut status = serde_json::to_value(StatusView {
        node: "cp-a".into(),
        servers: vec![ServerView::default()],
        ..StatusView::default()
    })
    .unwrap();
    status["fromTheFuture"] = serde_json::json!({"a": 1});
    status["servers"][0]["fromTheFuture"] = true.into();
    status["guard"]["fromTheFuture"] = "x".into();
    let read: StatusView = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(read.node, "cp-a");
    // What came after the first release.
    for later in ["traffic", "retirement", "stance", "manifest", "membership"] {
        status.as_object_mut().unwrap().remove(later);
    }
    let read: StatusView = serde_json::from_value(status).unwrap();
    assert_eq!(read.node, "cp-a");
}
