//! A user, with the headers that say so upstream.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::escape::escape_key;
use super::trust::HeaderNames;

/// Values of one user; certificates and header limits allow far fewer, HeaderMap holds 32,768.
const MAX_VALUES: usize = 8192;

/// A user that can be asserted upstream: every value is a legal header value, so none can be lost or changed on the way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a verified user cannot be conveyed by header. The request is refused: a user conveyed in part would be another user.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadIdentity {
    /// Servers answer 401 to an empty name.
    #[error("the user name is empty")]
    NoName,
    /// Which part of the user it is. Header values that are not UTF-8 would arrive as another user.
    #[error("the {0} is not UTF-8")]
    NotUtf8(&'static str),
    /// Control characters, or spaces at an end: HTTP/1.1 receivers trim those, and `admin ` would arrive as `admin`.
    #[error("the {0} {1:?} cannot be a header value")]
    Illegal(&'static str, String),
    /// Receivers skip empty values (`headerrequest/requestheader.go:allHeaderValues`), and the user would arrive with less.
    #[error("the user is in a group with an empty name, which no header can say")]
    EmptyGroup,
    /// See `requestHeader.uidHeaders`.
    #[error(
        "the user has a uid, and requestHeader.uidHeaders is empty: no server would hear of it"
    )]
    NoUidHeader,
    /// The server itself would have read it from the certificate.
    #[error(
        "the user has a uid, and kube-apiserver {0} takes none from a front proxy (its --requestheader-uid-headers does not list the \
         first of requestHeader.uidHeaders)"
    )]
    UidNotTaken(String),
    /// Each is a header, and servers limit the size of a request's header.
    #[error("the user has more than {MAX_VALUES} groups and extra values")]
    TooMany,
}

impl User {
    /// # Errors
    /// If any part cannot be conveyed exactly.
    pub fn new(
        name: String,
        uid: String,
        groups: Vec<String>,
        extra: Vec<(String, Vec<String>)>,
        names: &HeaderNames,
    ) -> Result<Self, BadIdentity> {
        if name.is_empty() {
            return Err(BadIdentity::NoName);
        }
        if groups.len() + extra.iter().map(|(_, values)| values.len()).sum::<usize>() > MAX_VALUES {
            return Err(BadIdentity::TooMany);
        }
        if groups.iter().any(String::is_empty) {
            return Err(BadIdentity::EmptyGroup);
        }
        if !uid.is_empty() && !names.tells_uid() {
            return Err(BadIdentity::NoUidHeader);
        }
        let mut headers = vec![(names.send_user().clone(), value("user name", &name)?)];
        if !uid.is_empty() {
            headers.push((names.send_uid().clone(), value("uid", &uid)?));
        }
        for group in &groups {
            headers.push((names.send_group().clone(), value("group", group)?));
        }
        for (key, values) in &extra {
            let header = format!("{}{}", names.send_extra(), escape_key(key));
            let header = HeaderName::from_bytes(header.as_bytes())
                .map_err(|_| BadIdentity::Illegal("extra key", key.clone()))?;
            for extra in values {
                headers.push((header.clone(), value("extra value", extra)?));
            }
        }
        Ok(Self {
            name,
            uid,
            groups,
            extra,
            headers,
        })
    }

    /// As in the certificate's common name, or in the header of a front proxy; never empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Empty if the user has none.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// In the order in which they will be asserted.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// Keys as the receiver will see them, each with its values in order.
    pub fn extra(&self) -> &[(String, Vec<String>)] {
        &self.extra
    }

    /// Adds the headers that assert this user. If they do not all fit, none is left, and the server answers 401.
    pub(super) fn assert_in(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.headers {
            if headers.try_append(name, value.clone()).is_err() {
                for (name, _) in &self.headers {
                    headers.remove(name);
                }
                return;
            }
        }
    }
}

fn value(what: &'static str, value: &str) -> Result<HeaderValue, BadIdentity> {
    let illegal = || BadIdentity::Illegal(what, value.to_owned());
    let blank = [' ', '\t'];
    if value.starts_with(blank) || value.ends_with(blank) {
        return Err(illegal());
    }
    HeaderValue::from_bytes(value.as_bytes()).map_err(|_| illegal())
}
