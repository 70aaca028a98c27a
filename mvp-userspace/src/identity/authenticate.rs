//! Who makes a request: kube-apiserver's authenticators in kube-apiserver's order
//! (`kubernetes/pkg/kubeapiserver/authenticator/config.go`): request header, client certificate, bearer token, anonymous.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, header};

use super::certificate::Rejection;
use super::escape::unescape_key;
use super::examine::{CertIdentity, FrontProxyVerdict, X509Verdict};
use super::trust::{HeaderNames, Trust};
use super::user::{BadIdentity, User};
use crate::tls::IdentityClass;

/// Who makes a request, and so how it is sent upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Caller {
    /// A user with a verified client certificate; asserted upstream.
    Asserted(Arc<User>),
    /// A user that a verified front proxy asserted; asserted upstream in the same words.
    FrontProxy(Arc<User>),
    /// A bearer token, for the server to judge.
    Token,
    /// No credentials.
    Anonymous,
}

/// Why a request is refused before any server sees it. The answer is kube-apiserver's: 401, "Unauthorized", with no reason.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unauthorized {
    /// It was presented and does not identify anybody.
    #[error("client certificate: {0}")]
    Certificate(Rejection),
    /// It verified, and the user in it cannot be asserted by headers.
    #[error("{0}")]
    Identity(BadIdentity),
    /// A certificate that verified, but whose user the agent cannot convey to a server.
    #[error("no front-proxy certificate (upstream.clientCertFile) to assert users with")]
    CannotAssert,
}

impl Caller {
    /// The class of connection that the request must travel on.
    pub fn class(&self) -> IdentityClass {
        match self {
            Self::Asserted(_) | Self::FrontProxy(_) => IdentityClass::FrontProxy,
            Self::Token | Self::Anonymous => IdentityClass::Bare,
        }
    }

    /// Whether a verified front proxy speaks; only it may say that a request was proxied before.
    pub fn is_front_proxy(&self) -> bool {
        matches!(self, Self::FrontProxy(_))
    }

    /// The user asserted upstream, if any.
    pub fn user(&self) -> Option<&User> {
        match self {
            Self::Asserted(user) | Self::FrontProxy(user) => Some(user),
            Self::Token | Self::Anonymous => None,
        }
    }

    /// Empty for a token: only the server knows whose it is.
    pub fn name_for_log(&self) -> &str {
        match self {
            Self::Asserted(user) | Self::FrontProxy(user) => user.name(),
            Self::Token => "",
            Self::Anonymous => "system:anonymous",
        }
    }
}

/// Who makes the request with these `headers` over a connection with this certificate.
///
/// To be called with the client's headers whole, before anything is removed: [`super::admit()`] does.
///
/// # Errors
/// As kube-apiserver: a certificate that verifies against no configured CA, unless there is a token to judge instead; and
/// what it has no need of: a verified user that no header can express.
pub(crate) fn authenticate(
    certificate: Option<&CertIdentity>,
    headers: &HeaderMap,
    trust: &Trust,
) -> Result<Caller, Unauthorized> {
    let mut rejection = None;
    if let Some(certificate) = certificate {
        match &certificate.front_proxy {
            FrontProxyVerdict::NotConfigured => {}
            FrontProxyVerdict::Rejected(reason) => rejection = Some(reason),
            FrontProxyVerdict::Verified => {
                // Without a user name the request-header authenticator abstains and the others are tried.
                if let Some(user) =
                    asserted_user(headers, &trust.names).map_err(Unauthorized::Identity)?
                {
                    require_assertion(trust)?;
                    return Ok(Caller::FrontProxy(Arc::new(user)));
                }
            }
        }
        match &certificate.x509 {
            X509Verdict::NotConfigured | X509Verdict::NoName => {}
            X509Verdict::Rejected(reason) => rejection = Some(reason),
            X509Verdict::Unspeakable(bad) => return Err(Unauthorized::Identity(bad.clone())),
            X509Verdict::User(user) => {
                require_assertion(trust)?;
                return Ok(Caller::Asserted(user.clone()));
            }
        }
    }
    if has_bearer_token(headers) || has_websocket_token(headers) {
        return Ok(Caller::Token);
    }
    match rejection {
        Some(reason) => Err(Unauthorized::Certificate(reason.clone())),
        None => Ok(Caller::Anonymous),
    }
}

fn require_assertion(trust: &Trust) -> Result<(), Unauthorized> {
    if trust.can_assert {
        Ok(())
    } else {
        Err(Unauthorized::CannotAssert)
    }
}

/// The user that a front proxy's headers name (`headerrequest/requestheader.go`): the first user name header with a value, all
/// values of all group headers, all headers with an extra prefix. `None` if there is no user name.
fn asserted_user(headers: &HeaderMap, names: &HeaderNames) -> Result<Option<User>, BadIdentity> {
    let Some(name) = first_value(headers, &names.username, "user name")? else {
        return Ok(None);
    };
    let uid = first_value(headers, &names.uid, "uid")?.unwrap_or_default();
    let mut groups = Vec::new();
    for value in names
        .group
        .iter()
        .flat_map(|name| headers.get_all(name))
        .filter(|value| !value.is_empty())
    {
        groups.push(text(value, "group")?);
    }
    let mut extra: Vec<(String, Vec<String>)> = Vec::new();
    for prefix in &names.extra_prefixes {
        for name in headers.keys() {
            let Some(suffix) = name.as_str().strip_prefix(prefix.as_str()) else {
                continue;
            };
            let key = unescape_key(suffix).ok_or(BadIdentity::NotUtf8("extra key"))?;
            let values = headers
                .get_all(name)
                .iter()
                .map(|value| text(value, "extra value"));
            let values = values.collect::<Result<Vec<_>, _>>()?;
            match extra.iter_mut().find(|(known, _)| *known == key) {
                Some((_, known)) => known.extend(values),
                None => extra.push((key, values)),
            }
        }
    }
    User::new(name, uid, groups, extra, names).map(Some)
}

/// The first header of `names` whose first value is not empty.
fn first_value(
    headers: &HeaderMap,
    names: &[HeaderName],
    what: &'static str,
) -> Result<Option<String>, BadIdentity> {
    let value = names
        .iter()
        .filter_map(|name| headers.get(name))
        .find(|value| !value.is_empty());
    value.map(|value| text(value, what)).transpose()
}

fn text(value: &http::HeaderValue, what: &'static str) -> Result<String, BadIdentity> {
    String::from_utf8(value.as_bytes().to_vec()).map_err(|_| BadIdentity::NotUtf8(what))
}

/// `Authorization: Bearer <token>` as kube-apiserver takes it apart (`bearertoken/bearertoken.go`): the first header only,
/// trimmed, split at single spaces.
fn has_bearer_token(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return false;
    };
    const SCHEME: usize = "bearer".len();
    // The token, of some hundred bytes, is not walked over: whatever is no space begins one.
    matches!(
        value.as_bytes().trim_ascii().split_at_checked(SCHEME),
        Some((scheme, [b' ', first, ..])) if scheme.eq_ignore_ascii_case(b"bearer") && *first != b' '
    )
}

/// A token among the subprotocols of a WebSocket request (`request/websocket/protocol.go`), the way of browsers, which cannot
/// set headers. One that kube-apiserver would refuse counts as well, since it is the server that answers.
fn has_websocket_token(headers: &HeaderMap) -> bool {
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let upgrade = headers
        .get(header::UPGRADE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let connection =
        tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    upgrade
        && connection
        && tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL)
            .filter_map(|protocol| protocol.strip_prefix(PREFIX))
            .any(|token| {
                URL_SAFE_NO_PAD
                    .decode(token)
                    .is_ok_and(|token| !token.is_empty())
            })
}

/// The elements of a header that is a list, over all its values.
pub(super) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}
