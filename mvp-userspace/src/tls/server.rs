//! The TLS configuration that clients meet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, ServerConfig};

use super::error::TlsError;
use super::reload::{Adopt, Reload};
use super::sni::{self, Resolver};
use super::source::{Bundle, FileSpec, FileStats, Pair, Refreshed, ReloadOutcome, Source};
use super::ticketer::ticketer;
use super::verifier::AnyCertificate;
use super::{lifetime, provider};
use crate::config::Config;

/// TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1, a client certificate asked for but not required.
///
/// Sessions may be resumed: rustls keeps the client's certificates in the session, so a resumed connection shows the same chain
/// and `identity` examines it anew.
pub struct ServerTls {
    material: Mutex<Material>,
    current: ArcSwap<Configs>,
}

struct Configs {
    default: Arc<ServerConfig>,
    /// For clients that send no server name and reached an address some SNI certificate is configured for.
    by_address: HashMap<IpAddr, Arc<ServerConfig>>,
}

struct Material {
    serving: Source<Pair, 2>,
    sni: Vec<(Vec<String>, Source<Pair, 2>)>,
    /// Only their subjects are used here, as hints; `identity` owns the trust and reports about these files.
    hints: Vec<Source<Bundle, 1>>,
}

impl ServerTls {
    /// Loads everything the configuration names.
    ///
    /// # Errors
    /// The first file that is missing or malformed, or a key that does not match its certificate. An expired certificate is a
    /// warning: an expired agent is more use than none.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let pair = |prefix: &str, pair: &crate::config::KeyPair| {
            Source::load([
                FileSpec::new(format!("{prefix}.certFile"), &pair.cert_file),
                FileSpec::new(format!("{prefix}.keyFile"), &pair.key_file),
            ])
        };
        let serving = pair("serving", &config.serving)?;
        let mut certificates = Vec::with_capacity(config.sni.len());
        for (index, certificate) in config.sni.iter().enumerate() {
            let source = pair(&format!("sni[{index}]"), &certificate.pair)?;
            certificates.push((certificate.names.clone(), source));
        }
        let mut hints = Vec::new();
        if let Some(path) = &config.client_ca_file {
            hints.push(Source::load([FileSpec::new("clientCAFile", path)])?);
        }
        if let Some(header) = &config.request_header {
            hints.push(Source::load([FileSpec::new(
                "requestHeader.clientCAFile",
                &header.client_ca_file,
            )])?);
        }
        let material = Material {
            serving,
            sni: certificates,
            hints,
        };
        let current = ArcSwap::from_pointee(material.build()?);
        Ok(Self {
            material: Mutex::new(material),
            current,
        })
    }

    /// The configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load().default.clone()
    }

    /// The configuration for a new connection that reached `local`. It differs from [`Self::config`] only if an SNI certificate
    /// names that address.
    pub fn config_for(&self, local: IpAddr) -> Arc<ServerConfig> {
        let current = self.current.load();
        current
            .by_address
            .get(&local.to_canonical())
            .unwrap_or(&current.default)
            .clone()
    }
}

impl Reload for ServerTls {
    fn refresh(&self) -> Vec<ReloadOutcome> {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let material = &mut *material;
        let mut outcomes = Vec::new();
        let mut changed = false;
        for pair in std::iter::once(&mut material.serving)
            .chain(material.sni.iter_mut().map(|(_, source)| source))
        {
            match pair.refresh() {
                Refreshed::Unchanged => continue,
                Refreshed::Changed => {
                    changed = true;
                    outcomes.push(ReloadOutcome {
                        key: pair.key().to_owned(),
                        result: Ok(()),
                    });
                }
                Refreshed::Failed(error) => outcomes.push(ReloadOutcome {
                    key: pair.key().to_owned(),
                    result: Err(error),
                }),
            }
        }
        for bundle in &mut material.hints {
            changed |= matches!(bundle.refresh(), Refreshed::Changed);
        }
        if changed {
            match material.build() {
                Ok(configs) => self.current.store(Arc::new(configs)),
                Err(error) => {
                    material.serving.blame(&error);
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
            self.current.store(new.current.into_inner());
        }))
    }

    fn files(&self) -> Vec<Arc<FileStats>> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs =
            std::iter::once(&material.serving).chain(material.sni.iter().map(|(_, source)| source));
        pairs
            .flat_map(|pair| pair.stats().iter().cloned())
            .collect()
    }

    fn validities(&self) -> Vec<(String, lifetime::Validity)> {
        let material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let pairs =
            std::iter::once(&material.serving).chain(material.sni.iter().map(|(_, source)| source));
        pairs
            .map(|pair| (pair.key().to_owned(), pair.validity()))
            .collect()
    }
}

impl Material {
    fn build(&self) -> Result<Configs, TlsError> {
        let names = Arc::new(sni::name_map(self.sni.iter().map(|(names, pair)| {
            (
                names.as_slice(),
                pair.value().names.as_slice(),
                &pair.value().certified,
            )
        })));
        let ticketer = ticketer().map_err(library)?;
        let serving = &self.serving.value().certified;
        let by_address = sni::addresses(&names)
            .map(|(address, key)| Ok((address, self.config(&names, key, &ticketer)?)))
            .collect::<Result<HashMap<_, _>, TlsError>>()?;
        Ok(Configs {
            default: self.config(&names, serving, &ticketer)?,
            by_address,
        })
    }

    /// A configuration that answers clients without a server name with `nameless`.
    fn config(
        &self,
        names: &Arc<HashMap<String, Arc<CertifiedKey>>>,
        nameless: &Arc<CertifiedKey>,
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = provider();
        let algorithms = provider.signature_verification_algorithms;
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(library)?;
        let builder = if self.hints.is_empty() {
            // kube-apiserver asks for a certificate only if it trusts some CA.
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_verifier(Arc::new(AnyCertificate::new(
                self.subjects(),
                algorithms,
            )))
        };
        let mut config = builder.with_cert_resolver(Arc::new(Resolver {
            names: names.clone(),
            default: self.serving.value().certified.clone(),
            nameless: nameless.clone(),
        }));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ticketer.clone();
        // Tickets do for both versions; a store would keep the chains that clients choose in memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    fn subjects(&self) -> Vec<DistinguishedName> {
        let mut subjects: Vec<DistinguishedName> = Vec::new();
        for anchor in self.hints.iter().flat_map(|bundle| &bundle.value().anchors) {
            // webpki keeps the inside of the SEQUENCE; a hint is the whole name.
            let subject = DistinguishedName::in_sequence(&anchor.subject);
            if !subjects
                .iter()
                .any(|known| known.as_ref() == subject.as_ref())
            {
                subjects.push(subject);
            }
        }
        subjects
    }
}

fn library(source: rustls::Error) -> TlsError {
    TlsError::Library {
        key: "serving".to_owned(),
        source,
    }
}
