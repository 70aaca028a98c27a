//! `cargo xtask test --kernels`: the kernel part's tests on other kernels than the machine's own. Each of Debian's kernels is
//! booted in QEMU without KVM, so that it works in a container too, with nothing but an initramfs: busybox, `ip`, the built tests
//! and the kernel's own modules. The guest has no network device; its tests use loopback and namespaces that they make.

mod cases;
mod guest;
mod initramfs;
mod packages;
mod report;

use std::{path::PathBuf, time::Duration, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    build_ebpf,
    run::{cargo, root, say},
    setup,
};

/// What is asked for.
pub struct Options<'a> {
    /// Series such as `5.10`, or `newest`.
    pub kernels: &'a [String],
    /// The dev profile's binaries instead of the release profile's.
    pub dev: bool,
    /// After which a guest is killed.
    pub limit: Duration,
}

/// Debian packages, with what of them is run.
const TOOLS: [&str; 5] = [
    "qemu-system-x86",
    "busybox-static",
    "cpio",
    "iproute2",
    "binutils",
];

/// Test programs with cases in [`cases::CASES`].
const PROGRAMS: [&str; 4] = ["kernel", "nodes", "relay", "splicing"];

/// Boots every kernel, one after the other, and prints a table kernel by case.
///
/// # Errors
/// If a case fails, falls back where the table says that it works, or works where the table says that it falls back; if a guest
/// does not come to its end within the limit; if a kernel or a tool cannot be had.
pub fn run(options: &Options<'_>) -> Result<()> {
    setup::apt_install(&TOOLS)?;
    if !build_ebpf::if_usable()? {
        bail!(
            "the kernel part's tests need the BPF object: `cargo xtask setup` says what is missing"
        );
    }
    let programs = build(options.dev)?;
    let start = Instant::now();
    let base = initramfs::base(&programs)?;
    let mut reports = Vec::new();
    for series in options.kernels {
        let kernel = packages::kernel(series)?;
        let image = initramfs::with_modules(&base, &kernel)?;
        say(&format!("booting Linux {} ({series})", kernel.version));
        let report = guest::boot(&kernel, &image, options.limit)?;
        say(&format!(
            "Linux {}: {} s",
            kernel.version,
            report.took.as_secs()
        ));
        reports.push(report);
    }
    println!("{}", report::table(&reports));
    for report in &reports {
        for line in report.details() {
            println!("{line}");
        }
    }
    say(&format!(
        "{} kernels, {} s",
        reports.len(),
        start.elapsed().as_secs()
    ));
    let failed: Vec<_> = reports
        .iter()
        .filter(|report| report.failed())
        .map(|report| report.version.as_str())
        .collect();
    if !failed.is_empty() {
        bail!("not as the table says on Linux {}", failed.join(", "));
    }
    Ok(())
}

/// Builds the test programs, and the binaries that they start, and tells where they are.
fn build(dev: bool) -> Result<Programs> {
    let mut test = cargo("test");
    test.arg("--no-run");
    if !dev {
        test.arg("--release");
    }
    for program in PROGRAMS {
        test.args(["--test", program]);
    }
    say("building the tests");
    // So that the paths in its answer are relative to a known folder.
    test.current_dir(root());
    let output = test.output().context("cannot start cargo test")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the tests cannot be built:\n{text}");
    }
    let tests = executables(&text)
        .into_iter()
        .map(|path| root().join(path))
        .collect::<Vec<_>>();
    if tests.len() != PROGRAMS.len() {
        bail!("cargo names {} test programs: {text}", tests.len());
    }
    let profile = tests
        .first()
        .and_then(|test| test.parent()?.parent())
        .map_or_else(|| root().join("target/release"), PathBuf::from);
    Ok(Programs {
        tests: PROGRAMS.iter().copied().zip(tests).collect(),
        started: ["mvp-agent", "mvp-sim"]
            .map(|name| profile.join(name))
            .to_vec(),
    })
}

/// What was built.
pub struct Programs {
    /// Test programs by name, in the order of [`PROGRAMS`].
    pub tests: Vec<(&'static str, PathBuf)>,
    /// What they start, by the path that is compiled into them.
    pub started: Vec<PathBuf>,
}

/// The paths in cargo's lines of the form `Executable tests/kernel/main.rs (target/debug/deps/kernel-0123456789abcdef)`, in the
/// order of [`PROGRAMS`].
fn executables(text: &str) -> Vec<&str> {
    let path_of = |program: &&str| {
        let source = format!("tests/{program}/main.rs (");
        let line = text.lines().find(|line| line.contains(&source))?;
        line.rsplit_once('(')?.1.strip_suffix(')')
    };
    PROGRAMS.iter().filter_map(path_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_are_found_in_what_cargo_says() {
        let text = "  Executable tests/splicing/main.rs (target/debug/deps/splicing-9b)\n  Executable tests/kernel/main.rs \
                    (target/debug/deps/kernel-0a)\n  Executable tests/nodes/main.rs (/x/deps/nodes-1)\n  Executable tests/relay/main.rs (target/debug/deps/relay-2)\n";
        assert_eq!(
            executables(text),
            [
                "target/debug/deps/kernel-0a",
                "/x/deps/nodes-1",
                "target/debug/deps/relay-2",
                "target/debug/deps/splicing-9b"
            ]
        );
    }
}
