//! What a request asks for: (method, path, query) -> [`RequestInfo`]. Pure; the rules are kube-apiserver's own
//! (`apiserver/pkg/endpoints/request/requestinfo.go`).

mod verb;

use std::borrow::Cow;

pub use verb::{Verb, VerbSet};

/// What one request asks for. Borrows from the request's target; percent-decoded parts are owned only if they had escapes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestInfo<'a> {
    /// False for `/healthz`, discovery, OpenAPI and every other path without a resource.
    pub is_resource: bool,
    pub verb: Verb,
    pub group: Cow<'a, str>,
    pub version: Cow<'a, str>,
    pub resource: Cow<'a, str>,
    pub subresource: Cow<'a, str>,
    pub namespace: Cow<'a, str>,
    pub name: Cow<'a, str>,
}
