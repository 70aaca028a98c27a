//! What verification needs to know of one certificate, read as Go's crypto/x509 reads it (`parser.go`).

use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, ParsedExtension};
use x509_parser::prelude::X509Certificate;

use super::certificate::Rejection;
use super::constraints::Constraints;
use crate::tls::{parse_certificate, validity};

/// An owned reading of one certificate.
#[derive(Clone, Debug)]
pub(super) struct CertificateFacts {
    pub der: CertificateDer<'static>,
    pub subject: Vec<u8>,
    pub issuer: Vec<u8>,
    pub key: SubjectPublicKeyInfoDer<'static>,
    /// Unix seconds, both included.
    pub validity: (i64, i64),
    /// X.509 version 3: one below has no extensions that could deny anything.
    pub version3: bool,
    /// From `basicConstraints`; `None` without it.
    pub ca: Option<bool>,
    pub path_len: Option<u32>,
    /// From `keyUsage`; `None` without it, or with no usage at all in it.
    pub signs_certificates: Option<bool>,
    /// Whether the extended key usage allows client authentication, as it does where there is none.
    pub for_clients: bool,
    /// A critical extension that Go does not handle.
    pub unhandled: bool,
    pub names: Vec<Name>,
    pub constraints: Option<Constraints>,
    signature: Signature,
}

/// A subject alternative name of a kind that name constraints are applied to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Name {
    Dns(String),
    Ip(Vec<u8>),
    Email,
    Uri,
}

#[derive(Clone, Debug)]
struct Signature {
    signed: Vec<u8>,
    /// The contents of the AlgorithmIdentifier.
    algorithm: Vec<u8>,
    value: Vec<u8>,
}

impl CertificateFacts {
    /// # Errors
    /// [`Rejection::Malformed`], where Go fails to parse the certificate.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, Rejection> {
        let parsed = parse_certificate(der).map_err(|_| Rejection::Malformed)?;
        let mut facts = Self {
            der: der.clone().into_owned(),
            subject: parsed.subject().as_raw().to_vec(),
            issuer: parsed.issuer().as_raw().to_vec(),
            key: SubjectPublicKeyInfoDer::from(parsed.public_key().raw.to_vec()),
            validity: validity(&parsed),
            version3: parsed.version().0 == 2,
            ca: None,
            path_len: None,
            signs_certificates: None,
            for_clients: true,
            unhandled: false,
            names: Vec::new(),
            constraints: None,
            signature: Signature::read(&parsed).ok_or(Rejection::Malformed)?,
        };
        if facts.version3 {
            facts.read_extensions(&parsed).ok_or(Rejection::Malformed)?;
        }
        Ok(facts)
    }

    /// Whether the key of `parent` made this certificate's signature, with an algorithm that the TLS library verifies: SHA-1
    /// and MD5 are none, as in Go.
    pub(super) fn is_signed_with(&self, parent: &Self) -> bool {
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(&parent.key) else {
            return false;
        };
        let signature = &self.signature;
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == signature.algorithm)
            .any(|algorithm| {
                key.verify_signature(*algorithm, &signature.signed, &signature.value)
                    .is_ok()
            })
    }

    /// As Go's `CheckSignatureFrom`: version 3 must say that it is a CA, an earlier one cannot; whoever limits its key's usage
    /// must allow it to sign certificates.
    pub(super) fn may_sign(&self) -> bool {
        let is_ca = match self.ca {
            Some(ca) => ca,
            None => !self.version3,
        };
        is_ca && self.signs_certificates != Some(false)
    }

    fn read_extensions(&mut self, parsed: &X509Certificate<'_>) -> Option<()> {
        let mut seen = Vec::new();
        for extension in parsed.extensions() {
            let oid = extension.oid.as_bytes();
            if seen.contains(&oid) {
                return None;
            }
            seen.push(oid);
            let handled = match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => {
                    self.ca = Some(constraints.ca);
                    self.path_len = constraints.path_len_constraint;
                    true
                }
                ParsedExtension::KeyUsage(usage) => {
                    let any = usage.flags != 0;
                    self.signs_certificates = any.then(|| usage.key_cert_sign());
                    true
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    self.for_clients = allows_clients(usage);
                    true
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    self.names = read_names(&names.general_names)?;
                    !self.names.is_empty()
                }
                ParsedExtension::NameConstraints(constraints) => {
                    let (constraints, whole) = Constraints::read(constraints)?;
                    self.constraints = Some(constraints);
                    whole
                }
                ParsedExtension::CertificatePolicies(_)
                | ParsedExtension::CRLDistributionPoints(_) => true,
                // RFC 5280 says that these are never critical, and Go refuses to read a certificate in which they are.
                ParsedExtension::AuthorityKeyIdentifier(_)
                | ParsedExtension::SubjectKeyIdentifier(_)
                | ParsedExtension::AuthorityInfoAccess(_) => {
                    if extension.critical {
                        return None;
                    }
                    true
                }
                ParsedExtension::ParseError { .. } if is_read_by_go(oid) => return None,
                _ => false,
            };
            self.unhandled |= extension.critical && !handled;
        }
        Some(())
    }
}

impl Signature {
    /// `None` if the algorithm inside of what is signed is another than the one beside it, or if what is not signed is not in
    /// the one encoding that DER has for it: a certificate's fingerprint names one user, so nobody else may vary it.
    fn read(parsed: &X509Certificate<'_>) -> Option<Self> {
        let signed: &[u8] = parsed.tbs_certificate.as_ref();
        let whole = parsed.as_raw();
        // Both are slices of the same certificate; what is signed is its first element.
        let begin = (signed.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
        let algorithm = contents(whole.get(begin + signed.len()..)?)?;
        let value = parsed.signature_value.data.as_ref();
        let same = parsed.signature_algorithm == parsed.tbs_certificate.signature;
        let beside = [sequence(algorithm), bits(value)].concat();
        (same && sequence(&[signed, &beside].concat()) == whole).then(|| Self {
            signed: signed.to_vec(),
            algorithm: algorithm.to_vec(),
            value: value.to_vec(),
        })
    }
}

/// The contents of the DER sequence at the start of `der`.
fn contents(der: &[u8]) -> Option<&[u8]> {
    let ([0x30, length], rest) = der.split_first_chunk::<2>()? else {
        return None;
    };
    match *length {
        short @ 0..=0x7f => rest.get(..usize::from(short)),
        // No AlgorithmIdentifier that anything is done with is longer.
        0x81 => {
            let (length, rest) = rest.split_first()?;
            rest.get(..usize::from(*length))
        }
        _ => None,
    }
}

fn sequence(contents: &[u8]) -> Vec<u8> {
    element(0x30, contents)
}

/// A BIT STRING of whole bytes.
fn bits(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

/// One DER element (X.690 §10.1: the shortest form of the length).
fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = contents.len().to_be_bytes();
    let significant = length.iter().skip_while(|byte| **byte == 0).copied();
    let digits: Vec<u8> = significant.collect();
    let mut der = vec![tag];
    if contents.len() >= 0x80 {
        // At most the eight digits of a usize.
        der.push(0x80 | digits.len() as u8);
    }
    if contents.is_empty() {
        der.push(0);
    }
    der.extend(digits);
    der.extend(contents);
    der
}

/// Go's rule for `ExtKeyUsageClientAuth`: no restriction at all, or the usage itself, or any usage.
fn allows_clients(usage: &ExtendedKeyUsage<'_>) -> bool {
    let restricted = usage.server_auth
        || usage.code_signing
        || usage.email_protection
        || usage.time_stamping
        || usage.ocsp_signing
        || !usage.other.is_empty();
    usage.any || usage.client_auth || !restricted
}

/// The names that Go reads; others are as if they were not there.
fn read_names(names: &[GeneralName<'_>]) -> Option<Vec<Name>> {
    let mut read = Vec::new();
    for name in names {
        read.push(match name {
            GeneralName::DNSName(name) => Name::Dns((*name).to_owned()),
            GeneralName::RFC822Name(_) => Name::Email,
            GeneralName::URI(_) => Name::Uri,
            GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => {
                Name::Ip(bytes.to_vec())
            }
            GeneralName::IPAddress(_) | GeneralName::Invalid(..) => return None,
            _ => continue,
        });
    }
    Some(read)
}

/// Extensions whose malformed contents make Go refuse the certificate (`processExtensions`).
fn is_read_by_go(oid: &[u8]) -> bool {
    const AUTHORITY_INFO_ACCESS: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 1];
    match oid {
        [0x55, 0x1d, last] => matches!(last, 14 | 15 | 17 | 19 | 30 | 31 | 32 | 35 | 37),
        other => other == AUTHORITY_INFO_ACCESS,
    }
}
