//! `mvp agent`: flags to a checked configuration.

use std::path::PathBuf;

use crate::config::{self, Config, ConfigError, Overrides};
use crate::logging::LogFormat;
use crate::preflight;

#[derive(clap::Args, Debug)]
pub(super) struct Agent {
    #[command(flatten)]
    pub source: Source,

    /// error, warn, info, debug, trace, or a filter such as mvp=debug,access=off; default: RUST_LOG, else info.
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub log_format: LogFormat,
}

/// Where the agent's configuration comes from, and what overrides it.
#[derive(clap::Args, Debug)]
pub(super) struct Source {
    /// Configuration file; docs/configuration.md.
    #[arg(long, value_name = "FILE", required_unless_present = "from_manifest")]
    config: Option<PathBuf>,
    /// Take everything from this kube-apiserver's static pod manifest; no file is needed.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    from_manifest: Option<PathBuf>,

    /// Name of the local server.
    #[arg(long, value_name = "NAME", help_heading = "Overrides")]
    node: Option<String>,
    /// Where clients connect.
    #[arg(long, value_name = "IP:PORT", help_heading = "Overrides")]
    listen: Option<String>,
    /// The admin port.
    #[arg(long, value_name = "IP:PORT", help_heading = "Overrides")]
    admin_listen: Option<String>,
    /// The local kube-apiserver.
    #[arg(long, value_name = "URL", help_heading = "Overrides")]
    local_url: Option<String>,
    /// Another kube-apiserver; may be repeated; replaces peers.static.
    #[arg(long, value_name = "NAME=URL", help_heading = "Overrides")]
    peer: Vec<String>,
    /// Data threads.
    #[arg(long, value_name = "N", help_heading = "Overrides")]
    threads: Option<String>,
    /// Any key of the file; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Overrides")]
    set: Vec<String>,

    /// UnknownVersionInteroperabilityProxy=false: everything is answered by the local server.
    #[arg(
        long,
        value_name = "GATES",
        help_heading = "As kube-apiserver has them"
    )]
    feature_gates: Vec<String>,
    /// CA of every kube-apiserver's serving certificate (upstream.caFile).
    #[arg(long, value_name = "FILE", help_heading = "As kube-apiserver has them")]
    peer_ca_file: Option<String>,
    /// Where other nodes reach the local server (local.advertise).
    #[arg(
        long,
        alias = "peer-advertise-address",
        value_name = "IP",
        help_heading = "As kube-apiserver has them"
    )]
    peer_advertise_ip: Option<std::net::IpAddr>,
    /// Its port.
    #[arg(long, value_name = "PORT", help_heading = "As kube-apiserver has them")]
    peer_advertise_port: Option<std::num::NonZeroU16>,
}

/// A configuration for a command that can do without one.
#[derive(clap::Args, Debug)]
pub(super) struct Given {
    /// The agent's configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The local kube-apiserver's static pod manifest, as for the agent.
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    from_manifest: Option<PathBuf>,
    /// Any key of the file; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Given {
    /// `None`: no configuration was given.
    pub(super) fn config(&self) -> Result<Option<Config>, ConfigError> {
        let mut overrides = Overrides::default();
        for pair in &self.set {
            overrides.set_pair(pair)?;
        }
        match (&self.config, &self.from_manifest) {
            (Some(path), _) => preflight::from_file(path, &overrides).map(Some),
            (None, Some(path)) => preflight::from_manifest(path, &overrides).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Source {
    pub(super) fn config(&self) -> Result<Config, ConfigError> {
        let overrides = self.overrides()?;
        match (&self.config, &self.from_manifest) {
            (Some(path), _) => preflight::from_file(path, &overrides),
            (None, Some(path)) => preflight::from_manifest(path, &overrides),
            (None, None) => Err(ConfigError::new("--config", "missing")),
        }
    }

    /// Every key with its value, as a configuration file has them.
    pub(super) fn effective(&self) -> Result<serde_json::Value, ConfigError> {
        let overrides = self.overrides()?;
        match (&self.config, &self.from_manifest) {
            (Some(path), _) => preflight::effective_file(path, &overrides),
            (None, Some(path)) => preflight::effective_manifest(path, &overrides),
            (None, None) => Err(ConfigError::new("--config", "missing")),
        }
    }

    /// The name of the source, for messages.
    pub(super) fn name(&self) -> String {
        let path = self.config.as_ref().or(self.from_manifest.as_ref());
        path.map(|path| path.display().to_string())
            .unwrap_or_default()
    }

    fn overrides(&self) -> Result<Overrides, ConfigError> {
        let mut overrides = Overrides::default();
        for pair in &self.set {
            overrides.set_pair(pair)?;
        }
        for (flag, key, value) in [
            ("--node", "node", &self.node),
            ("--listen", "listen", &self.listen),
            ("--admin-listen", "admin.listen", &self.admin_listen),
            ("--local-url", "local.url", &self.local_url),
            ("--threads", "threads", &self.threads),
            ("--peer-ca-file", "upstream.caFile", &self.peer_ca_file),
        ] {
            if let Some(value) = value {
                overrides.set(key, value, flag);
            }
        }
        match (self.peer_advertise_ip, self.peer_advertise_port) {
            (Some(ip), Some(port)) => {
                let address = std::net::SocketAddr::new(ip, port.get()).to_string();
                overrides.set("local.advertise", &address, "--peer-advertise-ip");
            }
            (None, None) => {}
            (Some(_), None) => {
                let problem = "missing, though --peer-advertise-ip is set";
                return Err(ConfigError::new("--peer-advertise-port", problem));
            }
            (None, Some(_)) => {
                let problem = "missing, though --peer-advertise-port is set";
                return Err(ConfigError::new("--peer-advertise-ip", problem));
            }
        }
        for peer in &self.peer {
            overrides.peer(peer);
        }
        for gates in &self.feature_gates {
            if let Some(enabled) = config::parse_feature_gates(gates)? {
                overrides.interoperability_proxy = Some(enabled);
            }
        }
        Ok(overrides)
    }
}
