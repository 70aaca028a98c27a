use std::collections::BTreeMap;

use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::*;
use crate::admin::{
    ClassProofView, ProofView, ServerView, SkewCell, SkewRow, SkewServer, StanceView,
};
use crate::history::{Event, Kind, TrafficView};
use crate::steering::GuardView;

fn server(name: &str, version: &str, available: bool) -> ServerView {
    let proved = ClassProofView {
        proved: true,
        ..ClassProofView::default()
    };
    ServerView {
        name: name.into(),
        version: Some(version.into()),
        available,
        local: name == "cp-a",
        knowledge: "fresh".into(),
        age_ms: Some(400),
        proof: ProofView {
            asserted_users: proved.clone(),
            tokens: proved,
            ..ProofView::default()
        },
        ..ServerView::default()
    }
}

fn shown() -> Shown {
    let cell = |state, missing: &[&str]| SkewCell {
        state,
        missing: missing.iter().map(|verb| (*verb).to_owned()).collect(),
    };
    Shown {
        status: StatusView {
            node: "cp-a".into(),
            version: "0.1.0".into(),
            ready: true,
            uptime_ms: 61_000,
            stance: StanceView {
                word: "inspecting".into(),
                line: "inspecting (versions_differ)".into(),
                ..StanceView::default()
            },
            guard: GuardView {
                state: "armed".into(),
                steers: true,
                reasons: vec!["versions_differ".into()],
                ..GuardView::default()
            },
            servers: vec![
                server("cp-a", "v1.35.6", true),
                server("cp-b", "v1.36.3", false),
            ],
            traffic: TrafficView {
                seconds: 10,
                per_second: BTreeMap::from([
                    ("local_serves".into(), 120.4),
                    ("peer_serves".into(), 3.25),
                ]),
                forwarded_per_second: 3.25,
                prevented_per_second: 3.0,
                added_us: Some(85.6),
                ..TrafficView::default()
            },
            ..StatusView::default()
        },
        skew: SkewView {
            servers: ["cp-a", "cp-b"]
                .map(|name| SkewServer {
                    name: name.into(),
                    ..SkewServer::default()
                })
                .to_vec(),
            rows: vec![SkewRow {
                group: "batch".into(),
                version: "v1".into(),
                resource: "jobs".into(),
                subresource: "status".into(),
                servers: BTreeMap::from([
                    ("cp-a".into(), cell(SkewState::Lacks, &[])),
                    ("cp-b".into(), cell(SkewState::Partial, &["patch"])),
                ]),
            }],
        },
        history: HistoryView {
            events: (0..50)
                .map(|n| Event::new(n * 1000, Kind::GuardArmed, "", &format!("event {n}"), ""))
                .collect(),
            ..HistoryView::default()
        },
        ..Shown::default()
    }
}

fn frame(shown: &Shown, width: u16, height: u16) -> Buffer {
    crate::cli::top::frame(shown, (width, height))
}

fn text(buffer: &Buffer) -> String {
    crate::cli::top::text(buffer)
}

#[test]
fn a_frame_has_the_answers_in_their_order() {
    let text = text(&frame(&shown(), 100, 30));
    let mut rest = text.as_str();
    for part in [
        "inspecting (versions_differ)\n",
        "guard    armed: versions_differ\n",
        "before   no retirement is under way; 0 ended so far",
        "agent    cp-a 0.1.0, up 1m1s, ready; 0 connections, 0 requests open\n",
        " Servers ",
        "cp-a *  v1.35.6  yes        yes     fresh 400ms  0\n",
        "cp-b    v1.36.3  NO         yes     fresh 400ms  0\n",
        " Requests per second ",
        "124 in all, 86us added to each; 3.2 forwarded, 3.0 false 404s prevented, 0.0 while",
        "     120  local_serves\n",
        "     3.2  peer_serves\n",
        " Differences: 1 ",
        "batch/v1       jobs/status  LACKS  no patch\n",
        " Last events ",
        "event 49\n",
    ] {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is not in\n{text}"));
        rest = &rest[at..];
    }
    assert!(!text.contains("event 1\n"), "only the last ones");
}

#[test]
fn what_is_bad_is_red_only_on_a_terminal_with_colours() {
    let red = |shown: &Shown| {
        let buffer = frame(shown, 100, 30);
        buffer.content().iter().any(|cell| cell.fg == Color::Red)
    };
    let mut all = shown();
    assert!(red(&all));
    all.plain = true;
    assert!(!red(&all));
}

#[test]
fn any_size_has_room_for_a_frame() {
    for (width, height) in [(1, 1), (20, 3), (40, 10), (80, 24), (300, 100)] {
        let buffer = frame(&shown(), width, height);
        assert_eq!(buffer.area.width, width);
    }
    // Before the first answer too.
    frame(&Shown::default(), 80, 24);
}

#[test]
fn what_servers_say_cannot_steer_the_terminal() {
    let mut all = shown();
    let evil = "a\u{1b}[2Jb\nc";
    all.status.node = evil.into();
    all.status.stance.line = evil.into();
    all.status.servers[0].name = evil.into();
    all.status.servers[0].last_error = Some(evil.into());
    all.skew.rows[0].resource = evil.into();
    all.problem = Some(evil.into());
    let buffer = frame(&all, 120, 40);
    let symbols = buffer.content().iter().map(|cell| cell.symbol());
    assert!(symbols.flat_map(str::chars).all(|c| !c.is_control()));
}
