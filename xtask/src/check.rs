//! `cargo xtask check`: format, dependencies, documentation, rooms and lints.

use anyhow::Result;

use crate::{
    dependencies, docs, documented, rooms,
    run::{cargo, cargo_on, output, root, run, say},
    setup,
    toolchain::{TARGET, Toolchain},
};

/// Check format, dependencies, documentation, rooms and lints, of the workspace and of the BPF programs
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn main(_: &Args) -> Result<()> {
    run(cargo("fmt").args(["--all", "--", "--check"]))?;
    run(cargo_on("fmt", "mvp-ebpf").args(["--", "--check"]))?;
    docs::check()?;
    rooms::check()?;
    documented::check()?;
    dependencies::check()?;
    // In the release profile, which the tests use too: build scripts (aws-lc's C code) and macros are compiled once.
    run(cargo("clippy").args([
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))?;
    if let Some(toolchain) = setup::toolchain_if_possible()? {
        check_ebpf(&toolchain)?;
    }
    let mut doc = cargo("doc");
    doc.args(["--release", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    run(&mut doc)
}

fn check_ebpf(toolchain: &Toolchain) -> Result<()> {
    if output(
        toolchain
            .compiler
            .command("cargo")
            .args(["clippy", "--version"]),
    )
    .is_none()
    {
        say(&format!(
            "clippy of the BPF programs not run: {} has none",
            toolchain.compiler.describe()
        ));
        return Ok(());
    }
    let mut clippy = toolchain.cargo("clippy");
    clippy.args([
        "--release",
        "--locked",
        "-Zbuild-std=core",
        "--target",
        TARGET,
        "--target-dir",
    ]);
    run(clippy
        .arg(root().join("mvp-ebpf/target"))
        .args(["--", "-Dwarnings"]))
}
