//! What a change of kube-apiserver's manifest does to a running agent. One table, which `docs/configuration.md` shows too.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{Config, Overrides};

/// The manifest that a configuration was made from, and what overrides it: enough to make it again.
#[derive(Clone, Debug)]
pub struct ManifestSource {
    /// The file that is read, usually `/etc/kubernetes/manifests/kube-apiserver.yaml`.
    pub path: PathBuf,
    overrides: Overrides,
}

/// How a changed value takes effect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// At once: for new connections, or for new requests.
    Live,
    /// It takes effect with the next start of the agent.
    Restart,
}

/// Values that come from the manifest and change together.
#[derive(Debug)]
pub struct FollowedKeys {
    /// The keys of the configuration.
    pub keys: &'static str,
    /// kube-apiserver's flags.
    pub flags: &'static str,
    /// When a new value is used.
    pub effect: Effect,
    /// What the keys are for, for the documentation.
    pub meaning: &'static str,
    differs: fn(&Config, &Config) -> bool,
}

/// Everything that is taken from a manifest and looked at again when it changes.
pub const FOLLOWED: &[FollowedKeys] = &[
    followed(
        "serving",
        "--tls-cert-file, --tls-private-key-file",
        Effect::Live,
        "New connections are shown the new certificate.",
        |a, b| a.serving != b.serving,
    ),
    followed(
        "sni",
        "--tls-sni-cert-key",
        Effect::Live,
        "As above.",
        |a, b| a.sni != b.sni,
    ),
    followed(
        "clientCAFile",
        "--client-ca-file",
        Effect::Live,
        "Every connection's certificate is examined anew at its next request.",
        |a, b| a.client_ca_file != b.client_ca_file,
    ),
    followed(
        "requestHeader",
        "--requestheader-*",
        Effect::Live,
        "As above; the names of headers count from the next request on.",
        |a, b| a.request_header != b.request_header,
    ),
    followed(
        "upstream.caFile",
        "--peer-ca-file, --client-ca-file",
        Effect::Live,
        "New connections to servers are verified with it.",
        |a, b| a.upstream.ca_file != b.upstream.ca_file,
    ),
    followed(
        "upstream.clientCertFile, upstream.clientKeyFile",
        "--proxy-client-cert-file, --proxy-client-key-file",
        Effect::Live,
        "New connections to servers show it.",
        |a, b| a.upstream.client != b.upstream.client,
    ),
    followed(
        "limits.responseTimeout",
        "--request-timeout",
        Effect::Live,
        "New requests are given so long, and 5 s more.",
        |a, b| a.limits.response_timeout != b.limits.response_timeout,
    ),
    followed(
        "local.url",
        "--bind-address, --secure-port",
        Effect::Restart,
        "What the kernel steers, and every connection to the local server, depend on it.",
        |a, b| (&a.local.host, a.local.port) != (&b.local.host, b.local.port),
    ),
    followed(
        "listen",
        "--bind-address, --secure-port",
        Effect::Restart,
        "The listener is bound once.",
        |a, b| a.listen != b.listen,
    ),
    followed(
        "local.advertise",
        "--advertise-address, --peer-advertise-ip, --peer-advertise-port",
        Effect::Restart,
        "Which address is the agent's own is decided once.",
        |a, b| a.advertise != b.advertise,
    ),
];

/// What differs between two configurations from one manifest.
pub fn changes(before: &Config, after: &Config) -> Vec<&'static FollowedKeys> {
    FOLLOWED
        .iter()
        .filter(|followed| (followed.differs)(before, after))
        .collect()
}

/// The table of `docs/configuration.md`.
pub fn followed_table() -> String {
    let mut out = String::from(
        "| Changed in the manifest | Key | Takes effect | Meaning |\n|---|---|---|---|\n",
    );
    for followed in FOLLOWED {
        let flags: Vec<_> = followed.flags.split(", ").collect();
        let keys: Vec<_> = followed.keys.split(", ").collect();
        let effect = match followed.effect {
            Effect::Live => "at once",
            Effect::Restart => "at the next start",
        };
        let _ = writeln!(
            out,
            "| `{}` | `{}` | {effect} | {} |",
            flags.join("`, `"),
            keys.join("`, `"),
            followed.meaning
        );
    }
    out
}

impl ManifestSource {
    pub(super) fn new(path: PathBuf, overrides: Overrides) -> Self {
        Self { path, overrides }
    }

    /// The manifest's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the command line has overridden in it.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }
}

/// Two sources are the same if they read the same file.
impl PartialEq for ManifestSource {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

const fn followed(
    keys: &'static str,
    flags: &'static str,
    effect: Effect,
    meaning: &'static str,
    differs: fn(&Config, &Config) -> bool,
) -> FollowedKeys {
    FollowedKeys {
        keys,
        flags,
        effect,
        meaning,
        differs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_very_table() {
        let docs = include_str!("../../../docs/configuration.md");
        assert!(
            docs.contains(&followed_table()),
            "docs/configuration.md differs; its table must be:\n{}",
            followed_table()
        );
    }

    /// Every key that a manifest sets is in the table, or is the same whatever the manifest says.
    #[test]
    fn nothing_of_a_manifest_is_forgotten() {
        let text = include_str!("manifest.rs");
        let fixed = ["apiVersion", "kernel.manifest", "peers.kubernetes."];
        let sections = [
            "serving.",
            "sni[",
            "clientCAFile",
            "requestHeader.",
            "upstream.",
            "local.",
            "listen",
            "limits.",
        ];
        let keys = super::super::KEYS
            .iter()
            .map(|key| key.name.replace("[]", "[{i}]"));
        let set: Vec<_> = keys
            .filter(|key| text.contains(&format!("\"{key}\"")))
            .collect();
        assert!(set.len() > 15, "{set:?}");
        for key in set {
            let known = FOLLOWED.iter().any(|followed| {
                let keys = followed.keys.split(", ");
                keys.into_iter().any(|known| key.starts_with(known))
            });
            let constant = fixed.iter().any(|prefix| key.starts_with(prefix));
            assert!(known || constant, "{key}");
            assert!(constant || sections.iter().any(|section| key.starts_with(section)));
        }
    }
}
