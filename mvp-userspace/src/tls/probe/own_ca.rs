//! Which CA issued the certificates that the agent shows.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::{TrustAnchor, UnixTime};
use rustls::sign::CertifiedKey;
use webpki::{EndEntityCert, KeyUsage};

use crate::config::{Config, KeyPair};
use crate::tls::error::TlsError;
use crate::tls::reload::{Adopt, Reload};
use crate::tls::sni::{self, Resolver};
use crate::tls::source::{Bundle, FileSpec, FileStats, Pair, Refreshed, ReloadOutcome, Source};
use crate::tls::{lifetime, provider};

/// No CA of the configuration vouches for the agent's own certificate now; so nothing can be said to be of the same CA.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "neither clientCAFile nor upstream.caFile holds the CA that issued the agent's own certificate for this name, or that has expired"
)]
pub struct NoIssuer;

/// The agent's certificates and the CAs that may have issued them, reloaded with their files. Others report about these files.
pub struct OwnCa {
    material: Mutex<Material>,
    current: ArcSwap<Current>,
}

struct Material {
    serving: Source<Pair, 2>,
    sni: Vec<(Vec<String>, Source<Pair, 2>)>,
    bundles: Vec<Source<Bundle, 1>>,
}

struct Current {
    resolver: Resolver,
    anchors: Vec<TrustAnchor<'static>>,
}

impl OwnCa {
    /// Loads `serving`, `sni`, `clientCAFile` and `upstream.caFile`.
    ///
    /// # Errors
    /// The first file that is missing or malformed, or a key that does not match its certificate.
    pub fn load(config: &Config) -> Result<Self, TlsError> {
        let pair = |prefix: &str, pair: &KeyPair| {
            Source::load([
                FileSpec::new(format!("{prefix}.certFile"), &pair.cert_file),
                FileSpec::new(format!("{prefix}.keyFile"), &pair.key_file),
            ])
        };
        let mut sni = Vec::with_capacity(config.sni.len());
        for (index, certificate) in config.sni.iter().enumerate() {
            let source = pair(&format!("sni[{index}]"), &certificate.pair)?;
            sni.push((certificate.names.clone(), source));
        }
        let mut bundles = vec![Source::load([FileSpec::new(
            "upstream.caFile",
            &config.upstream.ca_file,
        )])?];
        if let Some(path) = &config.client_ca_file {
            bundles.push(Source::load([FileSpec::new("clientCAFile", path)])?);
        }
        let material = Material {
            serving: pair("serving", &config.serving)?,
            sni,
            bundles,
        };
        let current = ArcSwap::from_pointee(material.build());
        Ok(Self {
            material: Mutex::new(material),
            current,
        })
    }

    /// The CA certificates to which the chain leads that the agent shows a client which asks for `server_name`: usually one, or
    /// several of one CA that was renewed.
    ///
    /// # Errors
    /// If there are none.
    pub fn issuers(
        &self,
        server_name: Option<&str>,
        now: UnixTime,
    ) -> Result<Arc<RootCertStore>, NoIssuer> {
        let current = self.current.load();
        let own = current.resolver.choose(server_name);
        let roots: Vec<_> = current
            .anchors
            .iter()
            .filter(|anchor| leads_to(&own, anchor, now))
            .cloned()
            .collect();
        if roots.is_empty() {
            return Err(NoIssuer);
        }
        Ok(Arc::new(RootCertStore { roots }))
    }
}

impl Reload for OwnCa {
    fn refresh(&self) -> Vec<ReloadOutcome> {
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let material = &mut *material;
        let pairs = std::iter::once(&mut material.serving)
            .chain(material.sni.iter_mut().map(|(_, source)| source));
        let mut changed = false;
        for pair in pairs {
            changed |= matches!(pair.refresh(), Refreshed::Changed);
        }
        for bundle in &mut material.bundles {
            changed |= matches!(bundle.refresh(), Refreshed::Changed);
        }
        if changed {
            self.current.store(Arc::new(material.build()));
        }
        // `ServerTls`, `ClientTls` and `identity` report what becomes of these files.
        Vec::new()
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
        Vec::new()
    }

    fn validities(&self) -> Vec<(String, lifetime::Validity)> {
        Vec::new()
    }
}

impl Material {
    fn build(&self) -> Current {
        let names = sni::name_map(self.sni.iter().map(|(names, pair)| {
            (
                names.as_slice(),
                pair.value().names.as_slice(),
                &pair.value().certified,
            )
        }));
        let serving = self.serving.value().certified.clone();
        Current {
            resolver: Resolver {
                names: Arc::new(names),
                default: serving.clone(),
                nameless: serving,
            },
            anchors: self
                .bundles
                .iter()
                .flat_map(|bundle| bundle.value().anchors.iter().cloned())
                .collect(),
        }
    }
}

fn leads_to(own: &CertifiedKey, anchor: &TrustAnchor<'static>, now: UnixTime) -> bool {
    let Some((leaf, intermediates)) = own.cert.split_first() else {
        return false;
    };
    let algorithms = provider().signature_verification_algorithms.all;
    EndEntityCert::try_from(leaf).is_ok_and(|leaf| {
        leaf.verify_for_usage(
            algorithms,
            std::slice::from_ref(anchor),
            intermediates,
            now,
            KeyUsage::server_auth(),
            None,
            None,
        )
        .is_ok()
    })
}
