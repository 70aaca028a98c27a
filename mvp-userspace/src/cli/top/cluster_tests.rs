use ratatui::style::Color;

use super::super::{frame, text};
use super::*;
use crate::admin::StanceView;
use crate::history::TrafficView;
use crate::steering::GuardView;

fn status(node: &str, server: &str, armed: bool) -> StatusView {
    StatusView {
        node: node.into(),
        version: "0.1.0".into(),
        ready: true,
        stance: StanceView {
            word: if armed { "inspecting" } else { "standing by" }.into(),
            ..StanceView::default()
        },
        guard: GuardView {
            state: if armed { "armed" } else { "idle" }.into(),
            reasons: vec![if armed { "versions_differ" } else { "settled" }.into()],
            ..GuardView::default()
        },
        servers: vec![ServerView {
            name: node.into(),
            version: Some(server.into()),
            local: true,
            available: true,
            ..ServerView::default()
        }],
        ..StatusView::default()
    }
}

fn shown() -> ClusterShown {
    let mut first = status("cp-a", "v1.35.6", true);
    first.retirement.open = 4;
    first.guard.reasons.push("sets_differ".into());
    first.traffic = TrafficView {
        per_second: BTreeMap::from([("local_serves".into(), 120.4), ("peer_serves".into(), 3.25)]),
        forwarded_per_second: 3.25,
        added_us: Some(85.6),
        ..TrafficView::default()
    };
    let mut second = status("cp-b", "v1.36.3", true);
    second.traffic.per_second = BTreeMap::from([("local_serves".into(), 10.0)]);
    let node = |name: &str, status: Option<StatusView>, problem: Option<&str>| Node {
        name: name.into(),
        status,
        problem: problem.map(str::to_owned),
    };
    ClusterShown {
        nodes: vec![
            node("cp-a", Some(first), None),
            node("cp-b", Some(second), Some("no answer within 20s")),
            node("cp-c", None, Some("pods \"mvp-c\" not found")),
        ],
        ..ClusterShown::default()
    }
}

#[test]
fn each_node_has_a_line() {
    let text = text(&frame(&shown(), (140, 30)));
    let mut rest = text.as_str();
    for part in [
        "3 agents, 2 silent; servers v1.35.6, v1.36.3; 4 connections of before\n",
        " Nodes ",
        "NODE  AGENT  SERVER   CLIENTS     GUARD                      BEFORE  REQ/S  FORWARDED  ADDED\n",
        "cp-a  0.1.0  v1.35.6  inspecting  armed: versions_differ +1  4       124    3.2        86us\n",
        "cp-b  0.1.0  v1.36.3  inspecting  armed: versions_differ     0       10     0.0        -\n",
        "cp-c  -      -        -           -                          -       -      -          -\n",
        "cp-b: no answer within 20s\n",
        "cp-c: pods \"mvp-c\" not found\n",
        " Requests per second ",
        "DECISION      ALL  cp-a  cp-b  cp-c\n",
        "local_serves  130  120   10    -\n",
        "peer_serves   3.2  3.2   -     -\n",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is not in\n{text}"));
        rest = &rest[at..];
    }
}

#[test]
fn what_is_bad_stands_out() {
    let red = |shown: &ClusterShown| {
        let buffer = frame(shown, (140, 30));
        buffer.content().iter().any(|cell| cell.fg == Color::Red)
    };
    let mut all = shown();
    assert!(red(&all));
    all.nodes.truncate(1);
    assert!(!red(&all), "all is well");
    if let Some(status) = &mut all.nodes[0].status {
        status.stance.word = "passing by".into();
        status.stance.line = "passing by: full (no room)".into();
    }
    assert!(red(&all));
    assert!(text(&frame(&all, (140, 30))).contains("\ncp-a: passing by: full (no room)\n"));
    all.plain = true;
    assert!(!red(&all));
}

#[test]
fn any_size_has_room_and_nothing_steers_the_terminal() {
    for size in [(1, 1), (20, 3), (80, 24), (300, 100)] {
        frame(&shown(), size);
        frame(&ClusterShown::default(), size);
    }
    let evil = "a\u{1b}[2Jb\nc";
    let mut all = shown();
    all.problem = Some(evil.into());
    for node in &mut all.nodes {
        node.name = evil.into();
        node.problem = Some(evil.into());
    }
    if let Some(status) = &mut all.nodes[0].status {
        status.version = evil.into();
        status.stance.word = "passing by".into();
        status.stance.line = evil.into();
        status.guard.reasons = vec![evil.into()];
        status.servers[0].version = Some(evil.into());
        status.traffic.per_second.insert(evil.into(), 1.0);
    }
    let buffer = frame(&all, (140, 40));
    let symbols = buffer.content().iter().map(|cell| cell.symbol());
    assert!(symbols.flat_map(str::chars).all(|c| !c.is_control()));
}
