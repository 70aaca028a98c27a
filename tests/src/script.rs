//! A script in a language that has a client of Kubernetes, and how such a language is brought here.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A process that does what its script does for a line of input, and answers with a line. Ended when dropped.
pub struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Starts a script with one argument.
    ///
    /// # Panics
    /// There is no such interpreter.
    pub fn start(interpreter: &Path, script: &Path, argument: &Path) -> Self {
        let mut child = Command::new(interpreter)
            .arg(script)
            .arg(argument)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// What the script answers to this line.
    ///
    /// # Errors
    /// The script has ended.
    pub fn answer(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        if self.output.read_line(&mut answer)? == 0 {
            bail!("the script has failed");
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder below target/, made by a program of tests/ that gets the folder and `arguments` and does nothing twice; whoever comes first
/// lets it make the folder. `None`, with a line that says why, where it cannot be had.
///
/// # Panics
/// It cannot be had although everything is required (`CI` is set to something).
pub fn made(name: &str, maker: &str, arguments: &[&Path]) -> Option<PathBuf> {
    match make(name, maker, arguments) {
        Ok(folder) => Some(folder),
        Err(missing) => {
            let required = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
            assert!(!required, "{missing:#}");
            println!("skipped: {name} cannot be had: {missing:#}");
            None
        }
    }
}

/// The folder of the tests' sources.
pub fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn make(name: &str, maker: &str, arguments: &[&Path]) -> Result<PathBuf> {
    let target = tests().with_file_name("target");
    std::fs::create_dir_all(&target)?;
    let lock = File::create(target.join(format!("{name}.lock")))?;
    lock.lock()?;
    let folder = target.join(name);
    let output = Command::new(tests().join(maker))
        .arg(&folder)
        .args(arguments)
        .output()
        .context(maker.to_owned())?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{}",
            said.trim()
                .lines()
                .last()
                .unwrap_or("it failed without a word")
        );
    }
    Ok(folder)
}
