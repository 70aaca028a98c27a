//! The pin folder: made aside and moved into place whole, locked while it changes, removed without a trace.
//!
//! All pins of an agent are in one folder. A new one is built beside it under a name of its own and takes its place by a
//! rename, so that nobody ever sees half a folder; what an agent that died half way left behind is removed by the next.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use aya::{maps::MapInfo, programs::ProgramInfo};
use mvp_common::ABI_VERSION;

use super::{
    Error,
    maps::{self, PINS},
    sys,
};

/// The program's pin.
pub(super) const PROGRAM_PIN: &str = "program";

/// The pin of the link, by which the program stays attached when the agent is gone.
pub(super) const LINK_PIN: &str = "link";

/// How long a change waits for another process's.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Root's, and visible to its group. The pins themselves are root's alone (0600 less the umask).
const MODE: u32 = 0o750;

/// Bits that the folder above may not have: writing, by which names can be squatted (the sticky bit only keeps others from removing
/// ours), and others' reading, which is enough to hold the lock (flock(2)).
const PARENT: u32 = 0o026;

const PARENT_ADVICE: &str = "`mount -o remount,mode=0700 /sys/fs/bpf` (as systemd mounts it) or chmod it, or set kernel.pinPath into a folder of mode 0700 on it";

/// Bits that a pin folder may not have.
const FOLDER: u32 = 0o022;

const FOLDER_ADVICE: &str = "Somebody else made it: remove it, or choose another kernel.pinPath";

/// The right to change a pin folder; dropping it gives it up.
pub(super) struct Locked {
    path: PathBuf,
    _lock: File,
}

/// Why pins cannot be used by this build.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum UnfitPins {
    #[error("they have ABI version {0}, this agent has {ABI_VERSION}")]
    Abi(u32),
    #[error("their program is not this agent's (tag {found:016x} instead of {expected:016x})")]
    Program { found: u64, expected: u64 },
    #[error("the map {0} is missing or has another size")]
    Map(&'static str),
    #[error("the link runs another program than the one that is pinned")]
    Link,
}

/// What the kernel says about a link.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct LinkInfo {
    pub program: u32,
    /// Inode of the network namespace; 0 once that is gone.
    pub netns: u64,
}

impl Locked {
    /// Locks the folder above `path`, which must be on bpffs and not open to others. Folders of earlier agents that died while
    /// changing something are removed; one that somebody else made is left alone and named.
    pub(super) fn new(path: &Path) -> Result<Self, Error> {
        let no_bpffs = |folder: &Path, cause: &dyn ToString| Error::NoBpffs {
            folder: folder.to_owned(),
            cause: cause.to_string(),
        };
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(no_bpffs(path, &"no name below a folder"));
        };
        // bpf_lookup in the kernel's kernel/bpf/inode.c keeps them for itself.
        if name.as_encoded_bytes().contains(&b'.') {
            return Err(no_bpffs(path, &"its name holds a dot, which bpffs refuses"));
        }
        if !sys::is_bpffs(parent).map_err(|e| no_bpffs(parent, &e))? {
            return Err(no_bpffs(parent, &"another file system"));
        }
        own(parent, PARENT, PARENT_ADVICE)?;
        let lock =
            File::open(parent).map_err(|e| Error::io("opening the folder of the pins", &e))?;
        wait_for(&lock, parent)?;
        let locked = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        for folder in [path, &locked.aside()] {
            if fs::symlink_metadata(folder).is_ok() {
                own(folder, FOLDER, FOLDER_ADVICE)?;
            }
        }
        remove(&locked.aside())?;
        Ok(locked)
    }

    /// The folder in force.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty folder beside the one in force, and returns its path.
    pub(super) fn make_aside(&self) -> Result<PathBuf, Error> {
        let aside = self.aside();
        DirBuilder::new()
            .mode(MODE)
            .create(&aside)
            // Whatever the umask is.
            .and_then(|()| fs::set_permissions(&aside, Permissions::from_mode(MODE)))
            .map_err(|e| Error::io("making the pin folder", &e))?;
        Ok(aside)
    }

    /// Puts the folder made aside in the place of the one in force, and removes that.
    pub(super) fn activate(&self, aside: &Path) -> Result<(), Error> {
        const ACTION: &str = "moving the pin folder into place";
        if !self.path.exists() {
            return fs::rename(aside, &self.path).map_err(|e| Error::io(ACTION, &e));
        }
        match sys::exchange(aside, &self.path) {
            Ok(()) => {}
            // Before 5.16. Who looks in between finds no pins; the link is pinned in both folders and stays attached.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                remove(&self.path)?;
                fs::rename(aside, &self.path).map_err(|e| Error::io(ACTION, &e))?;
            }
            Err(e) => return Err(Error::io(ACTION, &e)),
        }
        // The new folder is in force, whatever becomes of the old one; the next agent tries again.
        if let Err(error) = remove(aside) {
            tracing::warn!(%error, folder = %aside.display(), "the previous pins could not be removed");
        }
        Ok(())
    }

    fn aside(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push("-new");
        name.into()
    }
}

/// Whether the pins in `existing` are those of the program and maps in `fresh`, which this build has just made.
pub(super) fn compare(existing: &Path, fresh: &Path) -> Result<(), UnfitPins> {
    match maps::abi(existing) {
        Some(ABI_VERSION) => {}
        other => return Err(UnfitPins::Abi(other.unwrap_or_default())),
    }
    let program = |folder: &Path| ProgramInfo::from_pin(folder.join(PROGRAM_PIN));
    let expected = program(fresh).map_or(0, |info| info.tag());
    let found = program(existing).map(|info| (info.tag(), info.id()));
    let (found, id) = found.unwrap_or_default();
    if found != expected {
        return Err(UnfitPins::Program { found, expected });
    }
    for (_, pin) in PINS {
        match (shape(existing, pin), shape(fresh, pin)) {
            (Some(a), Some(b)) if a == b => {}
            _ => return Err(UnfitPins::Map(pin)),
        }
    }
    match link(existing) {
        Some((_, info)) if info.netns != 0 && info.program != id => Err(UnfitPins::Link),
        _ => Ok(()),
    }
}

/// The pinned link, if there is one.
pub(super) fn link(folder: &Path) -> Option<(OwnedFd, LinkInfo)> {
    let link = sys::pinned(&folder.join(LINK_PIN)).ok()?;
    let info = sys::fd_info(link.as_fd()).ok()?;
    let info = parse_link(&info)?;
    Some((link, info))
}

/// Inode of the calling thread's network namespace, and the namespace.
pub(super) fn current_netns() -> Result<(File, u64), Error> {
    let open = || -> io::Result<_> {
        let netns = File::open("/proc/thread-self/ns/net")?;
        let inode = netns.metadata()?.ino();
        Ok((netns, inode))
    };
    open().map_err(|e| Error::io("opening the network namespace (is /proc mounted?)", &e))
}

/// Removes a folder of ours and the pins in it; one that is not there is removed already. Never touches a folder that
/// holds something else.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    const ACTION: &str = "removing pins";
    let failed = |e: io::Error| Error::io(ACTION, &e);
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed)?.path());
    }
    if !paths.is_empty()
        && (!folder.join(maps::ABI_PIN).exists() || paths.iter().any(|p| p.is_dir()))
    {
        return Err(Error::NotOurs {
            path: folder.to_owned(),
        });
    }
    // The ABI version last: what is left of an interrupted removal is still known as ours.
    paths.sort_by_key(|path| path.ends_with(maps::ABI_PIN));
    for path in paths {
        fs::remove_file(path).map_err(failed)?;
    }
    fs::remove_dir(folder).map_err(failed)
}

/// That `folder` is a folder of root's, or of the user who runs the agent, with none of the mode bits `refused`.
fn own(folder: &Path, refused: u32, advice: &'static str) -> Result<(), Error> {
    let meta = fs::symlink_metadata(folder)
        .map_err(|e| Error::io("reading the owner of the pin folder", &e))?;
    let ours = [0, rustix::process::geteuid().as_raw()].contains(&meta.uid());
    if ours && meta.is_dir() && meta.mode() & refused == 0 {
        return Ok(());
    }
    let found = match meta.is_dir() {
        true => format!("owner {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777),
        false => "it is no folder".to_owned(),
    };
    Err(Error::Foreign {
        path: folder.to_owned(),
        found,
        advice,
    })
}

/// flock(2), on a folder that is there before and after every change. std has no waiting with a limit.
fn wait_for(lock: &File, folder: &Path) -> Result<(), Error> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(e)) => {
                return Err(Error::io("locking the folder of the pins", &e));
            }
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy {
                    folder: folder.to_owned(),
                });
            }
        }
    }
}

/// What two maps must have in common to take one another's place.
fn shape(folder: &Path, pin: &str) -> Option<[u32; 5]> {
    let info = MapInfo::from_pin(folder.join(pin)).ok()?;
    let kind = info.map_type().ok()? as u32;
    let (key, value) = (info.key_size(), info.value_size());
    Some([kind, key, value, info.max_entries(), info.map_flags()])
}

/// Reads `bpf_link_show_fdinfo` (kernel/bpf/syscall.c) and `bpf_netns_link_show_fdinfo` (kernel/bpf/net_namespace.c).
fn parse_link(info: &str) -> Option<LinkInfo> {
    let field = |name: &str| {
        info.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .trim()
                .parse()
                .ok()
        })
    };
    Some(LinkInfo {
        program: u32::try_from(field("prog_id")?).ok()?,
        netns: field("netns_ino")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_facts_are_read() {
        let text = "pos:\t0\nlink_type:\tnetns\nlink_id:\t7\nprog_tag:\tabc\nprog_id:\t12\nnetns_ino:\t4026531840\nattach_type:\t36\n";
        let info = parse_link(text).unwrap();
        assert_eq!((info.program, info.netns), (12, 4_026_531_840));
        assert_eq!(parse_link("prog_id:\t12\n"), None);
        assert_eq!(parse_link(""), None);
    }

    #[test]
    fn no_folder_elsewhere_is_locked_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let pins = folder.path().join("pins");
        assert!(matches!(Locked::new(&pins), Err(Error::NoBpffs { .. })));
        remove(&pins).unwrap();
        fs::create_dir(&pins).unwrap();
        fs::write(pins.join("precious"), "").unwrap();
        assert!(matches!(remove(&pins), Err(Error::NotOurs { .. })));
        assert!(pins.join("precious").exists());
    }
}
