//! What a request asks for: (method, path, query) -> [`RequestInfo`]. Pure; the rules are kube-apiserver's own
//! (`apiserver/pkg/endpoints/request/requestinfo.go`), so that agent and server never disagree about a request.

mod parse;
mod path;
mod query;

use std::borrow::Cow;

use crate::api::{Key, Verb};

pub use parse::RequestError;
pub use path::{PathClass, classify};
pub use query::NewerOptions;

/// What one request asks for. Borrows from the request's target; percent-decoded parts are owned only if they had escapes.
///
/// Bytes that are no UTF-8 after decoding are replaced (U+FFFD): no server lists such a group, version or resource, so the
/// key matches nothing, as it does in kube-apiserver. The bytes sent upstream are the client's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestInfo<'a> {
    /// False for `/healthz`, discovery, OpenAPI and every other path without a resource.
    pub is_resource: bool,
    /// For a path without a resource: what the method would mean for one (kube-apiserver has the lower-case method there).
    pub verb: Verb,
    /// Decoded once, as Go's `URL.Path`; what [`classify`] takes.
    pub path: Cow<'a, str>,
    /// Empty for the core group, and for paths without a resource.
    pub group: Cow<'a, str>,
    /// The version of the group, as it stands in the path.
    pub version: Cow<'a, str>,
    /// The plural name of the resource.
    pub resource: Cow<'a, str>,
    /// Empty for the resource itself.
    pub subresource: Cow<'a, str>,
    /// Empty for cluster-wide requests. For requests of a Namespace it is that namespace's name, as in kube-apiserver.
    pub namespace: Cow<'a, str>,
    /// The object's name; empty for collections, unless a field selector on `metadata.name` names it.
    pub name: Cow<'a, str>,
}

impl RequestInfo<'_> {
    /// The route key. All parts are empty if [`Self::is_resource`] is false.
    pub fn key(&self) -> Key<'_> {
        Key {
            group: &self.group,
            version: &self.version,
            resource: &self.resource,
            subresource: &self.subresource,
        }
    }

    /// True for requests that kube-apiserver exempts from its request timeout: watches, proxied requests, streams into
    /// containers and profiles (`genericfilters.BasicLongRunningRequestCheck` with the sets of `cmd/kube-apiserver`).
    pub fn is_long_running(&self) -> bool {
        if !self.is_resource {
            return self.path.starts_with("/debug/pprof/");
        }
        matches!(self.verb, Verb::Watch | Verb::Proxy)
            || matches!(
                &*self.subresource,
                "attach" | "exec" | "proxy" | "log" | "portforward"
            )
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> RequestInfo<'static> {
        let owned = |part: Cow<'_, str>| Cow::Owned(part.into_owned());
        RequestInfo {
            is_resource: self.is_resource,
            verb: self.verb,
            path: owned(self.path),
            group: owned(self.group),
            version: owned(self.version),
            resource: owned(self.resource),
            subresource: owned(self.subresource),
            namespace: owned(self.namespace),
            name: owned(self.name),
        }
    }
}
