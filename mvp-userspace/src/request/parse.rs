//! (method, path, query) -> [`RequestInfo`], after `NewRequestInfo` of kube-apiserver.

use std::borrow::Cow;

use http::{Method, StatusCode};

use super::RequestInfo;
use super::path::{Segments, decode};
use super::query::{ListOptions, list_options};
use crate::api::Verb;

/// A request that kube-apiserver would not even dispatch.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// 400. (Go's HTTP/2 server resets the stream instead; the client learns more from a 400.)
    #[error("the client's path has an invalid percent escape: {0:?}")]
    BadEscape(String),
    /// 400.
    #[error("the client's path or query has a control character")]
    ControlCharacter,
    /// 400.
    #[error("the client's path does not begin with a slash")]
    NoLeadingSlash,
}

impl RequestError {
    /// The status that kube-apiserver answers with.
    pub fn status(&self) -> StatusCode {
        match self {
            RequestError::BadEscape(_)
            | RequestError::ControlCharacter
            | RequestError::NoLeadingSlash => StatusCode::BAD_REQUEST,
        }
    }
}

impl<'a> RequestInfo<'a> {
    /// Parses a request target. `path` and `query` are as they came, still encoded; they are never changed.
    ///
    /// Allocates only for a path with escapes or a field selector by name.
    ///
    /// # Errors
    /// [`RequestError`]: what Go's URL parser refuses. (`watch` or `proxy` with nothing behind it names no resource; what to say to
    /// that is the server's business.)
    pub fn parse(
        method: &Method,
        path: &'a str,
        query: Option<&'a str>,
    ) -> Result<RequestInfo<'a>, RequestError> {
        match decode(path, query)? {
            Cow::Borrowed(path) => interpret(method, path, query),
            Cow::Owned(path) => interpret(method, &path, query).map(RequestInfo::into_owned),
        }
    }
}

fn interpret<'a>(
    method: &Method,
    path: &'a str,
    query: Option<&'a str>,
) -> Result<RequestInfo<'a>, RequestError> {
    let mut info = RequestInfo {
        is_resource: false,
        verb: verb_of(method),
        path: Cow::Borrowed(path),
        group: Cow::Borrowed(""),
        version: Cow::Borrowed(""),
        resource: Cow::Borrowed(""),
        subresource: Cow::Borrowed(""),
        namespace: Cow::Borrowed(""),
        name: Cow::Borrowed(""),
    };
    let segments = Segments::of(path);
    let parts = segments.as_slice();
    let (group, version, mut rest) = match (segments.resource_offset(), parts) {
        (Some(1), [_, version, rest @ ..]) => ("", *version, rest),
        (Some(_), [_, group, version, rest @ ..]) => (*group, *version, rest),
        _ => return Ok(info),
    };
    info.is_resource = true;
    info.group = Cow::Borrowed(group);
    info.version = Cow::Borrowed(version);

    if let [special @ ("watch" | "proxy"), after @ ..] = rest {
        info.verb = match *special {
            "watch" => Verb::Watch,
            _ => Verb::Proxy,
        };
        rest = after;
    }
    if let ["namespaces", namespace, after @ ..] = rest {
        info.namespace = Cow::Borrowed(namespace);
        // `status` and `finalize` are the namespace's own subresources; all else is a resource inside it.
        if !matches!(after, [] | ["status" | "finalize", ..]) {
            rest = after;
        }
    }
    let mut rest = rest.iter().copied();
    info.resource = Cow::Borrowed(rest.next().unwrap_or(""));
    info.name = Cow::Borrowed(rest.next().unwrap_or(""));
    if info.verb != Verb::Proxy {
        info.subresource = Cow::Borrowed(rest.next().unwrap_or(""));
    }

    if info.name.is_empty() {
        match info.verb {
            Verb::Get => {
                let ListOptions { watch, name } = query.map(list_options).unwrap_or_default();
                info.verb = if watch { Verb::Watch } else { Verb::List };
                info.name = Cow::Owned(name);
            }
            Verb::Delete => info.verb = Verb::DeleteCollection,
            _ => {}
        }
    }
    Ok(info)
}

fn verb_of(method: &Method) -> Verb {
    match *method {
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ => Verb::Other,
    }
}

#[cfg(test)]
mod tests;
