//! deploy/mvp.service: systemd reads it, and confines the agent.

use std::process::Command;

use mvp_tests::bench::agent::ENVIRONMENT;
use mvp_tests::bench::process::find;
use mvp_tests::helm::deploy;

/// A value of systemd-analyze's scale: 0 is best, 10 worst. Root without most of its rights, with the network, cannot be below 2.
const MOST_EXPOSED: &str = "30";

#[test]
fn systemd_reads_the_unit_and_finds_it_confined() {
    let analyze = find("systemd-analyze").expect("systemd-analyze (Debian package systemd)");
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("mvp.service");
    let text = std::fs::read_to_string(deploy().join("mvp.service")).unwrap();
    // The agent is not installed where the tests run.
    let text = text.replace("/usr/bin/mvp", "/bin/true");
    std::fs::write(&unit, &text).unwrap();
    let verify = Command::new(&analyze)
        .args(["verify", "--man=no"])
        .arg(&unit)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verify.stderr).into_owned();
    assert!(
        verify.status.success() && !said.contains("mvp.service"),
        "{said}"
    );
    let security = Command::new(&analyze)
        .args([
            "security",
            "--offline=true",
            "--no-pager",
            "--threshold",
            MOST_EXPOSED,
        ])
        .arg(&unit)
        .output()
        .unwrap();
    assert!(
        security.status.success(),
        "{}",
        String::from_utf8_lossy(&security.stdout)
    );
}

#[test]
fn the_unit_grants_what_the_chart_grants() {
    let text = std::fs::read_to_string(deploy().join("mvp.service")).unwrap();
    let line = |key: &str| {
        let start = format!("{key}=");
        text.lines()
            .find_map(|line| line.strip_prefix(&start))
            .unwrap()
    };
    let ours: Vec<_> = line("CapabilityBoundingSet")
        .split(' ')
        .map(|name| name.trim_start_matches("CAP_"))
        .collect();
    let values = std::fs::read_to_string(mvp_tests::helm::chart().join("values.yaml")).unwrap();
    let values: serde_json::Value = serde_saphyr::from_str(&values).unwrap();
    assert_eq!(serde_json::json!(ours), values["security"]["capabilities"]);
    // More than drain.deadline, and a wrong configuration is not tried again and again.
    let stop: u64 = line("TimeoutStopSec").parse().unwrap();
    assert_eq!(values["terminationGracePeriodSeconds"], stop);
    assert_eq!(line("RestartPreventExitStatus"), "64");
}

/// Benchmarks give the agent what it has where it is installed.
#[test]
fn what_ships_has_the_environment_that_is_measured() {
    let (name, value) = ENVIRONMENT;
    for (file, line) in [
        ("mvp.service", format!("Environment={name}={value}\n")),
        ("Dockerfile", format!("ENV {name}={value}\n")),
    ] {
        let text = std::fs::read_to_string(deploy().join(file)).unwrap();
        assert!(text.contains(&line), "{file}");
    }
}
