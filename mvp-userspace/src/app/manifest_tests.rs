use std::path::Path;

use super::*;
use crate::config::Overrides;
use crate::drain::{Drain, DrainState};
use crate::preflight;

/// A manifest with its files in a folder.
fn write(dir: &Path, flags: &str) {
    for name in ["ca", "apiserver"] {
        let path = dir.join(format!("{name}.crt"));
        if !path.exists() {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            std::fs::write(path, made.cert.pem()).unwrap();
            let key = made.signing_key.serialize_pem();
            std::fs::write(dir.join(format!("{name}.key")), key).unwrap();
        }
    }
    let shown = dir.display();
    let manifest = format!(
        "{{kind: Pod, spec: {{containers: [{{name: kube-apiserver, command: [kube-apiserver, \
         --tls-cert-file={shown}/apiserver.crt, --tls-private-key-file={shown}/apiserver.key, \
         --client-ca-file={shown}/ca.crt, --bind-address=127.0.0.1, {flags}]}}]}}}}"
    );
    std::fs::write(dir.join("kube-apiserver.yaml"), manifest).unwrap();
}

fn follower(
    dir: &Path,
    drain: Option<(DrainTrigger, Duration)>,
) -> (ManifestFollower, Arc<ResponseTimeout>, ManifestLine) {
    let path = dir.join("kube-apiserver.yaml");
    let config = preflight::from_manifest(&path, &Overrides::default()).unwrap();
    let timeout = Arc::new(ResponseTimeout::new(config.limits.response_timeout));
    let line = ManifestLine::default();
    let follower = ManifestFollower::new(
        &config,
        Vec::new(),
        Arc::clone(&timeout),
        drain,
        line.clone(),
    );
    (follower.unwrap(), timeout, line)
}

#[test]
fn what_can_change_is_taken_over_and_what_cannot_is_said() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "--secure-port=6443");
    let (follower, timeout, line) = follower(dir.path(), None);
    assert_eq!(follower.look(), Look::Unchanged);
    assert_eq!(line.get(), "followed");
    write(dir.path(), "--secure-port=6443, --request-timeout=3m");
    assert_eq!(
        follower.look(),
        Look::TakenOver(vec!["limits.responseTimeout"])
    );
    assert_eq!(timeout.get(), Duration::from_secs(185));
    assert_eq!(follower.look(), Look::Unchanged);

    write(dir.path(), "--secure-port=7443, --request-timeout=4m");
    assert_eq!(
        follower.look(),
        Look::TakenOver(vec!["limits.responseTimeout"])
    );
    assert_eq!(timeout.get(), Duration::from_secs(245));
    assert!(
        line.get()
            .starts_with("a restart is needed: local.url, listen changed")
    );
    assert!(line.restart_needed());
    // It stays needed whatever else changes, until it is undone.
    write(dir.path(), "--secure-port=7443, --request-timeout=5m");
    follower.look();
    assert!(line.restart_needed());
    write(dir.path(), "--secure-port=6443, --request-timeout=5m");
    follower.look();
    assert_eq!(line.get(), "followed; 3 changes were taken over");
    assert!(!line.restart_needed());

    std::fs::write(dir.path().join("kube-apiserver.yaml"), "kind: Pod").unwrap();
    assert_eq!(follower.look(), Look::Failed);
    assert_eq!(follower.look(), Look::Failed);
    assert_eq!(timeout.get(), Duration::from_secs(305));
    assert!(
        line.get()
            .starts_with("cannot be used, and the configuration of before stays")
    );
    assert_eq!(follower.files()[0].failures.load(Ordering::Relaxed), 1);
    std::fs::remove_file(dir.path().join("kube-apiserver.yaml")).unwrap();
    assert_eq!(follower.look(), Look::Failed);
    write(dir.path(), "--secure-port=6443, --request-timeout=5m");
    assert_eq!(follower.look(), Look::Unchanged);
    assert_eq!(follower.files()[0].last_error(), None);
}

#[test]
fn with_steering_the_process_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "--secure-port=6443");
    let (trigger, signal) = Drain::new();
    let (follower, ..) = follower(dir.path(), Some((trigger, Duration::from_secs(60))));
    follower.look();
    assert_eq!(signal.state(), DrainState::Running);
    write(dir.path(), "--secure-port=6443, --request-timeout=3m");
    follower.look();
    assert_eq!(signal.state(), DrainState::Running);
    write(dir.path(), "--secure-port=7443");
    follower.look();
    assert!(matches!(signal.state(), DrainState::Draining(_)));
}
