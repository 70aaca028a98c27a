//! A BPF file system for one test. Needs root.

use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Runs `work` on a thread in a mount namespace of its own, with a BPF file system at the path that it gets. Nothing of
/// it is left afterwards, not even if the process is killed. A panic in it goes on in the caller.
pub fn with_bpffs<T: Send + 'static>(work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    // Made and removed outside, where nothing is mounted on it.
    let folder = tempfile::Builder::new()
        .prefix("mvp-bpf-")
        .tempdir()
        .unwrap();
    let path = folder.path().to_owned();
    let run = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let none = MsFlags::empty();
        // As systemd mounts it: an agent refuses one that is open to others.
        mount(Some("bpf"), &path, Some("bpf"), none, Some("mode=0700")).unwrap();
        work(&path)
    });
    run.join().unwrap_or_else(|panic| {
        drop(folder);
        std::panic::resume_unwind(panic)
    })
}
