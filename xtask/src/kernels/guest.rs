//! The guest: what it runs, how it says so on its serial line, and QEMU.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::run::say;

use super::{
    Programs,
    cases::{CASES, Case, Choice},
    packages::Kernel,
    report::{Outcome, Report},
};

/// Before anything that the guest has to say; all other lines are the kernel's or a test's.
const MARK: &str = "@mvp ";

/// The guest's first and only script.
pub(super) fn script(programs: &Programs, choice: Choice<'_>) -> String {
    let mut text = PREPARE.to_owned();
    let mut loaded = false;
    for case in choice.cases() {
        if !case.before_modules && !loaded {
            text.push_str(LOAD_DIAGNOSIS);
            loaded = true;
        }
        let _ = writeln!(text, "begin {}", quoted(case.name));
        for run in choice.runs(case) {
            let program = programs.tests.iter().find(|(name, _)| *name == run.program);
            let Some((_, path)) = program else { continue };
            let tests = run.tests.join(" ");
            let _ = writeln!(text, "run {} {tests}", path.display());
        }
        let _ = writeln!(text, "end");
    }
    text.push_str(END);
    text
}

/// One word of a shell's, whatever is in it.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// File systems, addresses, and the functions that run a case. What a test prints comes to the serial line only if it fails: the
/// line is slow.
const PREPARE: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
exec </dev/null >/dev/ttyS0 2>&1
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/bin HOME=/ TMPDIR=/tmp MVP_REQUIRE_ALL=1 RUST_BACKTRACE=0
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
begin() {
    echo "@mvp begin $1"
}
run() {
    program=$1
    shift
    : >/tmp/output
    "$program" --exact --nocapture --test-threads=1 "$@" >/tmp/output 2>&1
    code=$?
    # What a test prints first stands behind its name.
    sed 's/^test [^ ]* \.\.\. //' /tmp/output | grep -e '^falls back: ' -e '^note: ' | grep -v '^note: run with' | sed 's/^/@mvp said /'
    passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' /tmp/output)
    if [ "$code" != 0 ] || [ "$passed" != $# ]; then
        echo "@mvp failed $code, ${passed:-none} of $# passed"
        tail -n 60 /tmp/output | cut -c 1-400 | sed 's/^/@mvp | /'
    fi
}
end() {
    echo "@mvp end"
}
load() {
    for module in $(cat "/modules/$1"); do
        insmod "/modules/$module.ko" || echo "@mvp failed module $module"
    done
}
load first
export MVP_TEST_WITHOUT_DIAG=1
echo "@mvp up"
"#;

const LOAD_DIAGNOSIS: &str = "
load diagnosis
unset MVP_TEST_WITHOUT_DIAG
";

const END: &str = r#"
echo "@mvp done"
poweroff -f
"#;

/// Boots the kernel, and reads what the guest says until it ends or the time is over.
///
/// # Errors
/// If QEMU cannot be started. Whatever happens in the guest is in the report.
pub(super) fn boot(
    kernel: &Kernel,
    image: &Path,
    cases: &[&'static Case],
    limit: Duration,
) -> Result<Report> {
    let started = Instant::now();
    let vmlinuz = kernel.file("vmlinuz")?;
    let mut qemu = Command::new("qemu-system-x86_64");
    // "max" has what Rust's and the kernel's own code look for; without 5-level page tables and without the string instructions
    // that are fast on a real processor, and are carried out byte by byte here.
    qemu.args([
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "max,la57=off,erms=off,fsrm=off",
    ]);
    // The guest's clock goes by its instructions, a nanosecond each, and leaps over what it would sleep: no time-out of a test depends on
    // how busy this machine is, and a wait costs nothing.
    qemu.args(["-icount", "shift=0,sleep=off"]);
    qemu.args(["-smp", "1", "-m", "3072M", "-no-reboot", "-nodefaults"]);
    qemu.args(["-display", "none", "-serial", "stdio", "-net", "none"]);
    qemu.arg("-kernel").arg(&vmlinuz).arg("-initrd").arg(image);
    qemu.args([
        "-append",
        "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr random.trust_cpu=on \
         init_on_alloc=0 nowatchdog audit=0 apparmor=0 rcupdate.rcu_expedited=1 rdinit=/init",
    ]);
    let mut child = qemu
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let serial = child.stdout.take().context("QEMU has no output")?;
    let mut complaints = child.stderr.take().context("QEMU has no error output")?;
    let (lines, said) = channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(serial).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let mut hearing = Hearing::new(kernel, cases, started);
    loop {
        match said.recv_timeout(limit.saturating_sub(started.elapsed())) {
            Ok(line) => hearing.take(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                hearing.late(limit);
                break;
            }
        }
    }
    // It may have ended by itself.
    let _ = child.kill();
    child.wait()?;
    let _ = reader.join();
    let mut text = String::new();
    complaints.read_to_string(&mut text)?;
    Ok(hearing.report(&text))
}

/// Makes a report of what is heard.
struct Hearing {
    report: Report,
    started: Instant,
    /// The case under way, and when it began.
    case: Option<(&'static Case, Instant)>,
    outcome: Outcome,
    done: bool,
    /// The last lines that were not the guest's script's: a kernel that panics says so there.
    other: Vec<String>,
}

impl Hearing {
    fn new(kernel: &Kernel, cases: &[&'static Case], started: Instant) -> Self {
        Self {
            report: Report::new(&kernel.series, &kernel.version, cases),
            started,
            case: None,
            outcome: Outcome::default(),
            done: false,
            other: Vec::new(),
        }
    }

    fn take(&mut self, line: &str) {
        // The kernel's own lines may stand before a mark.
        let Some((_, said)) = line.split_once(MARK) else {
            self.other.push(line.to_owned());
            if self.other.len() > 30 {
                self.other.remove(0);
            }
            return;
        };
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "begin" => {
                let case = CASES.iter().find(|case| case.name == rest);
                self.case = case.map(|case| (case, Instant::now()));
                self.outcome = Outcome::default();
            }
            "said" => {
                if let Some(why) = rest.strip_prefix("falls back: ") {
                    self.outcome.falls_back.push(why.to_owned());
                } else {
                    self.outcome
                        .notes
                        .push(rest.trim_start_matches("note: ").to_owned());
                }
            }
            // Before the first case: what all of them need is not there.
            "failed" if self.case.is_none() => {
                self.report.broken = Some(format!("the guest is not prepared: {rest}"));
            }
            "failed" | "|" => self.outcome.failures.push(rest.to_owned()),
            "end" => self.ended(),
            "done" => self.done = true,
            _ => {}
        }
    }

    fn ended(&mut self) {
        let Some((case, began)) = self.case.take() else {
            return;
        };
        self.outcome.took = began.elapsed();
        say(&format!(
            "{}: {}: {}, {:.1} s",
            self.report.version,
            case.name,
            self.outcome.word(),
            self.outcome.took.as_secs_f64()
        ));
        self.report
            .cases
            .insert(case.name, std::mem::take(&mut self.outcome));
    }

    fn late(&mut self, limit: Duration) {
        let under_way = self.case.map_or("nothing", |(case, _)| case.name);
        self.report.broken = Some(format!(
            "not done after {} s; under way: {under_way}",
            limit.as_secs()
        ));
    }

    fn report(mut self, complaints: &str) -> Report {
        if !self.done && self.report.broken.is_none() {
            let last = self.other.join("\n");
            self.report.broken = Some(format!("ended early: {complaints}{last}"));
        }
        self.report.took = self.started.elapsed();
        self.report
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn hearing() -> Hearing {
        let kernel = Kernel {
            series: "5.10".into(),
            version: "5.10.1".into(),
            release: "5.10.0-1-cloud-amd64".into(),
            files: PathBuf::new(),
        };
        Hearing::new(&kernel, &Choice::default().cases(), Instant::now())
    }

    /// Some names of cases have an apostrophe.
    #[test]
    fn a_shell_reads_the_script_and_the_names_as_they_are() {
        let programs = Programs {
            tests: Vec::new(),
            started: Vec::new(),
        };
        for thorough in [false, true] {
            let choice = Choice {
                thorough,
                ..Choice::default()
            };
            let script = script(&programs, choice);
            let begins = script.lines().filter(|line| line.starts_with("begin '"));
            let mut said = String::from("begin() { echo \"$1\"; }\n");
            begins.for_each(|line| said += &format!("{line}\n"));
            let syntax = Command::new("sh").args(["-n", "-c", &script]).status();
            assert!(syntax.unwrap().success(), "{script}");
            let names = Command::new("sh").args(["-c", &said]).output().unwrap();
            let names = String::from_utf8(names.stdout).unwrap();
            let expected: Vec<_> = choice.cases().iter().map(|case| case.name).collect();
            assert_eq!(names.lines().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn what_the_guest_says_becomes_a_report() {
        let mut hearing = hearing();
        for line in [
            "[    0.1] something",
            "@mvp up",
            "@mvp begin doctor",
            "[   9.1] late: @mvp said falls back: sockmap: slow reader",
            "@mvp end",
            "@mvp begin steering idle",
            "@mvp failed 101, none of 1 passed",
            "@mvp | panicked",
            "@mvp end",
            "@mvp done",
        ] {
            hearing.take(line);
        }
        let report = hearing.report("");
        assert_eq!(report.cases["doctor"].falls_back, ["sockmap: slow reader"]);
        assert!(report.cases["doctor"].failures.is_empty());
        assert_eq!(report.cases["steering idle"].failures.len(), 2);
        assert!(report.broken.is_none());
        assert!(report.failed());
    }

    #[test]
    fn a_module_that_cannot_be_loaded_is_a_failure_of_the_guest() {
        let mut hearing = hearing();
        for line in ["@mvp failed module veth", "@mvp up", "@mvp done"] {
            hearing.take(line);
        }
        let report = hearing.report("");
        assert!(
            report
                .broken
                .as_ref()
                .is_some_and(|why| why.contains("veth"))
        );
        assert!(report.failed());
    }

    #[test]
    fn a_guest_that_ends_early_is_a_failure() {
        let mut hearing = hearing();
        hearing.take("Kernel panic - not syncing");
        let report = hearing.report("");
        assert!(
            report
                .broken
                .as_ref()
                .is_some_and(|why| why.contains("panic"))
        );
        assert!(report.failed());
    }
}
