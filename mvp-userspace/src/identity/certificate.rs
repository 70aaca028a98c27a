//! Verification of a client's certificate chain, with the outcome that Go's crypto/x509 gives in kube-apiserver
//! (`Certificate.Verify` for `ExtKeyUsageClientAuth`).
//!
//! Signatures are checked by webpki's primitives; the path is built here, since webpki refuses what Go accepts: certificates of
//! version 1, a critical `certificatePolicies`, a CA's own certificate as a client's. Stricter than Go: RSA keys below 2048
//! bits, critical policy constraints (which releases built before Go 1.24 refuse too), mail addresses and URIs under name
//! constraints, and chains above the two limits below.

use rustls::pki_types::{CertificateDer, UnixTime};

use super::facts::CertificateFacts;

/// Certificates accepted from a client, the first included.
pub(super) const MAX_CHAIN: usize = 6;
/// Bytes of one certificate.
pub(super) const MAX_CERTIFICATE: usize = 32 << 10;
/// Signatures checked for one chain, as Go's `maxChainSignatureChecks`: look-alike issuers are bounded work.
const MAX_SIGNATURES: u32 = 100;

/// Why a certificate identifies nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// How many there were. Verification costs a signature for each.
    #[error("{0} certificates were presented; at most {MAX_CHAIN} are looked at")]
    ChainTooLong(usize),
    /// Not even parsed.
    #[error("a certificate of more than {MAX_CERTIFICATE} bytes was presented")]
    TooLarge,
    /// It is not the DER of an X.509 certificate.
    #[error("malformed certificate")]
    Malformed,
    /// The leaf, or every path to a CA, is past its `notAfter`.
    #[error("certificate has expired")]
    Expired,
    /// The leaf, or every path to a CA, is before its `notBefore`.
    #[error("certificate is not valid yet")]
    NotYetValid,
    /// No path leads to a CA of the bundle.
    #[error("certificate signed by unknown authority")]
    UnknownIssuer,
    /// The leaf or a CA in the path has an extendedKeyUsage without `clientAuth` (RFC 5280 §4.2.1.12).
    #[error("certificate's extended key usage does not include client authentication")]
    WrongUsage,
    /// Another rule of RFC 5280 is broken; the text says which.
    #[error("certificate refused: {0}")]
    Refused(&'static str),
    /// It verified, but this front proxy may not assert users.
    #[error("common name {0:?} is not among requestHeader.allowedNames")]
    NameNotAllowed(String),
    /// kube-apiserver refuses such a certificate too.
    #[error("certificate holds several UIDs, or an empty one")]
    BadUid,
}

/// The CAs of one bundle.
#[derive(Debug)]
pub(super) struct Roots(Vec<CertificateFacts>);

/// What a certificate is asked to be in a path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum PathPosition {
    Leaf,
    Intermediate,
    Root,
}

/// One search for a path.
struct Search<'a> {
    roots: &'a [CertificateFacts],
    intermediates: &'a [CertificateFacts],
    now: i64,
    signatures_left: u32,
    /// What spoke against the last candidate that had the right name.
    why: Rejection,
}

impl Roots {
    /// What does not parse is left out; the loader has refused such bundles before.
    pub(super) fn new(certificates: &[CertificateDer<'static>]) -> Self {
        let read = certificates
            .iter()
            .filter_map(|der| CertificateFacts::read(der).ok());
        Self(read.collect())
    }

    /// Verifies `chain` for client authentication at `now`. The caller has bounded the chain.
    ///
    /// # Errors
    /// Why the first certificate identifies nobody.
    pub(super) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Rejection> {
        let chain = chain
            .iter()
            .map(CertificateFacts::read)
            .collect::<Result<Vec<_>, _>>()?;
        let (leaf, intermediates) = chain.split_first().ok_or(Rejection::Malformed)?;
        let mut search = Search {
            roots: &self.0,
            intermediates,
            now: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
            signatures_left: MAX_SIGNATURES,
            why: Rejection::UnknownIssuer,
        };
        search.check(leaf, PathPosition::Leaf, &[])?;
        // A certificate that is itself in the bundle is its own path, CA or not.
        if self.0.iter().any(|root| root.der == leaf.der) {
            return for_clients(&[leaf]);
        }
        match search.extend(&mut vec![leaf]) {
            true => Ok(()),
            false => Err(search.why),
        }
    }

    /// All moments (Unix seconds) at which a root begins or ceases to be valid.
    pub(super) fn boundaries(&self) -> impl Iterator<Item = i64> {
        self.0
            .iter()
            .flat_map(|root| [root.validity.0, root.validity.1.saturating_add(1)])
    }
}

impl<'a> Search<'a> {
    /// Whether the path leads to a root for client authentication.
    fn extend(&mut self, path: &mut Vec<&'a CertificateFacts>) -> bool {
        let Some(child) = path.last().copied() else {
            return false;
        };
        for root in self
            .roots
            .iter()
            .filter(|root| root.subject == child.issuer)
        {
            let whole = self
                .consider(root, PathPosition::Root, path)
                .and_then(|()| for_clients(path))
                .and_then(|()| for_clients(&[root]));
            match whole {
                Ok(()) => return true,
                Err(why) => self.why = why,
            }
        }
        for candidate in self
            .intermediates
            .iter()
            .filter(|c| c.subject == child.issuer)
        {
            match self.consider(candidate, PathPosition::Intermediate, path) {
                Ok(()) => {
                    path.push(candidate);
                    if self.extend(path) {
                        return true;
                    }
                    path.pop();
                }
                Err(why) => self.why = why,
            }
        }
        false
    }

    /// Whether `candidate` may come next in the path.
    fn consider(
        &mut self,
        candidate: &CertificateFacts,
        place: PathPosition,
        path: &[&CertificateFacts],
    ) -> Result<(), Rejection> {
        let Some(child) = path.last() else {
            return Err(Rejection::UnknownIssuer);
        };
        let is_known = |known: &&CertificateFacts| {
            known.subject == candidate.subject && known.key.as_ref() == candidate.key.as_ref()
        };
        if path.iter().any(is_known) {
            return Err(self.why.clone());
        }
        if !candidate.may_sign() {
            return Err(Rejection::Refused("its issuer may not sign certificates"));
        }
        self.signatures_left = self
            .signatures_left
            .checked_sub(1)
            .ok_or(Rejection::Refused("too many issuers of one name"))?;
        if !child.is_signed_with(candidate) {
            return Err(Rejection::UnknownIssuer);
        }
        self.check(candidate, place, path)
    }

    /// Go's `isValid`.
    fn check(
        &self,
        certificate: &CertificateFacts,
        place: PathPosition,
        path: &[&CertificateFacts],
    ) -> Result<(), Rejection> {
        if certificate.unhandled {
            return Err(Rejection::Refused("it has an unknown critical extension"));
        }
        if self.now < certificate.validity.0 {
            return Err(Rejection::NotYetValid);
        }
        if self.now > certificate.validity.1 {
            return Err(Rejection::Expired);
        }
        if let Some(constraints) = &certificate.constraints
            && place != PathPosition::Leaf
            && !path
                .iter()
                .flat_map(|c| &c.names)
                .all(|name| constraints.allow(name))
        {
            return Err(Rejection::Refused("its issuer may not sign its names"));
        }
        if place == PathPosition::Intermediate && certificate.ca != Some(true) {
            return Err(Rejection::Refused("its issuer is no CA"));
        }
        let intermediates = path.len().saturating_sub(1);
        if certificate
            .path_len
            .is_some_and(|limit| usize::try_from(limit).is_ok_and(|limit| intermediates > limit))
        {
            return Err(Rejection::Refused("its chain is longer than its CA allows"));
        }
        Ok(())
    }
}

fn for_clients(path: &[&CertificateFacts]) -> Result<(), Rejection> {
    match path.iter().all(|certificate| certificate.for_clients) {
        true => Ok(()),
        false => Err(Rejection::WrongUsage),
    }
}
