//! Whom the agent trusts for what: two sets of CAs and the names of the identity headers.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderName;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::certificate::Roots;
use super::proof::{Learned, LearnedKind};
use crate::config::{Config, RequestHeader};
use crate::tls::{
    Adopt, Bundle, FileSpec, FileStats, Refreshed, Reload, ReloadOutcome, Source, TlsError,
};

/// An immutable snapshot of what is trusted.
#[derive(Debug)]
pub struct Trust {
    /// Vouches for users (`--client-ca-file`).
    pub(super) client_ca: Option<Roots>,
    /// Vouches for front proxies (`--requestheader-client-ca-file`).
    pub(super) front_proxy: Option<FrontProxyTrust>,
    pub(super) names: HeaderNames,
    /// Whether the agent has a front-proxy certificate of its own to assert users with.
    pub(super) can_assert: bool,
    /// Names that servers publish.
    pub(super) learned: Learned,
    generation: u64,
}

#[derive(Debug)]
pub(super) struct FrontProxyTrust {
    pub roots: Roots,
    /// Common names; empty: any.
    pub allowed_names: Vec<String>,
}

impl Trust {
    /// Differs between snapshots of different content; a [`super::CertIdentity`] is good for one generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The names of identity headers: those that are set, and those that are deleted.
    pub fn names(&self) -> &HeaderNames {
        &self.names
    }

    pub(super) fn new(
        client_ca: Option<Roots>,
        front_proxy: Option<FrontProxyTrust>,
        names: HeaderNames,
        can_assert: bool,
        generation: u64,
    ) -> Self {
        Self {
            client_ca,
            front_proxy,
            names,
            can_assert,
            learned: Learned::default(),
            generation,
        }
    }

    /// What a header is to us, or to a server.
    pub(super) fn kind(&self, name: &HeaderName) -> Option<HeaderRole> {
        self.names.kind(name).or_else(|| {
            let learned = self.learned.kind(name, folded_eq, folded_prefix)?;
            Some(match learned {
                LearnedKind::Username => HeaderRole::Username,
                LearnedKind::Uid => HeaderRole::Uid,
                LearnedKind::Group => HeaderRole::Group,
                LearnedKind::Extra => HeaderRole::Extra,
                LearnedKind::Unlisted => HeaderRole::Unlisted,
            })
        })
    }

    #[cfg(test)]
    pub(super) fn learn(&mut self, learned: Learned) {
        self.learned = learned;
    }

    #[cfg(test)]
    pub(super) fn with_names(self, names: HeaderNames) -> Self {
        Self { names, ..self }
    }

    #[cfg(test)]
    pub(super) fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }
}

/// The current [`Trust`], replaced when a CA file changes.
pub struct TrustCell {
    material: Mutex<Material>,
    current: ArcSwap<Trust>,
    /// The header names by which users are asserted.
    named: watch::Sender<HeaderNames>,
}

struct Material {
    client_ca: Option<Source<Bundle, 1>>,
    front_proxy: Option<(Source<Bundle, 1>, Vec<String>)>,
    names: HeaderNames,
    can_assert: bool,
    learned: Learned,
}

impl TrustCell {
    /// Loads the CA files.
    ///
    /// # Errors
    /// The first file that is missing or malformed, a header name that is none, or CAs that overlap without allowed names.
    pub fn open(config: &Config) -> Result<Self, TlsError> {
        let client_ca = match &config.client_ca_file {
            Some(path) => Some(Source::load([FileSpec::new("clientCAFile", path)])?),
            None => None,
        };
        let front_proxy = match &config.request_header {
            Some(header) => Some((
                Source::load([FileSpec::new(
                    "requestHeader.clientCAFile",
                    &header.client_ca_file,
                )])?,
                header.allowed_names.clone(),
            )),
            None => None,
        };
        let names = HeaderNames::new(config.request_header.as_ref())?;
        let material = Material {
            client_ca,
            front_proxy,
            names,
            can_assert: config.upstream.client.is_some(),
            learned: Learned::default(),
        };
        let current = ArcSwap::from_pointee(material.build(1)?);
        Ok(Self {
            named: watch::Sender::new(material.names.clone()),
            material: Mutex::new(material),
            current,
        })
    }

    /// The configured names of headers, and whenever they change.
    pub fn named(&self) -> watch::Receiver<HeaderNames> {
        self.named.subscribe()
    }

    /// The snapshot to use for one request: a reload does not change it.
    pub fn load(&self) -> Arc<Trust> {
        self.current.load_full()
    }

    /// The CAs of users' client certificates, as they are now; none without `clientCAFile`.
    pub fn client_ca(&self) -> Vec<CertificateDer<'static>> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let bundle = material.client_ca.as_ref();
        bundle.map_or_else(Vec::new, |source| source.value().certificates.clone())
    }

    /// Deletes from requests what servers publish as well, from now on. What was learned before stays: see [`Learned::with`].
    pub fn learn(&self, learned: Learned) {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let learned = learned.with(&material.learned);
        if material.learned == learned {
            return;
        }
        material.learned = learned;
        match material.build(self.current.load().generation + 1) {
            Ok(trust) => self.current.store(Arc::new(trust)),
            Err(error) => {
                tracing::error!(%error, "header names that servers publish are not in use")
            }
        }
    }
}

impl Reload for TrustCell {
    fn refresh(&self) -> Vec<ReloadOutcome> {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let material = &mut *material;
        let mut outcomes = Vec::new();
        let mut changed = false;
        let front_proxy = material.front_proxy.iter_mut().map(|(source, _)| source);
        for source in material.client_ca.iter_mut().chain(front_proxy) {
            let result = match source.refresh() {
                Refreshed::Unchanged => continue,
                Refreshed::Changed => {
                    changed = true;
                    Ok(())
                }
                Refreshed::Failed(error) => Err(error),
            };
            outcomes.push(ReloadOutcome {
                key: source.key().to_owned(),
                result,
            });
        }
        if changed {
            match material.build(self.current.load().generation + 1) {
                Ok(trust) => self.current.store(Arc::new(trust)),
                Err(error) => {
                    if let Some((source, _)) = &material.front_proxy {
                        source.blame(&error);
                    }
                    outcomes.push(ReloadOutcome {
                        key: error.key().to_owned(),
                        result: Err(error),
                    });
                }
            }
        }
        outcomes
    }

    fn prepare(&self, config: &Config) -> Result<Adopt<'_>, TlsError> {
        let new = Self::open(config)?;
        Ok(Box::new(move || {
            let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
            // What servers believe is true whatever the manifest says.
            let learned = std::mem::take(&mut material.learned);
            *material = new
                .material
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            material.learned = learned;
            // It has another generation, so that every connection's certificate is examined anew. It was built once already.
            if let Ok(trust) = material.build(self.current.load().generation + 1) {
                self.current.store(Arc::new(trust));
            }
            self.named.send_if_modified(|before| {
                let changed = *before != material.names;
                before.clone_from(&material.names);
                changed
            });
        }))
    }

    fn files(&self) -> Vec<Arc<FileStats>> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        material
            .sources()
            .flat_map(|source| source.stats().iter().cloned())
            .collect()
    }

    fn validities(&self) -> Vec<(String, (i64, i64))> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        material
            .sources()
            .map(|source| (source.key().to_owned(), source.validity()))
            .collect()
    }
}

impl Material {
    fn sources(&self) -> impl Iterator<Item = &Source<Bundle, 1>> {
        self.client_ca
            .iter()
            .chain(self.front_proxy.iter().map(|(source, _)| source))
    }

    fn build(&self, generation: u64) -> Result<Trust, TlsError> {
        if let (Some(client), Some((proxy, allowed))) = (&self.client_ca, &self.front_proxy)
            && allowed.is_empty()
            && proxy
                .value()
                .certificates
                .iter()
                .any(|der| client.value().certificates.contains(der))
        {
            return Err(TlsError::Overlap {
                key: proxy.key().to_owned(),
            });
        }
        let client_ca = self
            .client_ca
            .as_ref()
            .map(|source| Roots::new(&source.value().certificates));
        let front_proxy =
            self.front_proxy
                .as_ref()
                .map(|(source, allowed_names)| FrontProxyTrust {
                    roots: Roots::new(&source.value().certificates),
                    allowed_names: allowed_names.clone(),
                });
        let mut trust = Trust::new(
            client_ca,
            front_proxy,
            self.names.clone(),
            self.can_assert,
            generation,
        );
        trust.learned = self.learned.clone();
        Ok(trust)
    }
}

/// The names of the headers that assert a user: those of the configuration, and always the standard ones too.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderNames {
    pub(super) username: Vec<HeaderName>,
    pub(super) uid: Vec<HeaderName>,
    pub(super) group: Vec<HeaderName>,
    /// Lower case.
    pub(super) extra_prefixes: Vec<String>,
}

/// What a header name is to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HeaderRole {
    Username,
    Uid,
    Group,
    Extra,
    /// A header of the X-Remote- family that is none of the above: a kind that a later kube-apiserver may believe, as X-Remote-Uid became
    /// one in 1.32.
    OtherRemote,
    /// Nothing that is known, while a server's names cannot be read.
    Unlisted,
    Hop,
}

static USER: HeaderName = HeaderName::from_static("x-remote-user");
static UID: HeaderName = HeaderName::from_static("x-remote-uid");
static GROUP: HeaderName = HeaderName::from_static("x-remote-group");
const EXTRA: &str = "x-remote-extra-";

impl HeaderNames {
    /// The names of the configuration; without one, the standard names for what is sent, and no name from which a user is read.
    ///
    /// # Errors
    /// A name that is empty or not a header name.
    pub fn new(config: Option<&RequestHeader>) -> Result<Self, TlsError> {
        let Some(config) = config else {
            return Ok(Self {
                username: vec![],
                uid: vec![],
                group: vec![],
                extra_prefixes: vec![],
            });
        };
        let parse = |key: &str, names: &[String]| {
            names
                .iter()
                .map(|name| {
                    HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| {
                        TlsError::HeaderName {
                            key: format!("requestHeader.{key}"),
                            name: name.clone(),
                        }
                    })
                })
                .collect::<Result<Vec<_>, _>>()
        };
        let prefixes = parse("extraHeaderPrefixes", &config.extra_header_prefixes)?;
        Ok(Self {
            username: parse("usernameHeaders", &config.username_headers)?,
            uid: parse("uidHeaders", &config.uid_headers)?,
            group: parse("groupHeaders", &config.group_headers)?,
            extra_prefixes: prefixes
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect(),
        })
    }

    /// The name to send: the standard one if the configuration lists it or lists none, else the first listed.
    pub(super) fn send_user(&self) -> &HeaderName {
        preferred(&self.username, &USER)
    }

    /// Whether a user's uid can be sent: not if other names are configured, and none for it.
    pub(super) fn tells_uid(&self) -> bool {
        !self.uid.is_empty() || self.username.is_empty()
    }

    pub(super) fn send_uid(&self) -> &HeaderName {
        preferred(&self.uid, &UID)
    }

    pub(super) fn send_group(&self) -> &HeaderName {
        preferred(&self.group, &GROUP)
    }

    pub(super) fn send_extra(&self) -> &str {
        match self.extra_prefixes.first() {
            Some(first) if !self.extra_prefixes.iter().any(|p| p == EXTRA) => first,
            _ => EXTRA,
        }
    }

    /// What `name` is to us, or to a server that folds `_` into `-` as CGI-style servers do.
    pub(super) fn kind(&self, name: &HeaderName) -> Option<HeaderRole> {
        let name = name.as_str();
        let any = |names: &[HeaderName]| names.iter().any(|n| folded_eq(n.as_str(), name));
        if is_hop_marker(name) {
            Some(HeaderRole::Hop)
        } else if folded_eq(USER.as_str(), name) || any(&self.username) {
            Some(HeaderRole::Username)
        } else if folded_eq(UID.as_str(), name) || any(&self.uid) {
            Some(HeaderRole::Uid)
        } else if folded_eq(GROUP.as_str(), name) || any(&self.group) {
            Some(HeaderRole::Group)
        } else if folded_prefix(EXTRA, name)
            || self.extra_prefixes.iter().any(|p| folded_prefix(p, name))
        {
            Some(HeaderRole::Extra)
        } else if folded_prefix("x-remote-", name) {
            Some(HeaderRole::OtherRemote)
        } else {
            None
        }
    }
}

/// Whether a header name (lower case) is the hop marker's, folded as in [`HeaderNames::kind`].
pub(super) fn is_hop_marker(name: &str) -> bool {
    folded_eq(super::PEER_PROXIED.as_str(), name)
}

fn preferred<'a>(listed: &'a [HeaderName], standard: &'static HeaderName) -> &'a HeaderName {
    match listed.first() {
        Some(first) if !listed.contains(standard) => first,
        _ => standard,
    }
}

/// Equality of header names (lower case already) in which `_` is `-`.
fn folded_eq(a: &str, b: &str) -> bool {
    a.len() == b.len() && folded_prefix(a, b)
}

fn folded_prefix(prefix: &str, name: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.len() >= prefix.len()
        && prefix
            .bytes()
            .zip(name.bytes())
            .all(|(a, b)| fold(a) == fold(b))
}
