//! A folder as a reproducible archive.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::run::{output, root, run};

const SUMS: &str = "SHA256SUMS";
/// 1980, the first year that every archive format knows: where there is neither a commit nor SOURCE_DATE_EPOCH.
const NO_TIME: u64 = 315_532_800;

/// When the content was made: what SOURCE_DATE_EPOCH says (reproducible-builds.org), else the commit's time.
pub(super) fn epoch() -> u64 {
    let named = env::var("SOURCE_DATE_EPOCH").ok();
    let commit = || {
        let mut git = Command::new("git");
        git.arg("-C")
            .arg(root())
            .args(["log", "-1", "--format=%ct"]);
        output(&mut git)
    };
    named
        .or_else(commit)
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(NO_TIME)
}

/// Every file below `folder`, sorted, relative to `base`.
///
/// # Errors
/// A folder cannot be read, or a name is not UTF-8.
pub(super) fn files(base: &Path, folder: &Path, found: &mut Vec<String>) -> Result<()> {
    if folder.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        entries.sort();
        for entry in entries {
            files(base, &entry, found)?;
        }
        return Ok(());
    }
    let name = folder
        .strip_prefix(base)?
        .to_str()
        .context("a file's name")?;
    found.push(name.to_owned());
    Ok(())
}

/// Writes the sums of all files of a folder into it, as `sha256sum --check` reads them.
///
/// # Errors
/// The folder cannot be read, or there is no `sha256sum`.
pub(super) fn checksums(folder: &Path) -> Result<()> {
    let mut all = Vec::new();
    files(folder, folder, &mut all)?;
    all.retain(|name| name != SUMS);
    let sums = sha256sum(folder, &all)?;
    fs::write(folder.join(SUMS), sums)?;
    Ok(())
}

/// `folder/NAME` as `folder/NAME.tar.gz`, with its sum beside it.
///
/// # Errors
/// There is no GNU tar or gzip, or the folder cannot be written.
pub(super) fn pack(folder: &Path, name: &str, epoch: u64) -> Result<PathBuf> {
    let file = format!("{name}.tar.gz");
    let path = folder.join(&file);
    // Order, times, owners and modes are what differs between two machines.
    run(Command::new("tar")
        .args(["--create", "--format=gnu", "--sort=name", "--numeric-owner"])
        .args(["--owner=0", "--group=0", "--mode=u=rwX,go=rX"])
        .arg(format!("--mtime=@{epoch}"))
        .args(["--use-compress-program", "gzip -9 --no-name"])
        .arg("--file")
        .arg(&path)
        .arg("--directory")
        .arg(folder)
        .arg(name))?;
    let sum = sha256sum(folder, std::slice::from_ref(&file))?;
    fs::write(folder.join(format!("{file}.sha256")), sum)?;
    Ok(path)
}

fn sha256sum(folder: &Path, names: &[String]) -> Result<String> {
    let sums = Command::new("sha256sum")
        .current_dir(folder)
        .arg("--")
        .args(names)
        .output()
        .context("sha256sum")?;
    if !sums.status.success() {
        bail!("sha256sum: {}", String::from_utf8_lossy(&sums.stderr));
    }
    Ok(String::from_utf8(sums.stdout)?)
}
