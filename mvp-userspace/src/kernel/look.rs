//! What `mvp doctor` asks: nothing here changes anything.

use std::{fs::File, os::fd::AsFd, path::Path};

use aya::programs::{ProgramInfo, loaded_programs};

use super::{Error, pins::PROGRAM_PIN, sys};

/// Whether `folder` is on a BPF file system.
///
/// # Errors
/// If there is no such folder.
pub fn is_bpffs(folder: &Path) -> std::io::Result<bool> {
    sys::is_bpffs(folder)
}

/// Names and numbers of the `sk_lookup` programs on this network namespace beside the one that is pinned in `path`. All of
/// them run, in the order in which they were attached.
///
/// # Errors
/// [`Error::Permission`] without CAP_BPF and CAP_NET_ADMIN; [`Error::Unsupported`] before Linux 5.9.
pub fn other_lookup_programs(path: &Path) -> Result<Vec<String>, Error> {
    const ACTION: &str = "listing sk_lookup programs";
    let failed = |e: std::io::Error| Error::io(ACTION, &e);
    let netns = File::open("/proc/thread-self/ns/net").map_err(failed)?;
    let ids = sys::lookup_programs(netns.as_fd()).map_err(failed)?;
    let own = ProgramInfo::from_pin(path.join(PROGRAM_PIN)).map(|info| info.id());
    let names = loaded_programs().filter_map(Result::ok);
    let names: Vec<(u32, String)> = names
        .map(|info| {
            let name = info.name_as_str().unwrap_or("without a name").to_owned();
            (info.id(), name)
        })
        .collect();
    let others = ids.into_iter().filter(|id| own.as_ref().ok() != Some(id));
    Ok(others
        .map(|id| {
            let name = names.iter().find(|(of, _)| *of == id);
            let name = name.map_or("unknown", |(_, name)| name);
            format!("{name} ({id})")
        })
        .collect())
}
