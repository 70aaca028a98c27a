//! `cargo xtask dist`: everything that an installation needs, in one archive.

mod archive;
mod cross;
mod pgo;
mod sbom;
mod trial;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build_ebpf,
    run::{cargo, output, root, run, say},
};

/// Pack the agent with what installs it: unit, manifests, chart, completion, manual pages, SBOM, checksums
///
/// The same commit gives the same archive, byte for byte, where compiler and C compiler are the same, but not with --pgo.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Build for another machine, such as aarch64-unknown-linux-gnu
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Cargo's profile: dist is what ships; release and dev are sooner built
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Build nothing and pack this agent
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Where the archive goes, and a folder with what is in it; default: target/package
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Build for the way that code goes under the forwarding benchmark's load, which is run for that
    #[arg(long, conflicts_with_all = ["binary", "target"])]
    pgo: bool,
    /// Run the agent for another machine in an emulator before it is packed
    #[arg(long = "try", requires = "target")]
    trial: bool,
    /// Pack an agent that has no kernel part, which steers nothing
    #[arg(long)]
    without_kernel_part: bool,
}

/// Folders and files of the repository that are packed under their own names.
const AS_THEY_ARE: &[&str] = &["CHANGELOG.md", "LICENSE", "README.md", "deploy", "docs"];
/// For building images, which nobody does from the archive.
const LEFT_OUT: &[&str] = &["deploy/Dockerfile"];

pub(crate) fn main(args: &Args) -> Result<()> {
    let host = host()?;
    let target = args.target.clone().unwrap_or_else(|| host.clone());
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => {
            if !args.without_kernel_part {
                build_ebpf::main(&build_ebpf::Args {})?;
            }
            match args.pgo {
                true => pgo::build(&args.profile, &target)?,
                false => build(&args.profile, (target != host).then_some(&*target))?,
            }
        }
    };
    // Manual pages and completion are told by the agent itself, so by one that runs here.
    let teller = match target == host {
        true => binary.clone(),
        false => build(&args.profile, None)?,
    };
    if !args.without_kernel_part {
        has_kernel_part(&binary)?;
    }

    let output = args
        .output
        .clone()
        .unwrap_or_else(|| root().join("target/package"));
    let name = format!("mvp-{}-{}", env!("CARGO_PKG_VERSION"), system(&target)?);
    let stage = output.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("{}", stage.display()))?;
    }
    let into = |path: &str| -> Result<PathBuf> {
        let path = stage.join(path);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        Ok(path)
    };

    let agent = into("bin/mvp")?;
    run(Command::new(cross::tool(&target, "strip"))
        .arg("-o")
        .args([&agent, &binary]))?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
    if args.trial && target != host {
        trial::run_emulated(&target, &agent, !args.without_kernel_part)?;
    }
    for path in tracked()? {
        let to = into(&path)?;
        fs::copy(root().join(&path), &to).with_context(|| path.clone())?;
    }
    let unit = into("lib/systemd/system/mvp.service")?;
    fs::rename(stage.join("deploy/mvp.service"), unit)?;
    for (shell, path) in [
        ("bash", "share/bash-completion/completions/mvp"),
        ("zsh", "share/zsh/site-functions/_mvp"),
        ("fish", "share/fish/vendor_completions.d/mvp.fish"),
    ] {
        let script = tell(&teller, &["completion", shell])?;
        fs::write(into(path)?, script)?;
    }
    let pages = into("share/man/man1/mvp.1")?;
    let pages = pages.parent().context("no folder")?;
    tell(&teller, &["man", &pages.display().to_string()])?;

    let epoch = archive::epoch();
    fs::write(into("sbom.cdx.json")?, sbom::document(&target, epoch)?)?;
    archive::checksums(&stage)?;
    let packed = archive::pack(&output, &name, epoch)?;
    say(&format!("{}", packed.display()));
    Ok(())
}

/// The agent, built for `target` or for this machine.
fn build(profile: &str, target: Option<&str>) -> Result<PathBuf> {
    let mut build = cargo("build");
    build.args(["--profile", profile, "--bin", "mvp"]);
    let mut folder = root().join("target");
    if let Some(target) = target {
        cross::prepare(&mut build, target)?;
        folder.push(target);
    }
    run(&mut build)?;
    // Cargo's name for the folder of its profile `dev`.
    folder.push(if profile == "dev" { "debug" } else { profile });
    Ok(folder.join("mvp"))
}

/// What is packed must steer: the BPF object is inside the binary as it is.
fn has_kernel_part(binary: &Path) -> Result<()> {
    let path = build_ebpf::object();
    let object = fs::read(&path).with_context(|| {
        format!(
            "no kernel part: {} (cargo xtask build-ebpf)",
            path.display()
        )
    })?;
    let agent = fs::read(binary).with_context(|| format!("{}", binary.display()))?;
    // A comparison at every place takes too long: only where its first bytes are.
    let (head, _) = object.split_at(object.len().min(64));
    let mut rest = &agent[..];
    while let Some(at) = find(rest, head) {
        if rest[at..].starts_with(&object) {
            return Ok(());
        }
        rest = &rest[at + 1..];
    }
    bail!(
        "{} has no kernel part, or an older one than {}: it would steer nothing (--without-kernel-part packs it all the same)",
        binary.display(),
        path.display()
    )
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let mut from = 0;
    while let Some(at) = text.get(from..)?.iter().position(|byte| *byte == first) {
        if text[from + at..].starts_with(part) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The files of [`AS_THEY_ARE`] that belong to the repository: not what an editor has left there. Without git, as where an image is
/// built, all of them.
fn tracked() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.arg("-C").arg(root()).args(["ls-files", "--"]);
    let mut files: Vec<String> = match output(git.args(AS_THEY_ARE)) {
        Some(listed) => listed.lines().map(str::to_owned).collect(),
        None => {
            let mut found = Vec::new();
            for path in AS_THEY_ARE {
                archive::files(&root(), &root().join(path), &mut found)?;
            }
            found
        }
    };
    files.retain(|path| !LEFT_OUT.contains(&path.as_str()));
    files.sort();
    Ok(files)
}

/// What the agent prints.
fn tell(agent: &Path, args: &[&str]) -> Result<String> {
    let told = Command::new(agent)
        .args(args)
        .output()
        .with_context(|| format!("{}", agent.display()))?;
    if !told.status.success() {
        bail!("{} {}: {}", agent.display(), args.join(" "), told.status);
    }
    Ok(String::from_utf8(told.stdout)?)
}

fn host() -> Result<String> {
    let version = output(Command::new("rustc").args(["--version", "--verbose"]));
    let version = version.context("rustc does not start")?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("rustc does not tell its host")?;
    Ok(host.to_owned())
}

/// As Kubernetes and its tools write it.
fn system(target: &str) -> Result<String> {
    Ok(format!("linux-{}", machine(target)?))
}

/// The processor, as Go and Debian call it.
fn machine(target: &str) -> Result<&'static str> {
    Ok(match target.split('-').next() {
        Some("x86_64") => "amd64",
        Some("aarch64") => "arm64",
        _ => bail!("{target}: the agent is built for x86_64 and aarch64 only"),
    })
}
