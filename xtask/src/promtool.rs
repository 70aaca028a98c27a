//! promtool, with which tests check the alerts: out of Debian's package `prometheus`, which is not installed, since it would start a
//! server.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    run::{find, output, run, run_within, say},
    toolchain,
};

/// 19 MB.
const LIMIT: Duration = Duration::from_secs(240);
const INSIDE: &str = "./usr/bin/promtool";

/// The user's own, or the one below .cache/tools. With `check` nothing is changed.
///
/// # Errors
/// It is not there, or it cannot be brought here.
pub(crate) fn program(check: bool) -> Result<PathBuf> {
    if let Some(path) = find("promtool") {
        return Ok(path);
    }
    let path = toolchain::tools().join("bin/promtool");
    if path.is_file() {
        return Ok(path);
    }
    if check || find("apt-get").is_none() {
        bail!("promtool (Debian package prometheus)");
    }
    let folder = toolchain::tools().join("prometheus");
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(path.parent().context("no folder")?)?;
    say("taking promtool out of Debian's package prometheus");
    let download = || {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "download", "prometheus"])
            .current_dir(&folder);
        run_within(&mut apt, LIMIT)
    };
    // Where the lists have never been fetched.
    if download().is_err() {
        run(Command::new("apt-get").args(["-qq", "update"]))?;
        download()?;
    }
    let package = fs::read_dir(&folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .context("apt-get download left no package")?;
    let unpack = format!(
        "dpkg-deb --fsys-tarfile '{}' | tar -x {INSIDE}",
        package.display()
    );
    run(Command::new("sh")
        .args(["-c", &unpack])
        .current_dir(&folder))?;
    fs::rename(folder.join(INSIDE), &path)?;
    fs::remove_dir_all(&folder)?;
    if output(Command::new(&path).arg("--version")).is_none() {
        bail!("{} does not start", path.display());
    }
    Ok(path)
}
