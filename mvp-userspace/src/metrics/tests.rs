use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;

/// Metrics with every family touched.
fn touched() -> Metrics {
    let metrics = Metrics::new();
    let server: Arc<str> = "cp-b".into();
    metrics.request("peer", &server, 200);
    metrics.added(Duration::from_micros(80));
    metrics.server_time(&server, Duration::from_millis(3));
    metrics.rerouted(200, "batch", "v2", "jobs");
    metrics.peer_proxy_error("proxy_transport", "batch", "v2", "jobs");
    metrics.peer_discovery_sync_error("fetch_discovery");
    metrics.retry("unprocessed");
    metrics.let_go("cp-a");
    metrics.ejection("cp-b");
    metrics.refused("connections");
    metrics.headers_stripped("username", 2);
    metrics.handshake_failure("timeout");
    metrics.reload_failure("/pki/a.crt");
    metrics.refresh("complete");
    metrics.relay_decision("not_hot");
    metrics.relay_retired("lost_key");
    metrics.register_source(Box::new(|sink| {
        sink.set(&DISCOVERY_AGE, &["cp-b"], 0.5);
        sink.set(&SERVER_AVAILABLE, &["cp-b"], 1.0);
        sink.set(&SERVER_PROVED, &["cp-b", "token"], 1.0);
        sink.set(&PROOF_AGE, &["cp-b", "token"], 1.0);
        sink.set(&OUTSTANDING, &["cp-b"], 3.0);
        sink.set(&RELAYED_CONNECTIONS, &["cp-b"], 1.0);
        sink.set(&RELAY_CLIENTS, &[], 1.0);
        sink.set(&SPLICED_CONNECTIONS, &["copy"], 1.0);
        sink.set(&SPLICED_FALLBACKS, &["busy"], 1.0);
        sink.set(&SPLICED_CHANGES, &["bulk"], 1.0);
        sink.set(&SPLICED_BROKEN, &[], 1.0);
        sink.set(&SPLICED_STOPPED, &[], 1.0);
        sink.set(&SPLICED_BYTES, &["to_server"], 1.0);
        sink.set(&READY, &[], 1.0);
        sink.set(&GUARD_STATE, &["armed"], 1.0);
        sink.set(&GUARD_TRANSITIONS, &["armed", "sets_differ"], 1.0);
        sink.set(&CLUSTER_WORDS, &["told"], 1.0);
        sink.set(&KERNEL_STEERING, &[], 1.0);
        sink.set(&PASSING_BY, &["full"], 1.0);
        sink.set(&RESTART_NEEDED, &[], 0.0);
        sink.set(&KERNEL_EVENTS, &["steered"], 7.0);
        sink.set(&HEARTBEATS_WITHHELD, &["thread"], 1.0);
        sink.set(&RETIRED, &["destroyed"], 2.0);
        sink.set(&CONNECTIONS_OF_BEFORE, &[], 0.0);
        sink.set(&RETIRING_AVAILABLE, &["not_loaded"], 0.0);
    }));
    // A second source with the same families: they must not be announced twice.
    metrics.register_source(Box::new(|sink| {
        sink.set(&DISCOVERY_AGE, &["cp-c"], 1.5);
        sink.set(&POOL_CONNECTIONS, &["cp-b", "token"], 2.0);
        sink.set(&CERTIFICATE_EXPIRY, &["/pki/\"a\".crt"], -1.0);
    }));
    metrics
}

fn value(output: &str, sample: &str) -> Option<f64> {
    output
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn the_scrape_has_exactly_the_families_of_the_table() {
    let output = touched().render();
    let mut found = BTreeMap::new();
    let mut help = BTreeMap::new();
    for line in output.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(
                found.insert(name, kind).is_none(),
                "{name} is announced twice"
            );
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').unwrap();
            help.insert(name, text);
        }
    }
    let expected: BTreeMap<_, _> = ALL.iter().map(|s| (s.base(), s.kind.as_str())).collect();
    assert_eq!(found, expected);
    for spec in ALL {
        assert_eq!(help[spec.base()], format!("{}.", spec.help));
        let suffix = if spec.kind == MetricKind::Histogram {
            "_count"
        } else {
            ""
        };
        let sample = format!("{}{suffix}", spec.name);
        let line = output
            .lines()
            .find(|line| {
                line.strip_prefix(&sample)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .unwrap_or_else(|| panic!("no sample {sample}"));
        let labels: Vec<&str> = match line.split_once('{') {
            Some((_, rest)) => rest
                .split(',')
                .map(|label| label.split('=').next().unwrap())
                .collect(),
            None => Vec::new(),
        };
        assert_eq!(labels, spec.labels, "{line}");
    }
    assert!(output.ends_with("# EOF\n"));
}

#[test]
fn answers_of_the_agent_itself_begin_with_zero() {
    let docs = include_str!("../../../docs/metrics.md");
    let output = Metrics::new().render();
    for (decision, codes) in zeros::OWN_ANSWERS {
        let row = docs
            .lines()
            .find(|line| line.starts_with(&format!("| `{decision}` |")));
        let row = row.unwrap_or_else(|| panic!("{decision} is not in docs/metrics.md"));
        for code in *codes {
            let sample = format!(
                "mvp_requests_total{{decision=\"{decision}\",server=\"\",code=\"{code}\"}}"
            );
            assert_eq!(value(&output, &sample), Some(0.0), "{sample}");
            let told = *code == 499 || row.contains(&code.to_string());
            assert!(told, "{code}: {row}");
        }
    }
}

#[test]
fn the_sum_of_what_was_added_is_what_the_scrape_says() {
    let metrics = Metrics::new();
    assert_eq!(metrics.added_so_far(), (0, Duration::ZERO));
    metrics.added(Duration::from_millis(250));
    metrics.added(Duration::from_millis(500));
    assert_eq!(metrics.added_so_far(), (2, Duration::from_millis(750)));
}

/// What Prometheus compares with must be there before the first event.
#[test]
fn counters_whose_labels_are_known_begin_with_zero() {
    let output = Metrics::new().render();
    let known: Vec<_> = ALL
        .iter()
        .filter(|spec| !zeros::words(spec).is_empty())
        .collect();
    assert_eq!(known.len(), 8);
    for spec in known {
        assert_eq!(spec.kind, MetricKind::Counter);
        for word in zeros::words(spec) {
            let sample = format!("{}{{{}=\"{word}\"}}", spec.name, spec.labels[0]);
            assert_eq!(value(&output, &sample), Some(0.0), "{sample}");
        }
    }
    for spec in ALL.iter().filter(|spec| spec.kind == MetricKind::Counter) {
        let announced = format!("# TYPE {} counter", spec.base());
        let own = output.contains(&announced);
        let sample = format!("\n{}", spec.name);
        // Their labels are told by servers and files.
        let open = ["server", "file"].contains(spec.labels.first().unwrap_or(&""));
        assert!(!own || open || output.contains(&sample), "{}", spec.name);
    }
}

#[test]
fn values_arrive() {
    let metrics = touched();
    let server: Arc<str> = "cp-b".into();
    metrics.request("peer", &server, 200);
    metrics.request("peer", &server, 404);
    metrics.request("local", &"cp-b".into(), 200);
    metrics.rerouted(200, "batch", "v2", "jobs");
    metrics.rerouted(200, "", "", "");
    let open = metrics.client_connection();
    drop(metrics.client_connection());
    metrics.tunnel_bytes(10, 20);
    let output = metrics.render();
    for (sample, expected) in [
        (
            r#"mvp_requests_total{decision="peer",server="cp-b",code="200"}"#,
            2.0,
        ),
        (
            r#"mvp_requests_total{decision="peer",server="cp-b",code="404"}"#,
            1.0,
        ),
        (
            r#"mvp_requests_total{decision="local",server="cp-b",code="200"}"#,
            1.0,
        ),
        (
            r#"apiserver_rerouted_request_total{code="200",group="batch",version="v2",resource="jobs"}"#,
            2.0,
        ),
        (
            r#"apiserver_rerouted_request_total{code="200",group="",version="",resource=""}"#,
            1.0,
        ),
        (
            r#"apiserver_peer_discovery_sync_errors_total{type="fetch_discovery"}"#,
            1.0,
        ),
        (
            r#"apiserver_peer_discovery_sync_errors_total{type="lease_list"}"#,
            0.0,
        ),
        (r#"mvp_server_seconds_count{server="cp-b"}"#, 1.0),
        (r#"mvp_added_seconds_bucket{le="0.00005"}"#, 0.0),
        (r#"mvp_added_seconds_bucket{le="0.0001"}"#, 1.0),
        ("mvp_client_connections_total", 2.0),
        ("mvp_client_connections_open", 1.0),
        (r#"mvp_discovery_age_seconds{server="cp-c"}"#, 1.5),
        (
            r#"mvp_certificate_expiry_seconds{file="/pki/\"a\".crt"}"#,
            -1.0,
        ),
        (r#"mvp_tunnel_bytes_total{direction="to_client"}"#, 20.0),
        (r#"mvp_headers_stripped_total{kind="username"}"#, 2.0),
    ] {
        assert_eq!(value(&output, sample), Some(expected), "{sample}\n{output}");
    }
    drop(open);
    assert_eq!(metrics.client_connections_open(), 0);
}

/// Two agents in one process, on the same threads, do not share counters; threads of one agent do.
#[test]
fn instances_are_apart_and_threads_together() {
    let (a, b) = (Arc::new(Metrics::new()), Metrics::new());
    let server: Arc<str> = "cp-a".into();
    b.request("local", &server, 200);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| a.request("local", &server, 200)));
        }
    });
    let sample = r#"mvp_requests_total{decision="local",server="cp-a",code="200"}"#;
    assert_eq!(value(&a.render(), sample), Some(400.0));
    assert_eq!(value(&b.render(), sample), Some(1.0));
}

#[test]
fn resources_are_bounded() {
    let metrics = Metrics::new();
    for i in 0..5000 {
        metrics.rerouted(200, "g", "v1", &format!("r{i}"));
    }
    let output = metrics.render();
    let lines = output
        .lines()
        .filter(|line| line.starts_with("apiserver_rerouted_request_total{"))
        .count();
    // One of them is that of discovery requests.
    assert_eq!(lines, 4098);
    let other = r#"apiserver_rerouted_request_total{code="200",group="other",version="other",resource="other"}"#;
    assert_eq!(value(&output, other), Some(904.0));
}

#[test]
fn the_documentation_has_this_very_table() {
    let docs = include_str!("../../../docs/metrics.md");
    assert!(
        docs.contains(&markdown_table()),
        "docs/metrics.md differs from specs.rs; its table must be:\n{}",
        markdown_table()
    );
}
