//! Where the unified cgroup hierarchy is.

use std::fs::File;

use anyhow::{Context as _, Result};

/// Its root folder, opened.
///
/// # Errors
/// It is not mounted.
pub fn root() -> Result<File> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let folder = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let folder = fields.next()?;
        (fields.next()? == "cgroup2").then_some(folder)
    });
    let folder = folder.context("no cgroup2 is mounted")?;
    File::open(folder).with_context(|| format!("folder {folder}"))
}
