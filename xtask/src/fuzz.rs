//! `cargo xtask fuzz`: runs the fuzz targets.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    run::{cargo_on, root, run, say},
    setup, toolchain,
};

/// Run the fuzz targets, all of them or those that are named
///
/// Builds them once, with cargo-fuzz in .cache/tools, and runs each from the inputs in tests/fuzz/seeds and from what
/// earlier runs found (tests/fuzz/corpus). An input that breaks a target is kept in tests/fuzz/artifacts.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Time for each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Which: a file of tests/fuzz/fuzz_targets without its ending; all if none is named
    targets: Vec<String>,
}

/// An input that takes longer is a finding: nothing that the targets read is so large.
const INPUT_TIMEOUT: u32 = 10;
const MEMORY_MIB: u32 = 2048;

pub(crate) fn main(args: &Args) -> Result<()> {
    let known = targets()?;
    for target in &args.targets {
        if !known.contains(target) {
            bail!("no target {target}: there are {}", known.join(", "));
        }
    }
    let fuzzer = setup::install_cargo_fuzz()?;
    let folder = folder();
    // cargo-fuzz has no --locked of its own, and would write another lock file.
    run(&mut cargo_on("fetch", "tests/fuzz"))?;
    let compiler = setup::fuzz_compiler()?;
    // No sanitizer: the targets run code without `unsafe`, and without one the build is shorter and more inputs are tried.
    let mut build = compiler.command("cargo");
    build
        .current_dir(root())
        .arg("fuzz")
        .args(["build", "--sanitizer", "none", "--fuzz-dir"])
        .arg(&folder);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tools = fuzzer.parent().map(PathBuf::from).into_iter();
    let path = std::env::join_paths(tools.chain(std::env::split_paths(&path)))?;
    run(build.env("PATH", path))?;
    let chosen = if args.targets.is_empty() {
        &known
    } else {
        &args.targets
    };
    let built = built(&folder)?;
    let mut broken = Vec::new();
    for target in chosen {
        let corpus = folder.join("corpus").join(target);
        let artifacts = folder.join("artifacts").join(target);
        for made in [&corpus, &artifacts] {
            fs::create_dir_all(made).with_context(|| format!("folder {}", made.display()))?;
        }
        let mut command = Command::new(built.join(target));
        // The first folder also takes what is found.
        command.arg(&corpus);
        let seeds = folder.join("seeds").join(target);
        if seeds.is_dir() {
            command.arg(seeds);
        }
        command
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-timeout={INPUT_TIMEOUT}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args(["-print_final_stats=1", "-verbosity=0"]);
        if let Err(error) = run(&mut command) {
            say(&format!("{error:#}"));
            broken.push(target.as_str());
        }
    }
    if !broken.is_empty() {
        bail!("broken: {}", broken.join(", "));
    }
    Ok(())
}

/// Every file of the targets' folder.
fn targets() -> Result<Vec<String>> {
    let folder = folder().join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("folder {}", folder.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

/// Where cargo-fuzz puts the programs: a folder of the host's target.
fn built(folder: &std::path::Path) -> Result<PathBuf> {
    let version = crate::run::output(Command::new("rustc").args(["--version", "--verbose"]));
    let host = version
        .as_deref()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("host: ")))
        .context("rustc does not tell its host")?
        .to_owned();
    Ok(folder.join("target").join(host).join("release"))
}

fn folder() -> PathBuf {
    root().join("tests/fuzz")
}

/// The version of cargo-fuzz that is installed.
pub(crate) const CARGO_FUZZ: &str = "0.13.1";

/// The cargo-fuzz that setup built.
pub(crate) fn found() -> Option<PathBuf> {
    let own = toolchain::tools().join("bin/cargo-fuzz");
    own.is_file().then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// cargo-fuzz builds what the manifest names, and the verb runs what is there.
    #[test]
    fn every_target_is_declared_and_has_seeds() {
        let manifest = fs::read_to_string(folder().join("Cargo.toml")).unwrap();
        let targets = targets().unwrap();
        assert!(targets.len() >= 7, "{targets:?}");
        for target in targets {
            assert!(
                manifest.contains(&format!("name = \"{target}\"")),
                "{target}"
            );
            let seeds = folder().join("seeds").join(&target);
            assert!(fs::read_dir(seeds).unwrap().count() > 0, "{target}");
        }
    }
}
