//! A child process that listens, is measured, and is ended by its own id.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Ended when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `dir/NAME.log`.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("file {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self {
            name: name.into(),
            child,
            log,
        })
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process accepts connections on `address`.
    ///
    /// # Errors
    /// It ended, or did not listen within 20 s; the message holds the end of what it wrote.
    pub fn wait_listening(&mut self, address: SocketAddr) -> Result<()> {
        self.wait_until("listen", || TcpStream::connect(address).is_ok())
    }

    /// Polls `condition` for at most 20 s while the process lives. `what` completes "did not … within 20 s".
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if condition() {
                return Ok(());
            }
            self.check()?;
            if Instant::now() > deadline {
                bail!(
                    "{} did not {what} within 20 s:\n{}",
                    self.name,
                    self.output()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// # Errors
    /// The process ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended ({status}):\n{}", self.name, self.output());
        }
        Ok(())
    }

    /// CPU time of all its threads, also of those that ended.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        cpu_ticks(&stat)
            .map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
            .with_context(|| format!("/proc/PID/stat has another shape than proc(5) says: {stat}"))
    }

    /// The end of what it wrote.
    pub fn output(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `name` in one of the folders of PATH or in /usr/sbin, where Debian keeps daemons.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// USER_HZ, which is 100 in Linux' interface to userspace on every architecture that kube-apiserver runs on.
const TICKS_PER_SECOND: u64 = 100;

/// utime + stime of a `/proc/PID/stat` line. The second field may hold blanks and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_hostile_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 17 25 3 4 20 0 1 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn a_child_that_ends_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option >&2; exit 3"]);
        let mut process = Process::start("child", command, dir.path()).unwrap();
        let error = process
            .wait_until("start", || false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no such option"),
            "{error}"
        );
    }
}
