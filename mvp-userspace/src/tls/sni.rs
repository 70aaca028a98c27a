//! Which certificate answers which server name, as kube-apiserver's `--tls-sni-cert-key`
//! (`apiserver/pkg/server/dynamiccertificates/named_certificates.go`).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// Chooses a certificate by the name in the ClientHello.
#[derive(Debug)]
pub(super) struct Resolver {
    pub names: Arc<HashMap<String, Arc<CertifiedKey>>>,
    /// The certificate for a name that is none of `names`.
    pub default: Arc<CertifiedKey>,
    /// The certificate for a client that sends no name.
    pub nameless: Arc<CertifiedKey>,
}

impl Resolver {
    pub(super) fn choose(&self, server_name: Option<&str>) -> Arc<CertifiedKey> {
        let Some(name) = server_name else {
            return self.nameless.clone();
        };
        let name = name.to_ascii_lowercase();
        // As Go's crypto/tls: the name itself, then with its first label replaced, then the default.
        let found = self.names.get(&name).or_else(|| {
            let rest = name
                .split_once('.')
                .map_or(String::new(), |(_, rest)| format!(".{rest}"));
            self.names.get(&format!("*{rest}"))
        });
        found.unwrap_or(&self.default).clone()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.choose(hello.server_name()))
    }
}

/// The names of all SNI certificates: earlier certificates win, and names the configuration gives win over names that a
/// certificate holds.
pub(super) fn name_map<'a>(
    certificates: impl DoubleEndedIterator<Item = (&'a [String], &'a [String], &'a Arc<CertifiedKey>)>,
) -> HashMap<String, Arc<CertifiedKey>> {
    let mut explicit = HashMap::new();
    let mut own = HashMap::new();
    for (configured, in_certificate, key) in certificates.rev() {
        let (map, names) = if configured.is_empty() {
            (&mut own, in_certificate)
        } else {
            (&mut explicit, configured)
        };
        for name in names {
            map.insert(name.to_ascii_lowercase(), key.clone());
        }
    }
    own.extend(explicit);
    own
}

/// The addresses among the names. A client that dials an address sends no server name; kube-apiserver then looks the local
/// address of the connection up (`dynamiccertificates/tlsconfig.go`).
pub(super) fn addresses(
    names: &HashMap<String, Arc<CertifiedKey>>,
) -> impl Iterator<Item = (IpAddr, &Arc<CertifiedKey>)> {
    names
        .iter()
        .filter_map(|(name, key)| Some((name.parse().ok()?, key)))
}

/// The names for which a certificate answers when the configuration names none: its common name, if that is a DNS name, and
/// its DNS alternative names. Addresses are left out.
pub(super) fn certificate_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let common_name = certificate
        .subject()
        .iter_common_name()
        .last()
        .and_then(|cn| cn.as_str().ok());
    if let Some(cn) = common_name
        && cn.parse::<IpAddr>().is_err()
        && (cn == "*" || is_dns_name(cn.strip_prefix("*.").unwrap_or(cn)))
    {
        names.push(cn.to_owned());
    }
    if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
        names.extend(
            alternatives
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                }),
        );
    }
    names
}

/// RFC 1123 subdomain, lower case (`apimachinery/pkg/util/validation/validation.go`).
fn is_dns_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|&b| legal(b))
            && bytes.last().is_some_and(|&b| legal(b))
            && bytes.iter().all(|&b| legal(b) || b == b'-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Identity, self_signed, server};

    fn key(identity: &Identity) -> Arc<CertifiedKey> {
        use rustls::pki_types::pem::PemObject;
        let key =
            rustls::pki_types::PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
        Arc::new(
            CertifiedKey::from_der(vec![identity.der.clone()], key, &crate::tls::provider())
                .unwrap(),
        )
    }

    #[test]
    fn one_label_is_wild_and_no_more() {
        let [default, nameless, wild, any] =
            [(); 4].map(|()| key(&self_signed(server(&["localhost"]))));
        let names =
            [("*.wild.org", &wild), ("*", &any)].map(|(name, key)| (name.to_owned(), key.clone()));
        let resolver = Resolver {
            names: Arc::new(HashMap::from(names)),
            default: default.clone(),
            nameless: nameless.clone(),
        };
        for (name, expected) in [
            (Some("a.WILD.org"), &wild),
            (Some("a.b.wild.org"), &default),
            (Some("wild.org"), &default),
            (Some("localhost"), &any),
            (Some(""), &any),
            (None, &nameless),
        ] {
            assert!(Arc::ptr_eq(&resolver.choose(name), expected), "{name:?}");
        }
    }

    #[test]
    fn names_of_a_certificate() {
        let names = |common_name: &str, alternatives: &[&str]| {
            let mut params = server(alternatives);
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, common_name);
            let identity = self_signed(params);
            certificate_names(&crate::tls::parse_certificate(&identity.der).unwrap())
        };
        assert_eq!(
            names("a.example.org", &["b.example.org", "127.0.0.1"]),
            ["a.example.org", "b.example.org"]
        );
        assert_eq!(names("*.example.org", &[]), ["*.example.org"]);
        assert_eq!(names("*", &[]), ["*"]);
        for none in [
            "10.0.0.1",
            "kube apiserver",
            "Upper.example.org",
            "-a",
            "a-",
            "a..b",
            "",
            "a.*.b",
            &"a".repeat(254),
        ] {
            assert!(names(none, &[]).is_empty(), "{none:?}");
        }
    }
}
