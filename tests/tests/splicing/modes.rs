//! One mode at a time, with what a kernel of any age and a slow machine can carry: 100 MB, and a reader that does not read. Where
//! sockmap does not pass its own trial, nothing may be trusted to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp::kernel::Splice;
use mvp::splice::{Mode, selftest};
use mvp_tests::netns::privileged;

use crate::common::{in_namespace, runtime};
use crate::ways::{bulk, slow_reader};

const BYTES: u64 = 100_000_000;

#[test]
fn sockmap() {
    let mut failure = None;
    if !privileged("sockmap", true) {
        return;
    }
    in_namespace("sockmap", || {
        failure = match Splice::load() {
            Err(error) => Some(error.to_string()),
            Ok(splice) => runtime()
                .block_on(selftest::run(&splice))
                .failure()
                .map(|(case, why)| format!("{}: {why}", case.name())),
        };
    });
    match failure {
        None => carries(Mode::Sockmap),
        // The tests of relayed connections see to it that the agent does not use it.
        Some(why) => println!("falls back: {why}"),
    }
}

#[test]
fn splice() {
    carries(Mode::Splice);
}

#[test]
fn copy() {
    carries(Mode::Copy);
}

fn carries(mode: Mode) {
    if !privileged(mode.name(), true) {
        return;
    }
    bulk(mode, BYTES);
    in_namespace(mode.name(), || slow_reader(mode));
}
