//! The real kubectl, with a home of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs `$KUBECTL`, else the one on PATH, with one kubeconfig and nothing of the user's own settings.
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: TempDir,
}

impl Kubectl {
    /// `None`, with a line that says so, where there is no kubectl.
    ///
    /// # Panics
    /// There is none although everything is required (`CI` or `MVP_REQUIRE_ALL` is set).
    pub fn find(kubeconfig: &Path) -> Option<Self> {
        let binary = PathBuf::from(std::env::var_os("KUBECTL").unwrap_or("kubectl".into()));
        let works = Command::new(&binary)
            .args(["version", "--client"])
            .output()
            .is_ok_and(|output| output.status.success());
        if !works {
            let required = ["CI", "MVP_REQUIRE_ALL"]
                .iter()
                .any(|name| std::env::var_os(name).is_some());
            assert!(!required, "{} does not run", binary.display());
            println!("skipped: {} does not run (set KUBECTL)", binary.display());
            return None;
        }
        Some(Self {
            binary,
            kubeconfig: kubeconfig.to_owned(),
            home: TempDir::new().unwrap(),
        })
    }

    /// A command that uses no configuration of this machine's user.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .env_remove("HTTPS_PROXY");
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(self.home.path().join("cache"));
        command.args(args);
        command
    }

    /// Runs a command to its end, whatever comes of it; `input` is its standard input.
    pub fn output(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // kubectl may have failed before it read anything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Standard output of a command that must succeed.
    pub fn run(&self, args: &[&str], input: &str) -> String {
        let output = self.output(args, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {args:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that must fail.
    pub fn refused(&self, args: &[&str], input: &str) -> String {
        let output = self.output(args, input);
        assert!(!output.status.success(), "kubectl {args:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }
}
