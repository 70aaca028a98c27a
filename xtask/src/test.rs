//! `cargo xtask test`: all tests, in the profile that ships.

use std::{
    env,
    ffi::OsString,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build_ebpf, kernels,
    run::{cargo, is_root, say},
    setup,
};

/// Run all tests, in the release profile
///
/// As root with the BPF toolchain, or with CI or MVP_REQUIRE_ALL set, a test that cannot run is a failure; otherwise
/// tests that need root or the kernel say why they do not run, and pass.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Instead, boot these of Debian's kernels in QEMU and run the kernel part's tests there; without a value the four that
    /// docs/kernel.md has: 5.10, 6.1, 6.12 and the newest
    #[arg(
        long,
        value_name = "SERIES,...",
        num_args = 0..=1,
        value_delimiter = ',',
        default_missing_value = "5.10,6.1,6.12,newest"
    )]
    kernels: Option<Vec<String>>,
    /// With --kernels: the dev profile's binaries, which are sooner built and slower
    #[arg(long, requires = "kernels")]
    dev: bool,
    /// With --kernels: after how many seconds a guest is ended; for a machine that is busy with other work
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 600,
        requires = "kernels"
    )]
    limit: u64,
    /// With --kernels: only cases whose names contain this
    #[arg(long, value_name = "WORDS", requires = "kernels")]
    only: Option<String>,
    /// With --kernels: also the tests on nodes of which one scene, an agent's life, does the same; four times as long
    #[arg(long, requires = "kernels")]
    thorough: bool,
    /// With --kernels: build the BPF programs with a helper that Linux 5.10 lacks, and fail unless a guest with such a kernel fails
    /// and names the helper's program as refused; shows that a run notices a broken program
    #[arg(long, requires = "kernels", conflicts_with = "only")]
    self_test: bool,
    /// With --thorough: write the table into docs/kernel.md
    #[arg(long, requires = "thorough", conflicts_with_all = ["only", "self_test"])]
    record: bool,
    /// Passed on to cargo test as they are, e.g. `-p mvp route`, `--test kernel lookup -- --nocapture`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    if let Some(kernels) = &args.kernels {
        return kernels::run(&kernels::Options {
            kernels,
            dev: args.dev,
            limit: Duration::from_secs(args.limit),
            choice: kernels::cases::Choice {
                only: args.only.as_deref(),
                thorough: args.thorough,
            },
            self_test: args.self_test,
            record: args.record,
        });
    }
    setup::tools_if_possible(false)?;
    let kernel = build_ebpf::if_usable()?;
    let mut test = cargo("test");
    test.args(["--release", "--no-fail-fast"]);
    let chosen = |arg: &OsString| {
        ["-p", "--package", "--workspace"]
            .iter()
            .any(|option| arg == option)
    };
    if !args.args.iter().any(chosen) {
        test.arg("--workspace");
    }
    // clap takes a leading "--" for its own; cargo needs it before libtest's options.
    if env::args_os().nth(2).is_some_and(|first| first == "--") {
        test.arg("--");
    }
    test.args(&args.args);
    if env::var_os("CI").is_some_and(|value| !value.is_empty()) || (kernel && is_root()) {
        test.env("MVP_REQUIRE_ALL", "1");
    }

    let start = Instant::now();
    let mut child = test
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let lines = BufReader::new(child.stdout.take().context("no output")?).split(b'\n');
    let mut totals = Totals::default();
    let mut out = std::io::stdout();
    for line in lines {
        let line = line?;
        totals.add(&String::from_utf8_lossy(&line));
        out.write_all(&line)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    let status = child.wait()?;

    let mode = match (kernel, is_root()) {
        (true, _) => "with the kernel's programs",
        (false, true) => "userspace only: no BPF toolchain",
        (false, false) => "userspace only: not root",
    };
    say(&format!(
        "{}, {} s, {mode}",
        totals.summary(),
        start.elapsed().as_secs()
    ));
    if !status.success() {
        bail!("tests failed ({status})");
    }
    Ok(())
}

/// Sums of libtest's closing lines.
#[derive(Debug, Default, Eq, PartialEq)]
struct Totals {
    suites: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
}

impl Totals {
    /// Takes in a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        let count = |what: &str| {
            let words: Vec<_> = result
                .split([' ', ';'])
                .filter(|word| !word.is_empty())
                .collect();
            words
                .windows(2)
                .find(|pair| pair[1] == what)
                .and_then(|pair| pair[0].parse().ok())
                .unwrap_or(0)
        };
        self.suites += 1;
        self.passed += count("passed");
        self.failed += count("failed");
        self.ignored += count("ignored");
    }

    fn summary(&self) -> String {
        let Self {
            suites,
            passed,
            failed,
            ignored,
        } = self;
        format!("{passed} tests passed, {failed} failed, {ignored} ignored in {suites} suites")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_summed_over_suites() {
        let mut totals = Totals::default();
        totals.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.26s");
        totals.add("test kernel::x ... ok");
        totals.add("test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s");
        assert_eq!(
            totals,
            Totals {
                suites: 2,
                passed: 13,
                failed: 2,
                ignored: 1
            }
        );
    }
}
