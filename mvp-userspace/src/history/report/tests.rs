//! What a report counts and says.

use super::*;
use crate::history::Prevented;

const T: u64 = 1_800_000_000_000;

fn event(at: u64, kind: Kind, value: &str) -> Event {
    Event::new(T + at, kind, "", "", value)
}

fn view(events: Vec<Event>, minutes: Vec<Minute>) -> HistoryView {
    HistoryView {
        now_ms: T + 100_000,
        since_ms: T,
        begins_ms: T,
        events,
        minutes,
    }
}

fn report(view: &HistoryView) -> Report {
    Report::of(view, &view.events, "cp-a")
}

#[test]
fn figures_are_sums_over_the_minutes() {
    let row = |client: &str, reason: &str, count| Prevented {
        reason: reason.into(),
        resource: "batch/v1/jobs".into(),
        client: client.into(),
        count,
    };
    let minute = |prevented: Vec<Prevented>| Minute {
        minute: T / 60_000,
        requests: BTreeMap::from([("peer_serves".into(), 5), ("server_failed".into(), 1)]),
        failed: BTreeMap::from([("server_failed".into(), 1)]),
        forwarded: 5,
        served_while_down: 2,
        relayed: 1,
        retired: BTreeMap::from([("destroyed".into(), 3), ("late".into(), 1)]),
        prevented,
        ..Minute::default()
    };
    let minutes = vec![
        minute(vec![row("kubectl/v1.36", "peer_serves", 2)]),
        minute(vec![
            row("kubectl/v1.36", "peer_serves", 1),
            row("gc/v1.36", "peer_serves", 9),
            row("kubectl/v1.36", "verb_on_peer", 1),
        ]),
    ];
    let report = report(&view(Vec::new(), minutes));
    assert_eq!((report.requests, report.forwarded), (12, 10));
    assert_eq!((report.prevented, report.served_while_down), (13, 4));
    let rows: Vec<_> = report
        .prevented_by
        .iter()
        .map(|row| (row.client.as_str(), row.instead_of, row.count))
        .collect();
    let expected = [
        ("gc/v1.36", 404, 9),
        ("kubectl/v1.36", 404, 3),
        ("kubectl/v1.36", 405, 1),
    ];
    assert_eq!(rows, expected);
    assert_eq!(report.errors.len(), 1);
    assert_eq!(report.errors[0].count, 2);
    assert!(report.errors[0].meaning.contains("broke off"));
    assert_eq!(
        (report.retirement.destroyed, report.retirement.late),
        (6, 2)
    );
    // Whole connections and cuts make a difference to what is known.
    assert_eq!(report.unknown.len(), 3, "{:?}", report.unknown);
}

#[test]
fn a_convergence_goes_from_the_first_sign_to_the_last_connection() {
    let events = vec![
        event(1_000, Kind::GuardArmed, "manifest_changed"),
        event(1_200, Kind::RetirementBegan, ""),
        event(3_500, Kind::RetirementEnded, ""),
        event(9_000, Kind::RetirementEnded, ""),
        event(20_000, Kind::GuardIdle, "settled"),
        event(30_000, Kind::GuardArmed, "sets_differ"),
        event(37_000, Kind::RetirementEnded, ""),
        event(40_000, Kind::GuardIdle, "settled"),
        event(50_000, Kind::GuardArmed, "versions_differ"),
    ];
    let report = report(&view(events, Vec::new()));
    let took: Vec<_> = report
        .convergences
        .iter()
        .map(|one| one.ended_ms.map(|ended| ended - one.from_ms))
        .collect();
    assert_eq!(took, [Some(2_500), Some(7_000), None]);
    assert_eq!(report.slowest_ms, Some(7_000));
    assert_eq!(report.armed_ms, 19_000 + 10_000 + 50_000);
}

#[test]
fn what_held_before_and_what_nobody_saw_is_counted_for_what_it_is() {
    let all = vec![
        event(0, Kind::GuardArmed, "operator_armed"),
        event(5_000, Kind::PassingBy, "full"),
        event(8_000, Kind::TakesConnections, ""),
        event(50_000, Kind::PassingBy, "thread"),
        event(60_000, Kind::AgentStarted, ""),
    ];
    let mut view = view(all.clone(), Vec::new());
    view.since_ms = T + 7_000;
    let report = Report::of(&view, &all, "cp-a");
    assert_eq!(report.passing_by_ms, 1_000 + 10_000);
    assert_eq!(report.armed_ms, 53_000, "until the agent was started anew");
    assert!(report.convergences.is_empty());
    view.begins_ms = T + 8_000;
    let report = Report::of(&view, &all, "cp-a");
    assert!(report.unknown[0].contains("begins later"));
}

/// `[words](target)` is its words.
fn without_links(text: &str) -> String {
    let mut parts = text.split("](");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once(')').map_or("", |(_target, rest)| rest));
    }
    plain.replace('[', "")
}

#[test]
fn every_decision_of_the_agents_own_has_its_meaning_from_the_documentation() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"))
        .unwrap();
    let table = docs
        .split("| `decision` | the agent answered")
        .nth(1)
        .unwrap();
    let listed: Vec<_> = table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once("` | "))
        .filter(|(decision, _)| *decision != "client_gone")
        .collect();
    assert_eq!(listed.len(), MEANINGS.len());
    for (decision, text) in listed {
        let plain = without_links(&text.replace('`', ""));
        let known = meaning(decision);
        assert!(!known.is_empty(), "{decision}");
        let begins = known.split(" limits").next().unwrap();
        assert!(plain.starts_with(begins), "{decision}: {known} / {plain}");
    }
}
