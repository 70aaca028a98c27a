//! A kube-apiserver's own flags, from the manifest of its static pod, as a configuration.
//!
//! Flag names and their forms are those of `kube-apiserver --help`; only what the agent needs is read. The gates of
//! kube-apiserver are its own business: a node whose native proxy is off is the very node that needs the agent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::references::{Environment, Host, is_unresolved};
use super::tree::Tree;
use super::{ConfigError, value, words};

/// kube-apiserver's port belongs to kube-apiserver, so without steering the agent listens this much higher.
const PORT_DISTANCE: u16 = 10_000;
const DEFAULT_PORT: u16 = 6443;
/// By how much `limits.responseTimeout` is above `--request-timeout`.
const RESPONSE_MARGIN: Duration = Duration::from_secs(5);
/// The longest that the key may be.
const LONGEST_RESPONSE: Duration = Duration::from_secs(24 * 3600);

/// `folder` is the manifest's folder; on a kubeadm node the administrator's kubeconfig is in the one above.
pub(super) fn to_tree(
    pod: &Value,
    path: &Path,
    folder: &Path,
    host: &dyn Host,
) -> Result<Tree, ConfigError> {
    let flags = Flags::parse(&arguments(pod, path, host)?);
    let mut tree = Tree::empty(Path::new("/"));
    let mut set = |key: &str, value: Value, flag: &str| tree.set(key, value, flag);

    set("apiVersion", "mvp/v1".into(), "--from-manifest")?;
    let watched = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if let Some(watched) = watched.to_str() {
        set("kernel.manifest", watched.into(), "--from-manifest")?;
    }
    for (flag, key) in [
        ("--tls-cert-file", "serving.certFile"),
        ("--tls-private-key-file", "serving.keyFile"),
    ] {
        let value = flags.get(flag).ok_or_else(|| {
            let problem = format!("not set in {}, and the agent needs it", path.display());
            ConfigError::new(flag, problem)
        })?;
        set(key, value.into(), flag)?;
    }
    for (flag, key) in [
        ("--client-ca-file", "clientCAFile"),
        ("--proxy-client-cert-file", "upstream.clientCertFile"),
        ("--proxy-client-key-file", "upstream.clientKeyFile"),
    ] {
        if let Some(value) = flags.get(flag) {
            set(key, value.into(), flag)?;
        }
    }
    if flags.get("--requestheader-client-ca-file").is_some() {
        request_header(&flags, &mut set)?;
    }
    for (i, value) in flags.all("--tls-sni-cert-key").iter().enumerate() {
        sni(i, value, &mut set)?;
    }
    let (ca, ca_flag) = flags
        .get("--peer-ca-file")
        .map(|ca| (ca, "--peer-ca-file"))
        .or_else(|| {
            flags
                .get("--client-ca-file")
                .map(|ca| (ca, "--client-ca-file"))
        })
        .ok_or_else(|| {
            let problem = format!(
                "neither this nor --client-ca-file is set in {}",
                path.display()
            );
            ConfigError::new("--peer-ca-file", problem)
        })?;
    set("upstream.caFile", ca.into(), ca_flag)?;
    addresses(&flags, host, &mut set)?;
    request_timeout(&flags, &mut set)?;
    peers(folder, &mut set)?;
    Ok(tree)
}

/// `--goaway-chance`, 0 where it is not set.
pub(super) fn goaway_chance(pod: &Value, path: &Path, host: &dyn Host) -> Result<f64, ConfigError> {
    let flag = "--goaway-chance";
    match Flags::parse(&arguments(pod, path, host)?).get(flag) {
        None => Ok(0.0),
        Some(text) => text
            .parse()
            .map_err(|_| ConfigError::new(flag, format!("{text:?} is no number"))),
    }
}

type Set<'a> = dyn FnMut(&str, Value, &str) -> Result<(), ConfigError> + 'a;

fn request_header(flags: &Flags, set: &mut Set<'_>) -> Result<(), ConfigError> {
    let flag = "--requestheader-client-ca-file";
    if let Some(ca) = flags.get(flag) {
        set("requestHeader.clientCAFile", ca.into(), flag)?;
    }
    for (flag, key) in [
        (
            "--requestheader-allowed-names",
            "requestHeader.allowedNames",
        ),
        (
            "--requestheader-username-headers",
            "requestHeader.usernameHeaders",
        ),
        ("--requestheader-uid-headers", "requestHeader.uidHeaders"),
        (
            "--requestheader-group-headers",
            "requestHeader.groupHeaders",
        ),
        (
            "--requestheader-extra-headers-prefix",
            "requestHeader.extraHeaderPrefixes",
        ),
    ] {
        // String slices: repeated flags add up, each may hold several values.
        let values: Vec<&str> = flags
            .all(flag)
            .iter()
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect();
        if !values.is_empty() {
            set(key, values.into(), flag)?;
        }
    }
    Ok(())
}

/// `cert,key` or `cert,key:name,name`.
fn sni(i: usize, value: &str, set: &mut Set<'_>) -> Result<(), ConfigError> {
    let flag = "--tls-sni-cert-key";
    let (files, names) = value.split_once(':').unwrap_or((value, ""));
    let (cert, key) = files
        .split_once(',')
        .ok_or_else(|| ConfigError::new(flag, format!("{value:?} is not CERT,KEY[:NAMES]")))?;
    set(&format!("sni[{i}].certFile"), cert.trim().into(), flag)?;
    set(&format!("sni[{i}].keyFile"), key.trim().into(), flag)?;
    let names: Vec<&str> = names.split(',').filter(|name| !name.is_empty()).collect();
    if !names.is_empty() {
        set(&format!("sni[{i}].names"), names.into(), flag)?;
    }
    Ok(())
}

/// The agent waits a little longer than the server, so that it is the server that says that its time is up.
fn request_timeout(flags: &Flags, set: &mut Set<'_>) -> Result<(), ConfigError> {
    let flag = "--request-timeout";
    let Some(text) = flags.get(flag) else {
        return Ok(());
    };
    let timeout = value::go_duration(text)
        .ok_or_else(|| ConfigError::new(flag, format!("{text:?} is no duration")))?;
    // 0 is no time at all; nobody means that.
    if timeout.is_zero() {
        return Ok(());
    }
    let ours = (timeout + RESPONSE_MARGIN).min(LONGEST_RESPONSE);
    let ours = format!("{}ms", ours.as_millis());
    set("limits.responseTimeout", ours.into(), flag)
}

fn addresses(flags: &Flags, host: &dyn Host, set: &mut Set<'_>) -> Result<(), ConfigError> {
    let port = match flags.get("--secure-port") {
        Some(text) => text
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| ConfigError::new("--secure-port", format!("{text:?} is no port")))?,
        None => DEFAULT_PORT,
    };
    let ip = |flag: &'static str| match flags.get(flag) {
        // The server's own environment has it, and ours does not: what it most likely is, is better than no agent.
        Some(text) if is_unresolved(text) => {
            let address = host.address();
            tracing::warn!(
                flag,
                value = text,
                ?address,
                "the manifest does not contain this address; that of the interface is used"
            );
            Ok(address)
        }
        Some(text) => text
            .parse::<IpAddr>()
            .map(Some)
            .map_err(|_| ConfigError::new(flag, format!("{text:?} is no IP address"))),
        None => Ok(None),
    };
    let bind = ip("--bind-address")?.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    let reached = if bind.is_unspecified() {
        IpAddr::from([127, 0, 0, 1])
    } else {
        bind
    };
    let local = std::net::SocketAddr::new(reached, port);
    set(
        "local.url",
        format!("https://{local}").into(),
        "--bind-address, --secure-port",
    )?;

    let listen_port: u16 = port
        .checked_add(PORT_DISTANCE)
        .unwrap_or_else(|| port - PORT_DISTANCE);
    let listen = std::net::SocketAddr::new(bind, listen_port);
    set(
        "listen",
        listen.to_string().into(),
        "--bind-address, --secure-port",
    )?;

    // As kube-apiserver: the peer flags count only together, else the advertised address and the serving port.
    let (advertised, flag) = match (
        ip("--peer-advertise-ip")?,
        flags.get("--peer-advertise-port"),
    ) {
        (Some(ip), Some(port)) => {
            let flag = "--peer-advertise-port";
            let port = port.parse::<u16>().ok().filter(|port| *port != 0);
            let port = port.ok_or_else(|| ConfigError::new(flag, "is no port"))?;
            (Some(std::net::SocketAddr::new(ip, port)), flag)
        }
        _ => {
            let address = ip("--advertise-address")?.map(|ip| std::net::SocketAddr::new(ip, port));
            (address, "--advertise-address")
        }
    };
    if let Some(address) = advertised {
        set("local.advertise", address.to_string().into(), flag)?;
    }
    Ok(())
}

fn peers(folder: &Path, set: &mut Set<'_>) -> Result<(), ConfigError> {
    set("peers.kubernetes.enabled", true.into(), "--from-manifest")?;
    let above = folder.parent().unwrap_or(folder);
    let kubeconfig = ["admin.conf", "super-admin.conf"]
        .map(|name| above.join(name))
        .into_iter()
        .find(|path| path.is_file() && is_kubeconfig(path));
    if let Some(path) = kubeconfig.as_deref().and_then(Path::to_str) {
        set(
            "peers.kubernetes.kubeconfig",
            path.into(),
            "--from-manifest",
        )?;
    }
    Ok(())
}

/// The file is only a fallback here, so that one that is none is not worth an agent.
fn is_kubeconfig(path: &Path) -> bool {
    let read = words::kubeconfig(path);
    if let Err(problem) = &read {
        tracing::warn!(path = %path.display(), %problem, "not used as the fallback for finding peers");
    }
    read.is_ok()
}

/// `command` and `args` of the container that runs kube-apiserver, without the program's name.
fn arguments(pod: &Value, path: &Path, host: &dyn Host) -> Result<Vec<String>, ConfigError> {
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().map(Vec::as_slice).unwrap_or_default();
        words
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let containers = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    for container in containers {
        let environment = Environment::of(container, pod, host);
        let mut all = words(&container["command"]);
        all.extend(words(&container["args"]));
        for word in &mut all {
            *word = environment.expand(word);
        }
        let start = all
            .iter()
            .position(|word| word == "kube-apiserver" || word.ends_with("/kube-apiserver"));
        match start {
            Some(start) => return Ok(all.split_off(start + 1)),
            // The image's entry point may be the program.
            None if container["name"] == "kube-apiserver" => return Ok(all),
            None => {}
        }
    }
    Err(ConfigError::new(
        path.display().to_string(),
        "is no pod with a container that runs kube-apiserver",
    ))
}

/// Flags with their values, in order. `--flag=value` and `--flag value`; a flag alone is `true`.
struct Flags(HashMap<String, Vec<String>>);

impl Flags {
    fn parse(arguments: &[String]) -> Self {
        let mut found: HashMap<String, Vec<String>> = HashMap::new();
        let mut rest = arguments.iter().peekable();
        while let Some(word) = rest.next() {
            if !word.starts_with("--") {
                continue;
            }
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, value.to_owned()),
                None => {
                    let value = rest.next_if(|next| !next.starts_with("--"));
                    (
                        word.as_str(),
                        value.cloned().unwrap_or_else(|| "true".into()),
                    )
                }
            };
            // pflag takes `_` for `-`.
            found.entry(flag.replace('_', "-")).or_default().push(value);
        }
        Self(found)
    }

    /// The last one counts.
    fn get(&self, flag: &str) -> Option<&str> {
        self.all(flag)
            .last()
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn all(&self, flag: &str) -> &[String] {
        self.0.get(flag).map(Vec::as_slice).unwrap_or_default()
    }
}
