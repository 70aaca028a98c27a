//! What a client's certificate says, computed once for each connection.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::certificate::{MAX_CERTIFICATE, MAX_CHAIN, Rejection, Roots};
use super::subject::{self, CREDENTIAL_ID, Subject};
use super::trust::Trust;
use super::user::{BadIdentity, User};
use crate::tls::{parse_certificate, validity};

/// The outcome of both verifications of one certificate chain.
///
/// kube-apiserver verifies on every request. Verification can only come out differently when the trust changes or when one of
/// the certificates involved begins or ceases to be valid; until then this stands for it.
#[derive(Clone, Debug)]
pub struct CertIdentity {
    pub(super) front_proxy: FrontProxyVerdict,
    pub(super) x509: X509Verdict,
    generation: u64,
    examined_at: u64,
    valid_until: u64,
}

/// What the request-header authenticator makes of the certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum FrontProxyVerdict {
    /// No request-header CA is configured: not an error.
    NotConfigured,
    Verified,
    Rejected(Rejection),
}

/// What the client-certificate authenticator makes of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum X509Verdict {
    /// No client CA is configured: not an error.
    NotConfigured,
    User(Arc<User>),
    /// Verified, but without a common name: not a user, and not an error.
    NoName,
    Rejected(Rejection),
    /// Verified, but no header can say who it is.
    Unspeakable(BadIdentity),
}

impl CertIdentity {
    /// Unix seconds; from then on examine again.
    pub fn valid_until(&self) -> u64 {
        self.valid_until
    }

    /// Whether it still stands under `trust` at `now`.
    pub fn stands(&self, trust: &Trust, now: UnixTime) -> bool {
        let now = now.as_secs();
        self.generation == trust.generation() && now < self.valid_until && now >= self.examined_at
    }
}

/// Examines the chain a client presented, its own certificate first.
pub fn examine(chain: &[CertificateDer<'_>], trust: &Trust, now: UnixTime) -> CertIdentity {
    let seconds = now.as_secs();
    let mut identity = CertIdentity {
        front_proxy: FrontProxyVerdict::NotConfigured,
        x509: X509Verdict::NotConfigured,
        generation: trust.generation(),
        examined_at: seconds,
        valid_until: u64::MAX,
    };
    let (subject, boundaries) = match bounded(chain).and_then(|()| read(chain)) {
        Ok(read) => read,
        Err(rejection) => {
            if trust.front_proxy.is_some() {
                identity.front_proxy = FrontProxyVerdict::Rejected(rejection.clone());
            }
            if trust.client_ca.is_some() {
                identity.x509 = X509Verdict::Rejected(rejection);
            }
            return identity;
        }
    };
    if let Some(proxy) = &trust.front_proxy {
        let allowed =
            proxy.allowed_names.is_empty() || proxy.allowed_names.contains(&subject.common_name);
        identity.front_proxy = match proxy.roots.verify(chain, now) {
            Err(rejection) => FrontProxyVerdict::Rejected(rejection),
            Ok(()) if !allowed => {
                FrontProxyVerdict::Rejected(Rejection::NameNotAllowed(subject.common_name.clone()))
            }
            Ok(()) => FrontProxyVerdict::Verified,
        };
    }
    let roots = [
        trust.client_ca.as_ref(),
        trust.front_proxy.as_ref().map(|proxy| &proxy.roots),
    ];
    let roots = roots.into_iter().flatten().flat_map(Roots::boundaries);
    identity.valid_until = boundaries
        .into_iter()
        .chain(roots)
        .filter_map(|boundary| u64::try_from(boundary).ok())
        .filter(|&boundary| boundary > seconds)
        .min()
        .unwrap_or(u64::MAX);
    if let Some(roots) = &trust.client_ca {
        identity.x509 = match roots.verify(chain, now) {
            Err(rejection) => X509Verdict::Rejected(rejection),
            Ok(()) => user(subject, chain, trust),
        };
    }
    identity
}

/// The certificates of one connection and what they were last found to say.
#[derive(Debug)]
pub struct PeerCertificates {
    chain: Vec<CertificateDer<'static>>,
    examined: ArcSwapOption<CertIdentity>,
}

impl PeerCertificates {
    /// `None` if the client presented none.
    pub fn new(chain: Option<&[CertificateDer<'static>]>) -> Option<Self> {
        let chain = chain.filter(|chain| !chain.is_empty())?;
        // Longer chains are rejected for their length alone: one certificate over the limit is enough to keep of them.
        let chain = chain.get(..=MAX_CHAIN).unwrap_or(chain).to_vec();
        Some(Self {
            chain,
            examined: ArcSwapOption::empty(),
        })
    }

    /// The identity under `trust` at `now`, examined at the first request and whenever it no longer stands.
    pub fn identity(&self, trust: &Trust, now: UnixTime) -> Arc<CertIdentity> {
        if let Some(identity) = self.examined.load_full()
            && identity.stands(trust, now)
        {
            return identity;
        }
        let identity = Arc::new(examine(&self.chain, trust, now));
        self.examined.store(Some(identity.clone()));
        identity
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl CertIdentity {
    /// An identity that was proved once and for all.
    pub(super) fn proved(front_proxy: FrontProxyVerdict, x509: X509Verdict) -> Self {
        Self {
            front_proxy,
            x509,
            generation: 1,
            examined_at: 0,
            valid_until: u64::MAX,
        }
    }
}

/// Entry for the fuzz target: `data` is a list of certificates, each after its length in two bytes; the first becomes the CA.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_certificate(data: &[u8]) {
    let mut chain = Vec::new();
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (der, tail) = tail.split_at(usize::from(u16::from_be_bytes(*length)).min(tail.len()));
        chain.push(CertificateDer::from(der));
        rest = tail;
    }
    // A header name list that cannot fail, and roots that come from the data.
    let Ok(names) = super::HeaderNames::new(None) else {
        return;
    };
    let roots = |ca: &CertificateDer<'_>| Roots::new(&[ca.clone().into_owned()]);
    let trust = match chain.first() {
        Some(ca) => Trust::new(
            Some(roots(ca)),
            Some(super::trust::FrontProxyTrust {
                roots: roots(ca),
                allowed_names: vec!["proxy".to_owned()],
            }),
            names,
            true,
            1,
        ),
        None => return,
    };
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
    let identity = examine(chain.get(1..).unwrap_or_default(), &trust, now);
    let _ = super::authenticate::authenticate(Some(&identity), &http::HeaderMap::new(), &trust);
}

/// Refuses chains that are too much work before any of it is done.
fn bounded(chain: &[CertificateDer<'_>]) -> Result<(), Rejection> {
    if chain.len() > MAX_CHAIN {
        return Err(Rejection::ChainTooLong(chain.len()));
    }
    if chain.iter().any(|der| der.len() > MAX_CERTIFICATE) {
        return Err(Rejection::TooLarge);
    }
    Ok(())
}

/// The subject of the first certificate, and all moments at which any certificate begins or ceases to be valid.
fn read(chain: &[CertificateDer<'_>]) -> Result<(Subject, Vec<i64>), Rejection> {
    let mut subject = None;
    let mut boundaries = Vec::with_capacity(chain.len() * 2);
    for der in chain {
        let parsed = parse_certificate(der).map_err(|_| Rejection::Malformed)?;
        let (not_before, not_after) = validity(&parsed);
        boundaries.extend([not_before, not_after.saturating_add(1)]);
        if subject.is_none() {
            subject = Some(subject::read(parsed.subject()).ok_or(Rejection::Malformed)?);
        }
    }
    Ok((subject.ok_or(Rejection::Malformed)?, boundaries))
}

/// The user that a verified certificate names (`x509.go:CommonNameUserConversion`, `parseUIDFromCert`).
fn user(subject: Subject, chain: &[CertificateDer<'_>], trust: &Trust) -> X509Verdict {
    if subject.common_name.is_empty() {
        return X509Verdict::NoName;
    }
    let uid = match subject.uids.as_slice() {
        [] => String::new(),
        [uid] if !uid.is_empty() => uid.clone(),
        _ => return X509Verdict::Rejected(Rejection::BadUid),
    };
    let credential = chain
        .first()
        .map(|der| subject::credential_id(der))
        .into_iter()
        .collect();
    let extra = vec![(CREDENTIAL_ID.to_owned(), credential)];
    match User::new(
        subject.common_name,
        uid,
        subject.organizations,
        extra,
        &trust.names,
    ) {
        Ok(user) => X509Verdict::User(Arc::new(user)),
        Err(bad) => X509Verdict::Unspeakable(bad),
    }
}
