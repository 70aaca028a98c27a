//! Verification of a client's certificate chain, with the outcome that Go's crypto/x509 gives in kube-apiserver.
//!
//! webpki builds the path and checks signatures, names and times. Go checks more of the CAs than webpki does (validity, CA bit,
//! key usage and path length of the root; key usage of intermediates), and takes `anyExtendedKeyUsage`; both are added here.
//! Stricter than Go: a CA certificate, or one of version 1, identifies nobody unless it is itself in the bundle, and RSA keys
//! below 2048 bits are refused.

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeId, KeyPurposeIdIter, KeyUsage,
    VerifiedPath,
};
use x509_parser::prelude::X509Certificate;

use crate::tls::{parse_certificate, validity};

/// Certificates accepted from a client, the first included. Among intermediates of one name webpki tries every order before it
/// gives up: six certificates are at most 325 steps, ten were 60,000, which anyone could cause.
pub(super) const MAX_CHAIN: usize = 6;
/// Bytes of one certificate.
pub(super) const MAX_CERTIFICATE: usize = 32 << 10;

/// Why a certificate identifies nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    #[error("{0} certificates were presented; at most {MAX_CHAIN} are looked at")]
    ChainTooLong(usize),
    #[error("a certificate of more than {MAX_CERTIFICATE} bytes was presented")]
    TooLarge,
    #[error("malformed certificate")]
    Malformed,
    #[error("certificate has expired")]
    Expired,
    #[error("certificate is not valid yet")]
    NotYetValid,
    #[error("certificate signed by unknown authority")]
    UnknownIssuer,
    #[error("certificate's extended key usage does not include client authentication")]
    WrongUsage,
    #[error("certificate refused: {0}")]
    Refused(Error),
    #[error("common name {0:?} is not among requestHeader.allowedNames")]
    NameNotAllowed(String),
    #[error("certificate holds several UIDs, or an empty one")]
    BadUid,
}

/// The CAs of one bundle.
#[derive(Debug)]
pub(super) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    /// In the order of `anchors`.
    facts: Vec<RootFacts>,
}

#[derive(Debug)]
struct RootFacts {
    der: CertificateDer<'static>,
    validity: (i64, i64),
    may_sign: bool,
    path_len: Option<u32>,
    for_clients: bool,
}

impl Roots {
    /// What does not parse is left out; the loader has refused such bundles before.
    pub fn new(certificates: &[CertificateDer<'static>]) -> Self {
        let parsed = certificates.iter().filter_map(|der| {
            let anchor = webpki::anchor_from_trusted_cert(der).ok()?.to_owned();
            Some((anchor, RootFacts::new(der)?))
        });
        let (anchors, facts) = parsed.unzip();
        Self { anchors, facts }
    }

    /// Verifies `chain` for client authentication at `now`. The caller has bounded the chain.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Rejection> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(Rejection::Malformed);
        };
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        // A certificate that is itself in the bundle is its own path, CA or not.
        if let Some(root) = self.facts.iter().find(|root| root.der == *leaf) {
            root.check_time(seconds)?;
            return if root.for_clients {
                Ok(())
            } else {
                Err(Rejection::WrongUsage)
            };
        }
        let leaf = EndEntityCert::try_from(leaf).map_err(|_| Rejection::Malformed)?;
        let algorithms = rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all;
        let acceptable = |path: &VerifiedPath<'_>| self.check_path(path, seconds);
        leaf.verify_for_usage(
            algorithms,
            &self.anchors,
            intermediates,
            now,
            ForClients,
            None,
            Some(&acceptable),
        )
        .map(|_| ())
        .map_err(Rejection::from)
    }

    /// All moments (Unix seconds) at which a root begins or ceases to be valid.
    pub fn boundaries(&self) -> impl Iterator<Item = i64> {
        self.facts
            .iter()
            .flat_map(|root| [root.validity.0, root.validity.1.saturating_add(1)])
    }

    /// What Go checks of the CAs in a path, and webpki leaves.
    fn check_path(&self, path: &VerifiedPath<'_>, now: i64) -> Result<(), Error> {
        let anchor = self
            .anchors
            .iter()
            .position(|anchor| std::ptr::eq(anchor, path.anchor()));
        let root = anchor
            .and_then(|index| self.facts.get(index))
            .ok_or(Error::UnknownIssuer)?;
        root.check_time(now).map_err(|_| Error::UnknownIssuer)?;
        let intermediates = path.intermediate_certificates().count();
        if !root.may_sign {
            return Err(Error::EndEntityUsedAsCa);
        }
        if root
            .path_len
            .is_some_and(|limit| usize::try_from(limit).is_ok_and(|limit| intermediates > limit))
        {
            return Err(Error::PathLenConstraintViolated);
        }
        if !root.for_clients {
            return Err(Error::UnknownIssuer);
        }
        for intermediate in path.intermediate_certificates() {
            let der = intermediate.der();
            let parsed = parse_certificate(&der).map_err(|_| Error::BadDer)?;
            if !may_sign(&parsed) {
                return Err(Error::EndEntityUsedAsCa);
            }
        }
        Ok(())
    }
}

impl RootFacts {
    fn new(der: &CertificateDer<'static>) -> Option<Self> {
        let parsed = parse_certificate(der).ok()?;
        Some(Self {
            der: der.clone(),
            validity: validity(&parsed),
            may_sign: may_sign(&parsed),
            path_len: path_len(&parsed),
            for_clients: for_clients(&parsed),
        })
    }

    fn check_time(&self, now: i64) -> Result<(), Rejection> {
        if now < self.validity.0 {
            Err(Rejection::NotYetValid)
        } else if now > self.validity.1 {
            Err(Rejection::Expired)
        } else {
            Ok(())
        }
    }
}

/// As Go's `CheckSignatureFrom`: version 1 has no extensions to say otherwise; version 3 must say that it is a CA, and if it
/// limits its key's usage at all must allow signing certificates.
fn may_sign(certificate: &X509Certificate<'_>) -> bool {
    let is_ca = match certificate.basic_constraints() {
        Ok(Some(constraints)) => constraints.value.ca,
        Ok(None) => certificate.version().0 < 2,
        Err(_) => false,
    };
    let usage = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    is_ca && usage
}

fn path_len(certificate: &X509Certificate<'_>) -> Option<u32> {
    certificate
        .basic_constraints()
        .ok()
        .flatten()
        .and_then(|constraints| constraints.value.path_len_constraint)
}

fn for_clients(certificate: &X509Certificate<'_>) -> bool {
    match certificate.extended_key_usage() {
        Ok(Some(usage)) => usage.value.client_auth || usage.value.any,
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Go's rule for `ExtKeyUsageClientAuth`: no restriction at all, or the usage itself, or any usage.
struct ForClients;

const ANY_USAGE: KeyPurposeId<'static> = KeyPurposeId::new(&[0x55, 0x1d, 0x25, 0]);

impl ExtendedKeyUsageValidator for ForClients {
    fn validate(&self, present: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let client = KeyPurposeId::new(&[0x2b, 6, 1, 5, 5, 7, 3, 2]);
        let mut restricted = false;
        let mut found = Vec::new();
        for id in present {
            let id = id?;
            if id == client || id == ANY_USAGE {
                return Ok(());
            }
            restricted = true;
            found.push(id.to_decoded_oid());
        }
        if restricted {
            let required = KeyUsage::client_auth();
            return Err(Error::RequiredEkuNotFoundContext(
                webpki::RequiredEkuNotFoundContext {
                    required,
                    present: found,
                },
            ));
        }
        Ok(())
    }
}

impl From<Error> for Rejection {
    fn from(error: Error) -> Self {
        match error {
            Error::CertExpired { .. } => Self::Expired,
            Error::CertNotValidYet { .. } => Self::NotYetValid,
            Error::UnknownIssuer => Self::UnknownIssuer,
            Error::RequiredEkuNotFoundContext(_) => Self::WrongUsage,
            Error::BadDer | Error::BadDerTime => Self::Malformed,
            other => Self::Refused(other),
        }
    }
}
