//! `cargo xtask test --kernels`: the kernel part's tests on other kernels than the machine's own. Each of Debian's kernels is
//! booted in QEMU without KVM, so that it works in a container too, with nothing but an initramfs: busybox, `ip`, the built tests
//! and the kernel's own modules. The guest has no network device; its tests use loopback and namespaces that they make.

pub(crate) mod cases;
mod guest;
mod initramfs;
mod packages;
mod record;
mod report;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build_ebpf,
    run::{cargo, root, say},
    setup,
};

/// What is asked for.
pub(crate) struct Options<'a> {
    /// Series such as `5.10`, or `newest`.
    pub kernels: &'a [String],
    /// The dev profile's binaries instead of the release profile's.
    pub dev: bool,
    /// After which a guest is killed.
    pub limit: Duration,
    /// Which cases.
    pub choice: cases::Choice<'a>,
    /// A broken program is to be noticed.
    pub self_test: bool,
    /// The table is to be written into the documentation.
    pub record: bool,
}

/// The case in which a broken program is noticed.
const SELF_TEST_CASE: &str = "steering, IPv4 and IPv6";

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

/// Boots every kernel, and prints a table kernel by case.
///
/// # Errors
/// If a case fails, falls back where the table says that it works, or works where the table says that it falls back; if a guest
/// does not come to its end within the limit; if a kernel or a tool cannot be had.
pub(crate) fn run(options: &Options<'_>) -> Result<()> {
    setup::apt_install(&TOOLS)?;
    if !build_ebpf::if_usable()? {
        bail!(
            "the kernel part's tests need the BPF object: `cargo xtask setup` says what is missing"
        );
    }
    let broken = options.self_test.then(build_ebpf::too_new).transpose()?;
    let programs = build(options.dev, broken.as_deref())?;
    let start = Instant::now();
    let mut choice = options.choice;
    if broken.is_some() {
        choice.only = Some(SELF_TEST_CASE);
    }
    let cases = choice.cases();
    if cases.is_empty() {
        bail!(
            "no case has such a name: {}",
            choice.only.unwrap_or_default()
        );
    }
    let base = initramfs::base(&programs, &guest::script(&programs, choice))?;
    let mut guests = Vec::new();
    for series in options.kernels {
        let kernel = packages::kernel(series)?;
        let image = initramfs::with_modules(&base, &kernel)?;
        guests.push((kernel, image));
    }
    let reports = boot_all(&guests, &cases, options.limit)?;
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
    if options.record {
        record::write(&reports)?;
    }
    let failed: Vec<_> = reports
        .iter()
        .filter(|report| report.failed())
        .map(|report| report.version.as_str())
        .collect();
    if options.self_test {
        // The object is as it should be for whatever is built next.
        return noticed(&reports);
    }
    if !failed.is_empty() {
        bail!("not as the table says on Linux {}", failed.join(", "));
    }
    Ok(())
}

/// Boots every guest, as many at a time as there are processors: a guest has one, which keeps one of the machine's busy. A guest's clock
/// goes by its own instructions, so that its tests do not notice the others. The reports are in the order of the guests.
fn boot_all(
    guests: &[(packages::Kernel, PathBuf)],
    cases: &[&'static cases::Case],
    limit: Duration,
) -> Result<Vec<report::Report>> {
    let next = AtomicUsize::new(0);
    let boot_some = || {
        let mut reports = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some((kernel, image)) = guests.get(index) else {
                return Ok(reports);
            };
            say(&format!(
                "booting Linux {} ({})",
                kernel.version, kernel.series
            ));
            let report = guest::boot(kernel, image, cases, limit)?;
            let seconds = report.took.as_secs();
            say(&format!("Linux {}: {seconds} s", kernel.version));
            reports.push((index, report));
        }
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let mut reports = thread::scope(|scope| {
        let threads: Vec<_> = (0..processors.min(guests.len()))
            .map(|_| scope.spawn(boot_some))
            .collect();
        let mut reports = Vec::new();
        for thread in threads {
            let some: Result<Vec<_>> = thread
                .join()
                .unwrap_or_else(|_| bail!("a thread that boots guests panicked"));
            reports.extend(some?);
        }
        anyhow::Ok(reports)
    })?;
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

/// Whether every guest failed for the reason for which it should.
fn noticed(reports: &[report::Report]) -> Result<()> {
    for report in reports {
        let refused =
            |line: &String| line.contains("sk_lookup program") || line.contains("unknown func");
        if !report.failed() || !report.details().iter().any(refused) {
            bail!(
                "Linux {} did not refuse a program with a helper that it should not have: the run would not notice a broken program",
                report.version
            );
        }
    }
    say("every guest refused the broken program, and the run failed for it");
    Ok(())
}

/// Builds the test programs, and the binaries that they start, and tells where they are.
fn build(dev: bool, object: Option<&Path>) -> Result<Programs> {
    let mut test = cargo("test");
    if let Some(object) = object {
        test.env("MVP_EBPF_OBJECT", object);
    }
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
pub(crate) struct Programs {
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
    fn a_self_test_wants_the_guest_to_refuse_the_program_and_nothing_else() {
        let cases = cases::Choice {
            only: Some(SELF_TEST_CASE),
            thorough: false,
        }
        .cases();
        assert_eq!(cases.len(), 1);
        let with = |failures: &[&str]| {
            let mut report = report::Report::new("5.10", "5.10.1", &cases);
            let mut outcome = report::Outcome::default();
            outcome
                .failures
                .extend(failures.iter().map(|line| (*line).to_owned()));
            report.cases.insert(SELF_TEST_CASE, outcome);
            noticed(&[report])
        };
        assert!(with(&["the kernel does not accept loading the sk_lookup program"]).is_ok());
        assert!(with(&["cannot connect"]).is_err());
        assert!(with(&[]).is_err(), "all passed");
    }

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
