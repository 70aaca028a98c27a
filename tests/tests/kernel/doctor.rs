//! `mvp doctor` on this kernel: what steering needs is there; what else is missing is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, process::Command};

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::common::pinned;

/// Without which steering does not work, and what every kernel that is supported has.
const NEEDED: [&str; 12] = [
    "BPF object",
    "kernel",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_ADMIN",
    "CAP_PERFMON",
    "CAP_BPF",
    "BPF file system",
    "pinning",
    "own source",
    "peers' source ports",
    "retiring connections",
    "cgroup2",
];

/// The findings of `mvp doctor` for these pins, in the calling thread's namespaces.
pub(crate) fn findings(pins: &Path) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_mvp-agent"))
        .args(["doctor", "-o", "json", "--pin-path"])
        .arg(pins)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("{error}: {text}{said}")
    })
}

/// The lines of one subject: what came of it, and the detail.
pub(crate) fn of<'a>(findings: &'a [Value], subject: &str) -> Vec<(&'a str, &'a str)> {
    let lines = findings.iter().filter(|line| line["subject"] == subject);
    lines
        .map(|line| {
            (
                line["outcome"].as_str().unwrap(),
                line["detail"].as_str().unwrap(),
            )
        })
        .collect()
}

#[test]
fn it_says_what_works() {
    pinned("it_says_what_works", |path| {
        let found = findings(path);
        for subject in NEEDED {
            let lines = of(&found, subject);
            assert_eq!(lines.len(), 1, "{subject}: {found:?}");
            assert_eq!(lines[0].0, "ok", "{subject}: {}", lines[0].1);
        }
        // A thing that does not work is off, never a failure, and says more than that.
        for subject in ["splice", "short-cut"] {
            let lines = of(&found, subject);
            assert!(!lines.is_empty(), "{subject}: {found:?}");
            for (outcome, detail) in lines {
                match outcome {
                    "ok" => {}
                    "off" if detail.starts_with("it works and does not help") => {
                        println!("note: {subject}: {detail}");
                    }
                    "off" => {
                        assert!(detail.split_whitespace().count() > 3, "{detail}");
                        println!("falls back: {subject}: {detail}");
                    }
                    other => panic!("{subject}: {other}: {detail}"),
                }
            }
        }
    });
}

/// What a security module does that denies writing below a BPF file system: everything looks well until something is pinned.
#[test]
fn a_pin_that_cannot_be_made_is_found() {
    pinned("a_pin_that_cannot_be_made_is_found", |path| {
        let folder = path.parent().unwrap();
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, folder, None::<&str>, read_only, None::<&str>).unwrap();
        let found = findings(path);
        let lines = of(&found, "pinning");
        assert_eq!(lines.len(), 1, "{found:?}");
        assert_eq!(lines[0].0, "failed", "{}", lines[0].1);
        assert!(
            lines[0].1.contains("Read-only file system"),
            "{}",
            lines[0].1
        );
    });
}
