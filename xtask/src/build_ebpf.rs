//! `cargo xtask build-ebpf`: builds the BPF programs into `target/bpf/mvp.o`, where the agent's build script takes them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    run::{is_root, require_all, root, run, say},
    setup,
    toolchain::{TARGET, Toolchain},
};

/// Build the BPF programs into target/bpf/mvp.o
///
/// Sets up the toolchain first if it is missing, and fails if it cannot be had.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn main(_: &Args) -> Result<()> {
    build(&setup::install_toolchain()?)
}

/// Builds the object if the toolchain is there or can be brought; else says so in one line and returns false.
///
/// # Errors
/// If the programs do not compile, and if everything is required here but the toolchain cannot be had.
pub(crate) fn if_possible() -> Result<bool> {
    let Some(toolchain) = setup::toolchain_if_possible()? else {
        return Ok(false);
    };
    build(&toolchain)?;
    Ok(true)
}

/// As [`if_possible`], for verbs that run the agent. Without root the programs could not be loaded, so nothing is
/// brought or built for them.
///
/// # Errors
/// As [`if_possible`].
pub(crate) fn if_usable() -> Result<bool> {
    if is_root() || require_all() {
        return if_possible();
    }
    say("userspace only: not root, so the BPF programs are neither built nor loaded");
    Ok(false)
}

/// Where the object is.
pub(crate) fn object() -> PathBuf {
    root().join("target/bpf/mvp.o")
}

/// The programs with a helper that older kernels lack, beside [`object`] as it should be.
///
/// # Errors
/// If they cannot be built.
pub(crate) fn too_new() -> Result<PathBuf> {
    let object = object().with_file_name("mvp-too-new.o");
    build_into(
        &setup::install_toolchain()?,
        &object,
        &["--features", "too-new"],
    )?;
    Ok(object)
}

fn build(toolchain: &Toolchain) -> Result<()> {
    build_into(toolchain, &object(), &[])
}

fn build_into(toolchain: &Toolchain, object: &Path, more: &[&str]) -> Result<()> {
    let target = root().join("mvp-ebpf/target");
    let mut cargo = toolchain.cargo("build");
    cargo
        .args([
            "--release",
            "--locked",
            "-Zbuild-std=core",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target)
        .args(more);
    run(&mut cargo)?;
    let built = target.join(TARGET).join("release/mvp-ebpf");
    let bytes = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    // Written only when it differs: a newer file would have the agent built anew.
    if fs::read(object).is_ok_and(|old| old == bytes) {
        say(&format!("{} is up to date", object.display()));
        return Ok(());
    }
    replace(object, &bytes).with_context(|| format!("writing {}", object.display()))?;
    say(&format!("{}: {} bytes", object.display(), bytes.len()));
    Ok(())
}

/// By rename, so that a build that reads at the same time sees the old object or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().context("no folder")?)?;
    let new = path.with_extension("o.new");
    fs::write(&new, bytes)?;
    fs::rename(&new, path)?;
    Ok(())
}
