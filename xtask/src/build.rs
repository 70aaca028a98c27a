//! `cargo xtask build`: the agent as it ships.

use anyhow::Result;

use crate::{
    build_ebpf,
    run::{cargo, root, run, say},
};

/// Build the agent, with the BPF programs inside if they can be built
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn main(_: &Args) -> Result<()> {
    build_ebpf::if_possible()?;
    run(cargo("build").args(["--profile", "dist", "--bin", "mvp"]))?;
    say(&format!("{}", root().join("target/dist/mvp").display()));
    Ok(())
}
