//! `cargo xtask manifests`: the manifests of deploy/, from its chart.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{
    python,
    run::{root, say},
};

/// Make the plain manifests of deploy/ from its chart, with Helm's own library
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if one differs
    #[arg(long)]
    check: bool,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let mut helm = Command::new(python::HELM.interpreter(false)?)
        .arg(root().join("tests/helm/render.py"))
        .arg(root().join("deploy/chart"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("Helm's library")?;
    let mut input = helm.stdin.take().context("no input")?;
    input.write_all(b"{\"plain\": null}\n")?;
    drop(input);
    let told: Value = serde_json::from_slice(&helm.wait_with_output()?.stdout)?;
    let Some(files) = told["files"].as_object() else {
        bail!("{}", told["error"].as_str().unwrap_or("no answer"));
    };
    let mut differ = Vec::new();
    for (name, text) in files {
        let path = root().join("deploy").join(name);
        let text = text.as_str().unwrap_or_default();
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if !args.check {
            fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
            say(&format!("{}", path.display()));
        }
        differ.push(name.as_str());
    }
    if args.check && !differ.is_empty() {
        bail!(
            "{} differ from the chart: cargo xtask manifests makes them anew",
            differ.join(", ")
        );
    }
    Ok(())
}
