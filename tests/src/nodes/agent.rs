//! `mvp agent` as a process on a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::sample;
use crate::operator;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, Place};

/// `mvp agent` on a node. Killed when dropped.
pub struct Agent {
    place: Arc<Place>,
    child: Child,
    /// Its read-only port, in the node's namespace.
    pub admin: SocketAddr,
    /// Where operators ask it.
    pub socket: PathBuf,
    dir: TempDir,
}

impl Agent {
    pub(super) fn start(place: &Arc<Place>, config: &Value, setpriv: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut command = match setpriv {
            [] => Command::new(&place.binaries.agent),
            arguments => {
                let mut command = Command::new("setpriv");
                command.args(arguments).arg(&place.binaries.agent);
                command
            }
        };
        command
            .args(["agent", "--log-level", "info", "--config"])
            .arg(&file)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = place.on(async move { command.spawn().unwrap() });
        Self {
            place: Arc::clone(place),
            child,
            admin: config["admin"]["listen"].as_str().unwrap().parse().unwrap(),
            socket: config["admin"]["socket"].as_str().unwrap().into(),
            dir,
        }
    }

    /// Waits until it is ready.
    ///
    /// # Panics
    /// It is not within [`PATIENCE`].
    pub fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.admin("GET", "/readyz").is_none_or(|(s, _)| s != 200) {
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Status and body of a path: a GET by the admin port, all else by the operators' socket. `None` if nobody answers.
    pub fn admin(&self, method: &str, path: &str) -> Option<(u16, String)> {
        let (admin, socket) = (self.admin, self.socket.clone());
        let (method, path): (http::Method, _) = (method.parse().unwrap(), path.to_owned());
        let answer = self.place.on(async move {
            if method == http::Method::GET {
                operator::read(admin, method, &path).await.ok()
            } else {
                operator::operate(&socket, method, &path, "").await.ok()
            }
        });
        answer.map(|(status, answer)| (status, answer.text()))
    }

    /// [`crate::agent::TestAgent::metric`].
    pub fn metric(&self, name: &str) -> f64 {
        let (_, scrape) = self.admin("GET", "/metrics").unwrap();
        sample(&scrape, name).unwrap()
    }

    /// Client connections that it accepted so far.
    pub fn accepted(&self) -> f64 {
        self.metric("mvp_client_connections_total")
    }

    /// The document of `/status`.
    ///
    /// # Panics
    /// Nobody answers.
    pub fn status(&self) -> Value {
        let (_, body) = self.admin("GET", "/status").unwrap();
        serde_json::from_str(&body).unwrap()
    }

    /// The state of its guard: `idle` or `armed`.
    pub fn guard(&self) -> String {
        self.status()["guard"]["state"].as_str().unwrap().to_owned()
    }

    /// Waits for a state of the guard.
    ///
    /// # Panics
    /// It does not come within [`PATIENCE`].
    pub fn until(&self, state: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.guard() != state {
            let now = self.status()["guard"].clone();
            assert!(
                Instant::now() < deadline,
                "not {state}: {now}\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Gives it another soft limit of open descriptors while it runs, and returns the one before.
    pub fn limit_descriptors(&self, soft: u64) -> u64 {
        use rustix::process::{Resource, Rlimit, prlimit};
        let pid = Some(Pid::from_child(&self.child));
        let file = format!("/proc/{}/limits", self.child.id());
        let text = std::fs::read_to_string(file).unwrap();
        let mut limits = text
            .lines()
            .find_map(|line| line.strip_prefix("Max open files"))
            .unwrap()
            .split_whitespace()
            .map(|number| number.parse::<u64>().unwrap());
        let (before, maximum) = (limits.next().unwrap(), limits.next());
        let limit = Rlimit {
            current: Some(soft),
            maximum,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
        before
    }

    /// The lowest descriptor that it does not have open: with this limit it gets no other.
    pub fn lowest_free_descriptor(&self) -> u64 {
        crate::child::lowest_free_descriptor(self.child.id()).unwrap()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end; `None`: a signal ended it.
    ///
    /// # Panics
    /// It does not end within [`PATIENCE`].
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "still runs:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            println!("--- agent on {}:\n{}", self.place.address, self.log());
        }
    }
}
