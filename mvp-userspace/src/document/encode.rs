//! Documents as JSON and YAML, byte for byte as Go's encoder writes them, and their ETag.

use serde::Serialize;
use sha2::{Digest, Sha512};

use super::types::{Document, Group};

/// The versions of `apidiscovery.k8s.io`. Their documents have the same fields.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AggregatedVersion {
    /// `apidiscovery.k8s.io/v2`: Kubernetes 1.30 and later.
    V2,
    /// `apidiscovery.k8s.io/v2beta1`: 1.26 behind a feature gate, 1.27 to 1.32 by default.
    V2beta1,
}

/// How JSON is laid out: kube-apiserver indents for browsers, curl and Wget, and when asked to by `?pretty`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Layout {
    /// One line, with a line feed at its end.
    Compact,
    /// Two spaces a level, without a line feed at the end.
    Pretty,
}

impl AggregatedVersion {
    /// The name as in the `v` parameter of a media type.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2beta1 => "v2beta1",
        }
    }

    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }
}

/// `APIGroupDiscoveryList` as JSON.
pub fn aggregated_json(document: &Document, version: AggregatedVersion, layout: Layout) -> Vec<u8> {
    to_json(&List::new(document, Some(version)), layout)
}

/// `APIGroupDiscoveryList` as YAML; see [`to_yaml`].
pub fn aggregated_yaml(document: &Document, version: AggregatedVersion) -> Option<Vec<u8>> {
    to_yaml(&List::new(document, Some(version)))
}

/// The ETag's value without its quotes: upper-case hexadecimal SHA-512 of the list's compact JSON without kind and apiVersion,
/// the same for every encoding. Rule: apiserver `pkg/endpoints/discovery/aggregated/etag.go`.
pub fn etag(document: &Document) -> String {
    let json = go_json(&List::new(document, None), Layout::Compact);
    let hash = Sha512::digest(json.as_bytes());
    let mut hex = String::with_capacity(2 * hash.len());
    for byte in hash {
        for digit in [byte >> 4, byte & 15] {
            hex.extend(char::from_digit(u32::from(digit), 16).map(|c| c.to_ascii_uppercase()));
        }
    }
    hex
}

/// Any discovery object as JSON.
pub fn to_json<T: Serialize>(value: &T, layout: Layout) -> Vec<u8> {
    let mut json = go_json(value, layout);
    if layout == Layout::Compact {
        json.push('\n');
    }
    json.into_bytes()
}

/// Any discovery object as YAML; `None` if it cannot be written so. Fields come in their JSON order, where kube-apiserver sorts
/// them by name.
pub fn to_yaml<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    serde_saphyr::to_string(value).ok().map(String::into_bytes)
}

/// `APIGroupDiscoveryList` with or without its type.
#[derive(Serialize)]
struct List<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(rename = "apiVersion", skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    metadata: ListMeta,
    items: &'a [Group],
}

#[derive(Serialize)]
struct ListMeta {}

impl<'a> List<'a> {
    fn new(document: &'a Document, version: Option<AggregatedVersion>) -> Self {
        Self {
            kind: version.map(|_| "APIGroupDiscoveryList"),
            api_version: version.map(AggregatedVersion::api_version),
            metadata: ListMeta {},
            items: &document.groups,
        }
    }
}

/// serde_json, and what Go escapes beyond it. Those characters stand nowhere in JSON but inside strings, so that the text can
/// be searched as a whole.
fn go_json<T: Serialize>(value: &T, layout: Layout) -> String {
    let json = match layout {
        Layout::Compact => serde_json::to_string(value),
        Layout::Pretty => serde_json::to_string_pretty(value),
    };
    // The types are our own and have string keys: this cannot fail.
    let json = json.unwrap_or_default();
    if !json.contains(escaped_by_go) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn escaped_by_go(c: char) -> bool {
    matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}
