//! `mvp agent` as a child process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::Process;

/// The environment that deploy/ gives the agent, as name and value: what is measured is what ships.
pub const ENVIRONMENT: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=127");

/// What differs between one agent and another. Everything else is the same in the benchmark and in the demo: the key
/// material of a simulated control plane, steering off, every connection inspected, never relayed whole.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The name of its local server.
    pub node: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where its figures are read.
    pub admin: SocketAddr,
    /// The address of its local server.
    pub local: SocketAddr,
    /// Name and address of every other server.
    pub peers: Vec<(String, SocketAddr)>,
    /// `None`: the agent's default.
    pub threads: Option<usize>,
}

impl Agent {
    /// Writes `dir/NODE.yaml` (JSON, which YAML includes). `pki` is the folder with the files as kubeadm names them.
    pub fn write_config(&self, pki: &Path, dir: &Path) -> Result<PathBuf> {
        self.write(&self.config(pki), dir)
    }

    /// Starts `binary` with that configuration and waits until it listens, for clients and for its administrator.
    pub fn start(&self, binary: &Path, pki: &Path, dir: &Path) -> Result<Process> {
        self.start_with(&self.config(pki), binary, dir)
    }

    /// As [`Self::start`], with a configuration that was changed.
    pub fn start_with(&self, config: &Value, binary: &Path, dir: &Path) -> Result<Process> {
        self.start_process(config, &[], binary, dir)
    }

    /// As [`Self::start`], where each of `set`, which is `KEY=VALUE`, overrides the configuration.
    pub fn start_set(
        &self,
        set: &[String],
        binary: &Path,
        pki: &Path,
        dir: &Path,
    ) -> Result<Process> {
        self.start_process(&self.config(pki), set, binary, dir)
    }

    fn start_process(
        &self,
        config: &Value,
        set: &[String],
        binary: &Path,
        dir: &Path,
    ) -> Result<Process> {
        let mut command = Command::new(binary);
        command
            .env(ENVIRONMENT.0, ENVIRONMENT.1)
            .arg("agent")
            .arg("--config")
            .arg(self.write(config, dir)?)
            .args(["--log-level", "warn"]);
        for pair in set {
            command.args(["--set", pair]);
        }
        let mut process = Process::start(&self.node, command, dir)?;
        process.wait_listening(self.listen)?;
        process.wait_listening(self.admin)?;
        Ok(process)
    }

    /// Waits until the agent says that it is ready: it knows what the servers serve.
    pub fn wait_ready(&self, process: &mut Process) -> Result<()> {
        process.wait_until("become ready", || is_ready(self.admin).unwrap_or_default())
    }

    fn write(&self, config: &Value, dir: &Path) -> Result<PathBuf> {
        let file = dir.join(format!("{}.yaml", self.node));
        let text = serde_json::to_string_pretty(config)?;
        fs::write(&file, text).with_context(|| format!("file {}", file.display()))?;
        Ok(file)
    }

    /// Where operators ask it: agents of one machine must not share the default path.
    pub fn socket(&self, pki: &Path) -> PathBuf {
        let name = format!("{}-{}.sock", self.node, self.admin.port());
        pki.join("run").join(name)
    }

    /// The configuration as JSON, which YAML includes.
    pub fn config(&self, pki: &Path) -> Value {
        let peers: Vec<_> = self
            .peers
            .iter()
            .map(|(name, address)| json!({"name": name, "url": format!("https://{address}")}))
            .collect();
        let mut config = json!({
            "apiVersion": "mvp/v1",
            "node": self.node,
            "listen": self.listen.to_string(),
            "serving": {"certFile": pki.join("apiserver.crt"), "keyFile": pki.join("apiserver.key")},
            "clientCAFile": pki.join("ca.crt"),
            "requestHeader": {"clientCAFile": pki.join("front-proxy-ca.crt"), "allowedNames": ["front-proxy-client"]},
            "upstream": {
                "caFile": pki.join("ca.crt"),
                "serverName": "kubernetes.default.svc",
                "clientCertFile": pki.join("front-proxy-client.crt"),
                "clientKeyFile": pki.join("front-proxy-client.key"),
            },
            "local": {"url": format!("https://{}", self.local)},
            "peers": {"static": peers},
            "admin": {"listen": self.admin.to_string(), "socket": self.socket(pki)},
            "kernel": {"steering": "off"},
            "inspect": "always",
            "relay": {"mode": "off"},
        });
        if let Some(threads) = self.threads {
            config["threads"] = threads.into();
        }
        config
    }
}

/// Asks the administrator's port.
pub(super) fn is_ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(admin)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.starts_with("HTTP/1.1 200 "))
}

/// The agent's binary: `given`, or `mvp` beside the running program, where cargo puts both.
pub fn binary(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => std::env::current_exe()?.with_file_name("mvp"),
    };
    if !path.is_file() {
        let profile = if cfg!(debug_assertions) {
            ""
        } else {
            " --release"
        };
        bail!(
            "there is no agent at {}: `cargo build{profile} -p mvp` builds it",
            path.display()
        );
    }
    Ok(path)
}
