//! One fault after another in a mixed control plane under load: what clients see of it, every error with its reason.
//!
//! Clients are in a namespace of their own and on each node, and behave as client-go does: a read is sent again when its connection is lost, a
//! write only when it surely was not processed or the answer says that it may be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../nodes/common.rs"]
mod common;
mod faults;
mod stage;

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use faults::{ROWS, Row, SERVER_KILLED};
use mvp_tests::chaos::{Line, Wrong, table};
use stage::Stage;

use crate::common::{eventually, on_nodes};

/// Two servers know what the first one does not.
const MINORS: &[u8] = &[35, 36, 36];
/// Requests that end right after the last error before a fault is held to be over.
const QUIET: u64 = 400;

/// One control plane at a time: what clients see of a fault is not to depend on another test.
static ALONE: Mutex<()> = Mutex::new(());

/// Does what a row says under load, waits until all is well again, and accounts for what was seen.
fn run(stage: &mut Stage, row: &Row) -> Line {
    let ledger = stage.next_row();
    let begun = std::time::Instant::now();
    (row.fault)(stage);
    let mended = std::time::Instant::now();
    stage.recovered();
    let (mut events, mut since) = (ledger.events(), ledger.ended());
    eventually(
        &format!("{}: requests are answered again", row.name),
        || {
            if ledger.events() > events {
                (events, since) = (ledger.events(), ledger.ended());
            }
            ledger.ended() >= since + QUIET
        },
    );
    let over = stage.next_row();
    drop(over);
    stage.all_is_told(row.name, &ledger);
    let harm = faults::Harm {
        begun,
        mended,
        cut: Cell::new(false),
    };
    Line::new(row.name, ledger.seen(), begun, |event| {
        (row.excuse)(&harm, event)
    })
}

#[test]
fn every_fault_is_survived() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    on_nodes("chaos", MINORS, |cluster| {
        let mut stage = Stage::start(cluster, true);
        let only = std::env::var("MVP_CHAOS_ROWS").unwrap_or_default();
        let rows = ROWS
            .iter()
            .filter(|row| only.split(',').any(|word| row.name.contains(word)));
        let lines: Vec<_> = rows
            .map(|row| {
                let line = run(&mut stage, row);
                println!("{}\n  {}", line.row(), line.details());
                line
            })
            .collect();
        println!("{}", table(&lines));
        stage.end();
        for line in &lines {
            let first: Vec<_> = line.faults.iter().take(12).collect();
            assert!(
                first.is_empty(),
                "{}: {} errors without excuse: {first:#?}",
                line.fault,
                line.faults.len()
            );
            assert!(line.requests() > QUIET, "{}", line.fault);
        }
    });
}

/// The same load and the same fault without agents: what the table would show if they did nothing.
#[test]
fn without_agents_the_same_fault_is_felt() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    on_nodes("chaos alone", MINORS, |cluster| {
        let mut stage = Stage::start(cluster, false);
        let ledger = stage.next_row();
        (SERVER_KILLED.fault)(&mut stage);
        let wanted = [Wrong::FalseNotFound, Wrong::Shrunk, Wrong::NoConnection];
        for wrong in wanted {
            eventually(&format!("{wrong} is seen"), || {
                ledger
                    .seen()
                    .events
                    .iter()
                    .any(|event| event.wrong == wrong)
            });
        }
        stage.end();
    });
}

/// So long a fault lasts: it is the fault's length and waits for nothing.
fn lasts(length: Duration) {
    std::thread::sleep(length);
}
