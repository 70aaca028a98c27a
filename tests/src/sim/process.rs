//! A server in a process of its own, so that it can be killed and stopped by signal.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command as Process, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::unix::pipe,
    sync::Mutex,
};

use super::{
    control::{Command, Outcome},
    pki::Pki,
    server::ServerSpec,
};

/// A running `mvp-sim server`. Dropping it kills it.
#[derive(Debug)]
pub struct ChildServer {
    name: String,
    address: SocketAddr,
    child: Child,
    control: Mutex<Control>,
}

#[derive(Debug)]
struct Control {
    commands: pipe::Sender,
    answers: Lines<BufReader<pipe::Receiver>>,
}

/// Looks, a millisecond apart, until a process has to have stopped.
const PAUSES: u32 = 10_000;

impl ChildServer {
    /// Runs `binary` (mvp-sim) and waits until it serves. `store` is the socket of a [`super::store::Host`].
    pub async fn spawn(binary: &Path, spec: &ServerSpec, pki: &Pki, store: &Path) -> Result<Self> {
        let mut process = Process::new(binary);
        process
            .arg("server")
            .args(["--name", &spec.name, "--minor", &spec.minor.to_string()]);
        process.args(["--listen", &spec.listen.to_string()]);
        if let Some(address) = spec.advertise {
            process.args(["--advertise", &address.to_string()]);
        }
        process.args([
            "--max-concurrent-streams",
            &spec.max_concurrent_streams.to_string(),
        ]);
        process.args(["--crd-delay-ms", &spec.crd_delay.as_millis().to_string()]);
        process.args(["--lingers-ms", &spec.lingers.as_millis().to_string()]);
        let names = serde_json::to_string(&spec.header_names)?;
        process.args(["--header-names", &names]);
        process.args(["--log-capacity", &spec.log_capacity.to_string()]);
        process
            .arg("--pki")
            .arg(pki.dir())
            .arg("--store")
            .arg(store);
        for (flag, on) in [
            ("--all-apis", spec.all_apis),
            ("--all-gates", spec.all_gates),
            ("--http1-only", spec.http1_only),
        ] {
            if on {
                process.arg(flag);
            }
        }
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process
            .spawn()
            .with_context(|| format!("run {}", binary.display()))?;
        let stdin = child.stdin.take().context("stdin")?;
        let stdout = child.stdout.take().context("stdout")?;
        let commands = pipe::Sender::from_owned_fd(OwnedFd::from(stdin))?;
        let answers = BufReader::new(pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?).lines();
        let mut control = Control { commands, answers };
        let address = match control.answer().await {
            Ok(address) => serde_json::from_value(address)?,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error.context(format!("server {}", spec.name)));
            }
        };
        Ok(Self {
            name: spec.name.clone(),
            address,
            child,
            control: Mutex::new(control),
        })
    }

    /// The name of its server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// `https://` and the address.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command and waits for its outcome.
    pub async fn command(&self, command: &Command) -> Result<Value> {
        let mut control = self.control.lock().await;
        let line = serde_json::to_string(command)? + "\n";
        control.commands.write_all(line.as_bytes()).await?;
        control.answer().await
    }

    /// SIGSTOP: the kernel goes on accepting connections, nobody answers them. Waits until every thread has stopped: on a busy machine
    /// one that computes goes on until it is its turn to notice.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        for _ in 0..PAUSES {
            if self.is_stopped()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("process {} does not stop", self.pid())
    }

    fn is_stopped(&self) -> Result<bool> {
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            // The state is behind the name, which is in parentheses (proc(5)).
            if !stat
                .rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, signal)?)
    }
}

impl Drop for ChildServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Control {
    async fn answer(&mut self) -> Result<Value> {
        let line = self
            .answers
            .next_line()
            .await?
            .context("the server process ended")?;
        let outcome: Outcome = serde_json::from_str(&line).with_context(|| line.clone())?;
        outcome.map_err(|error| anyhow!(error))
    }
}
