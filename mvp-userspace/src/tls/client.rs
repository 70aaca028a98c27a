//! The TLS configurations with which the agent meets kube-apiservers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;

use super::error::TlsError;
use super::reload::{Adopt, Reload};
use super::source::{Bundle, FileSpec, FileStats, Pair, Refreshed, ReloadOutcome, Source};
use super::{lifetime, provider};
use crate::config::Config;

/// How the agent introduces itself on a connection. Connections of different classes are never shared.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IdentityClass {
    /// With the front-proxy certificate: the server believes the X-Remote-* headers.
    FrontProxy,
    /// With no certificate: the server sees the client's token, or nothing.
    Bare,
}

/// The application protocols offered.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Alpn {
    /// The server chooses; every kube-apiserver chooses HTTP/2 unless it is disabled there.
    H2OrHttp1,
    /// For upgrades (WebSocket, SPDY), which HTTP/2 does not have.
    Http1,
}

/// Client configurations for every class and protocol.
///
/// Each has its own session store, so that a session made with the front-proxy certificate is never resumed by a bare
/// connection, and a reload forgets the sessions of the old certificate.
pub struct ClientTls {
    server_name: ServerName<'static>,
    material: Mutex<Material>,
    current: ArcSwap<Configs>,
    has_front_proxy: AtomicBool,
    /// Counts the replacements of the configurations.
    replaced: watch::Sender<u64>,
}

/// Says why a client certificate must not be used, if it must not.
pub type PairCheck = Box<dyn Fn(&[CertificateDer<'static>]) -> Result<(), String> + Send + Sync>;

struct Configs {
    front_proxy: PerAlpn,
    bare: PerAlpn,
}

struct PerAlpn {
    h2_or_http1: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

struct Material {
    roots: Source<Bundle, 1>,
    client: Option<Source<Pair, 2>>,
    check: Option<PairCheck>,
    /// The files hold something that is not in use, and that may become usable when other files change.
    refused: bool,
}

impl ClientTls {
    /// Loads `upstream`.
    ///
    /// # Errors
    /// The first file that is missing or malformed, a key that does not match its certificate, or a server name that is none.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let upstream = &config.upstream;
        let server_name =
            ServerName::try_from(upstream.server_name.clone()).map_err(|_| TlsError::Name {
                key: "upstream.serverName".to_owned(),
                name: upstream.server_name.clone(),
            })?;
        let roots = Source::load([FileSpec::new("upstream.caFile", &upstream.ca_file)])?;
        let client = match &upstream.client {
            Some(pair) => Some(Source::load([
                FileSpec::new("upstream.clientCertFile", &pair.cert_file),
                FileSpec::new("upstream.clientKeyFile", &pair.key_file),
            ])?),
            None => None,
        };
        let has_front_proxy = client.is_some();
        let material = Material {
            roots,
            client,
            check: None,
            refused: false,
        };
        let current = ArcSwap::from_pointee(material.build()?);
        Ok(Self {
            server_name,
            material: Mutex::new(material),
            current,
            has_front_proxy: AtomicBool::new(has_front_proxy),
            replaced: watch::Sender::new(0),
        })
    }

    /// Every client certificate that is loaded from now on must pass `check`; one that does not is not used, and the one before
    /// stays in use.
    pub fn check_pairs(&self, check: PairCheck) {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        material.check = Some(check);
    }

    /// Changes whenever the files brought something new into use.
    pub fn replaced(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// The validity of the client certificate last loaded, Unix seconds; `None`: none is configured.
    pub fn client_validity(&self) -> Option<lifetime::Validity> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        material.client.as_ref().map(Source::validity)
    }

    /// The certificates by which servers are verified.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        material.roots.value().certificates.clone()
    }

    /// The configuration for a new connection. [`IdentityClass::Bare`] never presents a certificate; nor does
    /// [`IdentityClass::FrontProxy`] if none is configured ([`Self::has_front_proxy`]), in which case `identity` asserts nobody.
    pub fn config(&self, class: IdentityClass, alpn: Alpn) -> Arc<ClientConfig> {
        let current = self.current.load();
        let per_alpn = match class {
            IdentityClass::FrontProxy => &current.front_proxy,
            IdentityClass::Bare => &current.bare,
        };
        match alpn {
            Alpn::H2OrHttp1 => per_alpn.h2_or_http1.clone(),
            Alpn::Http1 => per_alpn.http1.clone(),
        }
    }

    /// The name to send as SNI and to verify in every server's certificate, whatever address was dialled.
    pub fn server_name(&self) -> ServerName<'static> {
        self.server_name.clone()
    }

    /// Whether users can be asserted upstream at all.
    pub fn has_front_proxy(&self) -> bool {
        self.has_front_proxy.load(Ordering::Relaxed)
    }
}

impl Reload for ClientTls {
    fn refresh(&self) -> Vec<ReloadOutcome> {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let material = &mut *material;
        let mut outcomes = Vec::new();
        let mut note = |key: &str, refreshed| match refreshed {
            Refreshed::Unchanged => false,
            Refreshed::Changed => {
                outcomes.push(ReloadOutcome {
                    key: key.to_owned(),
                    result: Ok(()),
                });
                true
            }
            Refreshed::Failed(error) => {
                outcomes.push(ReloadOutcome {
                    key: key.to_owned(),
                    result: Err(error),
                });
                false
            }
        };
        let refreshed = material.roots.refresh();
        let mut changed = note(material.roots.key(), refreshed);
        if let Some(client) = &mut material.client {
            let refreshed = client.refresh();
            changed |= note(client.key(), refreshed);
        }
        let again = material.refused && material.fits().is_ok();
        if changed || again {
            match material.fits().and_then(|()| material.build()) {
                Ok(configs) => {
                    material.refused = false;
                    self.current.store(Arc::new(configs));
                    self.replaced.send_modify(|count| *count += 1);
                }
                Err(error) => {
                    material.refused = true;
                    match &material.client {
                        Some(client) if client.key() == error.key() => client.blame(&error),
                        _ => material.roots.blame(&error),
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
        let new = Self::load(config)?;
        Ok(Box::new(move || {
            let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
            *material = new
                .material
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            self.has_front_proxy
                .store(material.client.is_some(), Ordering::Relaxed);
            self.current.store(new.current.into_inner());
        }))
    }

    fn files(&self) -> Vec<Arc<FileStats>> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let client = material.client.iter().flat_map(|client| client.stats());
        material
            .roots
            .stats()
            .iter()
            .chain(client)
            .cloned()
            .collect()
    }

    fn validities(&self) -> Vec<(String, lifetime::Validity)> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = vec![(material.roots.key().to_owned(), material.roots.validity())];
        all.extend(
            material
                .client
                .iter()
                .map(|client| (client.key().to_owned(), client.validity())),
        );
        all
    }
}

impl Material {
    fn fits(&self) -> Result<(), TlsError> {
        let (Some(check), Some(client)) = (&self.check, &self.client) else {
            return Ok(());
        };
        check(&client.value().certified.cert).map_err(|reason| TlsError::Unfit {
            key: client.key().to_owned(),
            path: client.path().to_owned(),
            reason,
        })
    }

    fn build(&self) -> Result<Configs, TlsError> {
        let roots = &self.roots.value().anchors;
        let roots = Arc::new(RootCertStore {
            roots: roots.clone(),
        });
        let client = self
            .client
            .as_ref()
            .map(|client| Arc::new(SingleCertAndKey::from(client.value().certified.clone())));
        let build = |class, alpn: &[&[u8]]| -> Result<Arc<ClientConfig>, TlsError> {
            let builder = ClientConfig::builder_with_provider(provider())
                .with_protocol_versions(rustls::ALL_VERSIONS)
                .map_err(|source| TlsError::Library {
                    key: "upstream".to_owned(),
                    source,
                })?
                .with_root_certificates(roots.clone());
            let mut config = match (class, &client) {
                (IdentityClass::FrontProxy, Some(client)) => {
                    builder.with_client_cert_resolver(client.clone())
                }
                (IdentityClass::FrontProxy, None) | (IdentityClass::Bare, _) => {
                    builder.with_no_client_auth()
                }
            };
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(Arc::new(config))
        };
        let per_alpn = |class| -> Result<PerAlpn, TlsError> {
            Ok(PerAlpn {
                h2_or_http1: build(class, &[b"h2", b"http/1.1"])?,
                http1: build(class, &[b"http/1.1"])?,
            })
        };
        Ok(Configs {
            front_proxy: per_alpn(IdentityClass::FrontProxy)?,
            bare: per_alpn(IdentityClass::Bare)?,
        })
    }
}
