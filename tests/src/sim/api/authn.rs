//! Who a request comes from, asked in kube-apiserver's order (`authenticator.Config.New`): front-proxy headers, client
//! certificate, bearer token, anonymous. A credential that is present and that none accepts is a 401, never anonymous.

use std::collections::BTreeMap;

use http::{HeaderMap, header};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage};

use super::{
    query::decode,
    request_info::ResourcePath,
    status::{self, Failure},
};

/// The group of every authenticated user.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of the anonymous user.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user without credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// The group that may do everything, before any rule.
pub const MASTERS: &str = "system:masters";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
const ALLOWED_NAME: &str = "front-proxy-client";
const UID_OID: &str = "1.3.6.1.4.1.57683.2";
/// The first minor that reads a uid from certificates by default (gate AllowParsingUserUIDFromCertAuth, beta).
const UID_MINOR: u8 = 34;

/// Who is asking, as authorization and audit see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Never empty.
    pub name: String,
    /// Empty if the user has none.
    #[serde(default)]
    pub uid: String,
    /// In the order in which they were found.
    #[serde(default)]
    pub groups: Vec<String>,
    /// By key; keys are in lower case.
    #[serde(default)]
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Names of the headers by which a front proxy asserts a user (`--requestheader-*`). Compared without case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderNames {
    /// `--requestheader-username-headers`.
    pub users: Vec<String>,
    /// `--requestheader-uid-headers`; empty: none is believed, as before 1.32.
    pub uids: Vec<String>,
    /// `--requestheader-group-headers`.
    pub groups: Vec<String>,
    /// `--requestheader-extra-headers-prefix`.
    pub extra_prefixes: Vec<String>,
}

/// kubeadm's.
impl Default for HeaderNames {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            users: one("X-Remote-User"),
            uids: one("X-Remote-Uid"),
            groups: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

/// Which authenticator accepted the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Headers, over the certificate of a front proxy.
    FrontProxy,
    /// A client certificate.
    Certificate,
    /// A bearer token.
    Token,
    /// There were no credentials.
    Anonymous,
}

/// What the client showed in the TLS handshake, leaf first. Verified once for each connection.
#[derive(Debug, Default)]
pub struct PeerCertificate {
    front_proxy: bool,
    user: Option<User>,
    presented: bool,
    /// Unix seconds; kube-apiserver verifies at every request, and so a certificate that expires on an open connection is a 401.
    not_after: Option<i64>,
}

impl PeerCertificate {
    /// Whether it is one of a front proxy now.
    pub(super) fn is_front_proxy(&self) -> bool {
        self.front_proxy && !self.has_expired()
    }

    fn has_expired(&self) -> bool {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        self.not_after.is_some_and(|end| now > end)
    }
}

/// Trust anchors of one server.
#[derive(Debug)]
pub struct Authorities {
    cluster: Bundle,
    front_proxy: Bundle,
    minor: u8,
}

#[derive(Debug)]
struct Bundle {
    anchors: Vec<TrustAnchor<'static>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// What certificates are verified with, by a server of this minor version.
    ///
    /// # Errors
    /// A certificate of the two bundles cannot be a CA.
    pub fn new(
        cluster: &[CertificateDer<'_>],
        front_proxy: &[CertificateDer<'_>],
        minor: u8,
    ) -> Result<Self, webpki::Error> {
        let anchors = |certs: &[CertificateDer<'_>]| {
            let anchors = certs
                .iter()
                .map(|cert| Ok(webpki::anchor_from_trusted_cert(cert)?.to_owned()))
                .collect::<Result<Vec<_>, webpki::Error>>()?;
            Ok(Bundle {
                anchors,
                certificates: certs.iter().map(|cert| cert.clone().into_owned()).collect(),
            })
        };
        Ok(Self {
            cluster: anchors(cluster)?,
            front_proxy: anchors(front_proxy)?,
            minor,
        })
    }

    /// Looks at what the handshake let through.
    pub fn inspect(&self, chain: &[CertificateDer<'_>]) -> PeerCertificate {
        let Some(leaf) = chain.first() else {
            return PeerCertificate::default();
        };
        let mut user = parse(leaf, self.minor);
        let front_proxy = verifies(chain, &self.front_proxy)
            && user.as_ref().is_some_and(|u| u.name == ALLOWED_NAME);
        if !verifies(chain, &self.cluster) {
            user = None;
        }
        // A certificate without a common name names no user.
        PeerCertificate {
            front_proxy,
            user: user.filter(|user| !user.name.is_empty()),
            presented: true,
            not_after: not_after(leaf),
        }
    }
}

/// Tokens that are accepted.
pub type Tokens = BTreeMap<String, User>;

/// Who is asking: the front proxy's headers, the certificate and the token, in kube-apiserver's order.
///
/// # Errors
/// 401: there is a token that nobody knows, or a certificate that does not verify.
pub fn authenticate(
    certificate: &PeerCertificate,
    headers: &HeaderMap,
    names: &HeaderNames,
    tokens: &Tokens,
) -> Result<(User, Method), Failure> {
    if certificate.is_front_proxy()
        && let Some(user) = front_proxy_user(headers, names)
    {
        return Ok((with_group(user), Method::FrontProxy));
    }
    if let Some(user) = &certificate.user
        && !certificate.has_expired()
    {
        return Ok((with_group(user.clone()), Method::Certificate));
    }
    let token = bearer(headers);
    if let Some(user) = token.and_then(|token| tokens.get(token)) {
        return Ok((with_group(user.clone()), Method::Token));
    }
    if token.is_some() || certificate.presented {
        return Err(status::unauthorized());
    }
    let anonymous = User {
        name: ANONYMOUS.into(),
        groups: vec![UNAUTHENTICATED.into()],
        ..User::default()
    };
    Ok((anonymous, Method::Anonymous))
}

/// The effective user after `Impersonate-*`; only system:masters may ask for one.
pub fn impersonate(user: User, headers: &HeaderMap) -> Result<User, Failure> {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    };
    let mut wanted = User {
        name: text("impersonate-user"),
        uid: text("impersonate-uid"),
        ..User::default()
    };
    wanted.groups = values(headers, "impersonate-group");
    wanted.extra = extra(headers, "impersonate-extra-");
    if wanted == User::default() {
        return Ok(user);
    }
    if wanted.name.is_empty() {
        return Err(status::internal(
            "requested impersonation without impersonating a user",
        ));
    }
    if !user.groups.iter().any(|group| group == MASTERS) {
        let path = ResourcePath {
            resource: "users".into(),
            name: wanted.name,
            ..ResourcePath::default()
        };
        let cause = format!(
            "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
            user.name
        );
        return Err(status::forbidden(&path, &cause));
    }
    Ok(with_group(wanted))
}

/// apiserver `group.AuthenticatedGroupAdder`.
fn with_group(mut user: User) -> User {
    if user.name == ANONYMOUS {
        if user.groups.is_empty() {
            user.groups.push(UNAUTHENTICATED.into());
        }
    } else if !user
        .groups
        .iter()
        .any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED)
    {
        user.groups.push(AUTHENTICATED.into());
    }
    user
}

/// apiserver `headerrequest.requestHeaderBundle`.
fn front_proxy_user(headers: &HeaderMap, names: &HeaderNames) -> Option<User> {
    let all = |names: &[String]| -> Vec<String> {
        let values = names.iter().flat_map(|name| values(headers, name));
        values.filter(|value| !value.is_empty()).collect()
    };
    let mut extras = BTreeMap::new();
    for prefix in &names.extra_prefixes {
        for (key, values) in extra(headers, &prefix.to_ascii_lowercase()) {
            extras.entry(key).or_insert_with(Vec::new).extend(values);
        }
    }
    Some(User {
        name: all(&names.users).into_iter().next()?,
        uid: all(&names.uids).into_iter().next().unwrap_or_default(),
        groups: all(&names.groups),
        extra: extras,
    })
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers
        .get_all(name)
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .collect()
}

/// Keys are lower case already (HTTP), then percent-decoded; a malformed escape is kept as it is.
fn extra(headers: &HeaderMap, prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix(prefix) else {
            continue;
        };
        let key = decode(key, false).unwrap_or_else(|| key.to_owned());
        all.entry(key)
            .or_insert_with(Vec::new)
            .extend(values(headers, name.as_str()));
    }
    all
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .trim()
        .split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token.trim())
}

/// By webpki, and by OpenSSL what webpki refuses: certificates that Go's crypto/x509 takes and webpki does not (version 1, a
/// CA's own, critical policies), judged by something else than what the agent judges them with.
fn verifies(chain: &[CertificateDer<'_>], bundle: &Bundle) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return false;
    };
    let verified = EndEntityCert::try_from(leaf).is_ok_and(|leaf| {
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &bundle.anchors,
            intermediates,
            UnixTime::now(),
            KeyUsage::client_auth(),
            None,
            None,
        )
        .is_ok()
    });
    verified || crate::openssl::verify(chain, &bundle.certificates).unwrap_or(false)
}

fn not_after(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// apiserver `x509.CommonNameUserConversion`.
fn parse(leaf: &CertificateDer<'_>, minor: u8) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = certificate.subject();
    let mut user = User::default();
    for name in subject.iter_common_name() {
        // The last one wins, as in Go's pkix.Name.
        user.name = name.as_str().ok()?.to_owned();
    }
    user.groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    if minor >= UID_MINOR {
        let uid = subject
            .iter_attributes()
            .find(|attribute| attribute.attr_type().to_id_string() == UID_OID);
        user.uid = uid
            .and_then(|uid| uid.as_str().ok())
            .unwrap_or_default()
            .to_owned();
    }
    let digest: String = Sha256::digest(leaf)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    user.extra
        .insert(CREDENTIAL_ID.into(), vec![format!("X509SHA256={digest}")]);
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn front_proxy_headers_need_the_certificate() {
        let sent = headers(&[
            ("x-remote-user", "alice"),
            ("x-remote-group", "devs"),
            ("x-remote-extra-a%2fb", "1"),
        ]);
        let trusted = PeerCertificate {
            front_proxy: true,
            presented: true,
            ..PeerCertificate::default()
        };
        let names = HeaderNames::default();
        let (user, method) = authenticate(&trusted, &sent, &names, &Tokens::new()).unwrap();
        assert_eq!((user.name.as_str(), method), ("alice", Method::FrontProxy));
        assert_eq!(user.groups, ["devs", AUTHENTICATED]);
        assert_eq!(user.extra["a/b"], ["1"]);
        let nobody = PeerCertificate::default();
        let (user, method) = authenticate(&nobody, &sent, &names, &Tokens::new()).unwrap();
        assert_eq!((user.name.as_str(), method), (ANONYMOUS, Method::Anonymous));
        // Asserted by names that this server is not configured with, or with a certificate that has expired.
        let other = HeaderNames {
            users: vec!["X-Corp-User".into()],
            ..HeaderNames::default()
        };
        assert!(authenticate(&trusted, &sent, &other, &Tokens::new()).is_err());
        let expired = PeerCertificate {
            not_after: Some(0),
            ..trusted
        };
        assert!(authenticate(&expired, &sent, &names, &Tokens::new()).is_err());
    }

    #[test]
    fn a_presented_credential_is_never_anonymous() {
        let names = HeaderNames::default();
        let presented = PeerCertificate {
            presented: true,
            ..PeerCertificate::default()
        };
        assert!(authenticate(&presented, &HeaderMap::new(), &names, &Tokens::new()).is_err());
        let bad = headers(&[("authorization", "Bearer nope")]);
        assert!(authenticate(&PeerCertificate::default(), &bad, &names, &Tokens::new()).is_err());
        let tokens = Tokens::from([(
            "nope".to_owned(),
            User {
                name: "bench".into(),
                ..User::default()
            },
        )]);
        assert_eq!(
            authenticate(&presented, &bad, &names, &tokens).unwrap().1,
            Method::Token
        );
    }

    #[test]
    fn only_masters_impersonate() {
        let sent = headers(&[("impersonate-user", "bob"), ("impersonate-group", "x")]);
        let alice = User {
            name: "alice".into(),
            ..User::default()
        };
        assert!(impersonate(alice.clone(), &sent).is_err());
        let admin = User {
            groups: vec![MASTERS.into()],
            ..alice
        };
        assert_eq!(
            impersonate(admin, &sent).unwrap().groups,
            ["x", AUTHENTICATED]
        );
    }
}
