//! An agent as a process of its own: for its memory, its signals and its exit code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::agent::{eventually, http2_client, http2_server, settings};
use crate::client::Client;
use crate::fixtures::SOON;
use crate::operator;
use crate::ports::free_port;
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;

/// An agent with the local server `node` and all other servers of the plane as peers. Killed when dropped.
pub struct ChildAgent {
    child: Child,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its read-only port.
    pub admin: SocketAddr,
    /// Where operators ask it.
    pub socket: PathBuf,
    dir: TempDir,
}

/// Resident memory in bytes, of `/proc/PID/status` (proc(5)).
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// VmRSS.
    pub now: u64,
    /// VmHWM.
    pub peak: u64,
}

impl ChildAgent {
    /// Runs `binary` (mvp-agent) with the usual configuration as `change` leaves it, and waits until it is ready.
    pub async fn start(
        binary: &str,
        plane: &ControlPlane,
        node: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        Self::start_with(binary, plane, node, &["--log-level", "warn"], change).await
    }

    /// The same with flags of `mvp agent`.
    pub async fn start_with(
        binary: &str,
        plane: &ControlPlane,
        node: &str,
        flags: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        Self::run(Command::new(binary), plane, node, flags, change).await
    }

    /// An agent with these soft and hard limits of open descriptors (prlimit(1)).
    pub async fn start_limited(
        binary: &str,
        plane: &ControlPlane,
        node: &str,
        (soft, hard): (u64, u64),
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={soft}:{hard}")).arg(binary);
        let flags = ["--log-level", "warn"];
        Self::run(command, plane, node, &flags, change).await
    }

    async fn run(
        mut command: Command,
        plane: &ControlPlane,
        node: &str,
        flags: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (address, admin) = (free_port("127.0.0.1")?, free_port("127.0.0.1")?);
        let mut config = settings(plane, node, address, admin)?.config(plane.pki().dir());
        config["admin"]["socket"] = json!(dir.path().join("admin.sock"));
        // As for a `TestAgent`.
        if let Some(name) = http2_client() {
            config["upstream"]["http2"] = json!(name);
        }
        if let Some(name) = http2_server() {
            config["serving"]["http2"] = json!(name);
        }
        config["upstream"]["connectTimeout"] = json!(format!("{}s", SOON.as_secs()));
        change(&mut config);
        let socket = config["admin"]["socket"].as_str().unwrap().into();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, config.to_string())?;
        let log = std::fs::File::create(dir.path().join("log"))?;
        let child = command
            .args(["agent", "--config"])
            .arg(&file)
            .args(flags)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("run {}", command.get_program().display()))?;
        let agent = Self {
            child,
            address,
            admin,
            socket,
            dir,
        };
        let ready = eventually("the agent is ready", Duration::from_secs(30), || async {
            Ok(agent.admin_get("/readyz").await?.0 == 200)
        });
        ready.await.with_context(|| agent.log())?;
        Ok(agent)
    }

    /// A client's connection to the agent.
    ///
    /// # Errors
    /// No connection, no TLS session, or another protocol.
    pub async fn http2(&self, plane: &ControlPlane, auth: ClientAuth) -> Result<Client> {
        Client::http2(self.address, &plane.pki().client_config(auth, &[])?.into()).await
    }

    /// A client's connection to the agent.
    ///
    /// # Errors
    /// No connection, no TLS session, or another protocol.
    pub async fn http1(&self, plane: &ControlPlane, auth: ClientAuth) -> Result<Client> {
        Client::http1(self.address, &plane.pki().client_config(auth, &[])?.into()).await
    }

    /// Status and body of a path of the read-only port.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn admin_get(&self, path: &str) -> Result<(u16, String)> {
        let (status, answer) = operator::read(self.admin, http::Method::GET, path).await?;
        Ok((status, answer.text()))
    }

    /// [`crate::agent::TestAgent::metric`].
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        crate::agent::sample(&self.admin_get("/metrics").await?.1, sample)
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// Polls for the process's end.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the agent did not end within {limit:?}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether the process has not ended.
    ///
    /// # Errors
    /// The system's.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What the process has of memory.
    ///
    /// # Errors
    /// `/proc` has no such process.
    pub fn memory(&self) -> Result<Memory> {
        let file = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(&file).context(file)?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.with_context(|| format!("{name} in\n{text}"))
        };
        Ok(Memory {
            now: kib("VmRSS:")? * 1024,
            peak: kib("VmHWM:")? * 1024,
        })
    }

    /// Its soft and hard limits of open descriptors.
    pub fn descriptor_limit(&self) -> Result<(u64, u64)> {
        let file = format!("/proc/{}/limits", self.child.id());
        let text = std::fs::read_to_string(&file).context(file)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .with_context(|| text.clone())?;
        let mut fields = line.split_whitespace();
        let mut next = || anyhow::Ok(fields.next().context("two limits")?.parse()?);
        Ok((next()?, next()?))
    }

    /// Gives it another soft limit of open descriptors while it runs. Those that are open stay open.
    pub fn limit_descriptors(&self, soft: u64) -> Result<()> {
        use rustix::process::{Resource, Rlimit, prlimit};
        let limit = Rlimit {
            current: Some(soft),
            maximum: Some(self.descriptor_limit()?.1),
        };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit)?;
        Ok(())
    }

    /// Lowers its soft limit of open descriptors so that it gets no more until it closes one: a new one gets the lowest free number.
    pub fn use_up_descriptors(&self) -> Result<()> {
        self.limit_descriptors(lowest_free_descriptor(self.child.id())?)
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The access lines so far, of an agent started with `--log-format json`.
    pub fn access_log(&self) -> Vec<Value> {
        let log = self.log();
        // The last line may be half written.
        let lines = log.lines().filter_map(|l| serde_json::from_str(l).ok());
        lines.filter(|l: &Value| l["target"] == "access").collect()
    }

    /// The folder with its configuration, log and socket; removed with the agent.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for ChildAgent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lowest descriptor that a process does not have open.
pub fn lowest_free_descriptor(process: u32) -> Result<u64> {
    let mut open = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let name = entry?.file_name();
        open.insert(name.to_string_lossy().parse::<u64>()?);
    }
    Ok((0..)
        .find(|number| !open.contains(number))
        .unwrap_or_default())
}

/// Lets this process and its children have as many descriptors as the system allows.
pub fn raise_descriptor_limit() -> Result<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current.unwrap_or(u64::MAX))
}
