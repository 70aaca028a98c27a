//! `/openapi/v3`: which server has the description of which group version, and the index of all of them together. Pure.
//!
//! A server describes only what it serves itself. The index names each description by a hash of its content, so that a
//! request for it can be sent to a server that has exactly that one.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::api::{ApiEntry, ApiSet, GitVersion, MAX_NAME};
use crate::document::DecodeError;
use crate::route::Server;

/// The path of the index of OpenAPI v3 documents (Kubernetes 1.27 and later).
pub const OPENAPI_V3: &str = "/openapi/v3";
/// Largest index read, bytes. A real one of 1.36 has 10 KB.
pub const MAX_INDEX: usize = 8 << 20;
/// Paths in one index: as many as discovery has group versions at most.
pub const MAX_PATHS: usize = 8_192;

/// What one server's `/openapi/v3` says: `apis/apps/v1` and the URL of its description,
/// `/openapi/v3/apis/apps/v1?hash=6D1E…`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OpenApiIndex {
    paths: BTreeMap<Box<str>, Box<str>>,
}

/// A server's index as it was last read.
#[derive(Clone, Debug)]
pub struct ServerOpenApi {
    /// Whose index it is.
    pub server: Arc<Server>,
    /// What it lists; shared, since several polls find the same.
    pub index: Arc<OpenApiIndex>,
}

/// A server whose descriptions may stand in for the local one's.
#[derive(Clone, Copy, Debug)]
pub struct OtherIndex<'a> {
    /// The paths that its `/openapi/v3` lists.
    pub index: &'a OpenApiIndex,
    /// What the server serves, by its discovery.
    pub apis: &'a ApiSet,
    /// `gitVersion`; `None`: not known yet. Of several servers the newest stands in.
    pub version: Option<&'a GitVersion>,
}

/// Longest URL kept: two names, a few words and a hash of 128 digits.
const MAX_URL: usize = 1024;
/// `apis/` and two names.
const MAX_PATH: usize = 2 * MAX_NAME + 8;

impl OpenApiIndex {
    /// Reads the document of `/openapi/v3`. Entries whose URL leads anywhere else than below `/openapi/v3/` are left out.
    pub fn read(body: &[u8]) -> Result<Self, DecodeError> {
        if body.len() > MAX_INDEX {
            return Err(too_many("bytes", MAX_INDEX));
        }
        let text = crate::document::text(body)?;
        let document: Document<'_> =
            serde_json::from_str(text).map_err(|error| DecodeError::Json(error.to_string()))?;
        if document.paths.over {
            return Err(too_many("paths", MAX_PATHS));
        }
        let mut paths = BTreeMap::new();
        for (path, url) in document.paths.read {
            if sound(&path, &url) {
                paths.insert(path.into(), url.into());
            }
        }
        Ok(Self { paths })
    }

    /// The URL of a path's description. Paths as they stand in the index: `apis/apps/v1`, `api/v1`.
    pub fn url(&self, path: &str) -> Option<&str> {
        self.paths.get(path).map(|url| &**url)
    }

    /// The `hash` parameter of a path's URL; `None` if the path is not listed or its URL has none.
    pub fn hash(&self, path: &str) -> Option<&str> {
        hash(self.url(path)?)
    }

    /// Every path with its URL, in the order of the paths.
    pub fn paths(&self) -> impl Iterator<Item = (&str, &str)> {
        self.paths.iter().map(|(path, url)| (&**path, &**url))
    }

    /// How many paths are listed.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether no path is listed.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

/// The servers whose description of `path` has this hash, in their order. Their answers are the same to the byte.
pub fn find<'a>(servers: &'a [ServerOpenApi], path: &str, hash: &str) -> Vec<&'a Arc<Server>> {
    servers
        .iter()
        .filter(|server| server.index.hash(path) == Some(hash))
        .map(|server| &server.server)
        .collect()
}

/// The index for a client: what the local server said, but for each path below `api` and `apis` the URL (whose hash names the
/// content) of the server that serves most of what the path describes, then of the newest: a newer description has more fields.
///
/// Everything else the local server said stays as it is, and so does the whole if nothing is to be changed or it is no index.
/// `others` are servers that can be asked now; the local one is not among them.
pub fn merge_indexes(
    local_body: &Bytes,
    local: &ApiSet,
    local_version: Option<&GitVersion>,
    others: &[OtherIndex<'_>],
) -> Bytes {
    merged(local_body, local, local_version, others).unwrap_or_else(|| local_body.clone())
}

/// The URL that the merged index has for `path`, of those that servers have. By what they say only, so that every agent comes to
/// the same.
fn best_description<'a>(
    path: &str,
    described: impl Iterator<Item = (&'a ApiSet, Option<&'a GitVersion>, &'a str)>,
) -> Option<&'a str> {
    described
        .max_by_key(|(apis, version, url)| {
            (Served::of(apis, path).count(), *version, Reverse(*url))
        })
        .map(|(_, _, url)| url)
}

/// What is known of one server's description of a path.
#[derive(Clone, Copy, Debug)]
pub(super) struct Describes<'a> {
    pub apis: &'a ApiSet,
    pub version: Option<&'a GitVersion>,
    /// As the server's index names it; `None`: it does not, or the index is not known.
    pub url: Option<&'a str>,
}

/// For each of `servers`, whether a request for the description of `path` may go to it: to those that serve most of what the path
/// describes, then to the newest, whether their index is known or not, and of several such to those with the description that the
/// merged index names. To none in particular if servers describe the path each for itself.
pub(super) fn describing(path: &str, servers: &[Describes<'_>]) -> Vec<bool> {
    if !is_merged(path) {
        return vec![false; servers.len()];
    }
    let ranks: Vec<_> = servers.iter().map(|server| server.rank(path)).collect();
    let best = ranks.iter().flatten().max();
    let is_best = |at: usize| best.is_some() && ranks.get(at).map(Option::as_ref) == Some(best);
    let chosen = servers.iter().enumerate().filter(|(at, _)| is_best(*at));
    let url = chosen.filter_map(|(_, server)| server.url).min();
    servers
        .iter()
        .enumerate()
        .map(|(at, server)| is_best(at) && (url.is_none() || server.url == url))
        .collect()
}

impl<'a> Describes<'a> {
    /// How much of what `path` describes the server serves, then how new it is; `None`: it describes nothing of it.
    fn rank(&self, path: &str) -> Option<(usize, Option<&'a GitVersion>)> {
        let serves = Served::of(self.apis, path).count();
        (serves > 0 || self.url.is_some()).then_some((serves, self.version))
    }
}

/// Whether the whole control plane's description of `path` is given, and not one server's own.
fn is_merged(path: &str) -> bool {
    ["api", "apis"].iter().any(|root| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// `None`: nothing is to be changed.
fn merged(
    body: &Bytes,
    local: &ApiSet,
    local_version: Option<&GitVersion>,
    others: &[OtherIndex<'_>],
) -> Option<Bytes> {
    let mut document: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let said: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(document.get("paths")?.get()).ok()?;
    let local_index = OpenApiIndex::read(body).ok()?;
    let mut changes: BTreeMap<&str, &str> = BTreeMap::new();
    for path in others.iter().flat_map(|other| other.index.paths.keys()) {
        if !is_merged(path) || changes.contains_key(&**path) {
            continue;
        }
        let candidates = others
            .iter()
            .filter_map(|other| Some((other.apis, other.version, other.index.url(path)?)));
        let own = local_index.url(path).map(|url| (local, local_version, url));
        if let Some(url) = best_description(path, candidates.chain(own))
            && local_index.url(path) != Some(url)
        {
            changes.insert(path, url);
        }
    }
    if changes.is_empty() {
        return None;
    }
    let mut paths: BTreeMap<&str, Entry<'_>> = said
        .iter()
        .map(|(path, value)| (&**path, Entry::Said(value)))
        .collect();
    for (path, server_relative_url) in changes {
        paths.insert(
            path,
            Entry::Other {
                server_relative_url,
            },
        );
    }
    let paths = serde_json::value::to_raw_value(&paths).ok()?;
    document.insert(Cow::Borrowed("paths"), &paths);
    serde_json::to_vec(&document).ok().map(Bytes::from)
}

#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Said(&'a RawValue),
    Other {
        #[serde(rename = "serverRelativeURL")]
        server_relative_url: &'a str,
    },
}

/// What a server serves of an index path: of a group version, or of a whole group (`apis/apps`).
struct Served<'a>(&'a [ApiEntry]);

impl<'a> Served<'a> {
    fn of(set: &'a ApiSet, path: &str) -> Self {
        let mut segments = path.split('/');
        let (group, version) = match (segments.next(), segments.next()) {
            (Some("api"), version) => ("", version),
            (Some("apis"), Some(group)) => (group, segments.next()),
            (Some("apis"), None) => return Self(set.entries()),
            _ => return Self(&[]),
        };
        // Entries are sorted by group, then version.
        let entries = set.entries();
        let position = |entry: &ApiEntry| {
            (*entry.group).cmp(group).then(match version {
                Some(version) => (*entry.version).cmp(version),
                None => std::cmp::Ordering::Equal,
            })
        };
        let start = entries.partition_point(|entry| position(entry).is_lt());
        let end = entries.partition_point(|entry| position(entry).is_le());
        Self(entries.get(start..end).unwrap_or_default())
    }

    /// Keys and verbs.
    fn count(&self) -> usize {
        let verbs = |entry: &ApiEntry| entry.verbs.iter().count();
        self.0.iter().map(|entry| 1 + verbs(entry)).sum()
    }
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    paths: Paths<'a>,
}

#[derive(Default)]
struct Paths<'a> {
    read: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    over: bool,
}

#[derive(Deserialize)]
struct Description<'a> {
    #[serde(borrow, default, rename = "serverRelativeURL")]
    server_relative_url: Cow<'a, str>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Paths<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Paths<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("paths with their descriptions")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Paths::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut paths = Paths::default();
                while let Some((path, description)) =
                    map.next_entry::<Cow<'de, str>, Description<'de>>()?
                {
                    // Read on, but keep no more: the document is refused as a whole.
                    paths.over |= paths.read.len() >= MAX_PATHS;
                    if !paths.over {
                        paths.read.push((path, description.server_relative_url));
                    }
                }
                Ok(paths)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The URL goes to clients and comes back as a request: nothing but a path below `/openapi/v3/` with a query.
fn sound(path: &str, url: &str) -> bool {
    let below = url
        .strip_prefix(OPENAPI_V3)
        .and_then(|url| url.strip_prefix('/'));
    let relative = |segment: &str| matches!(segment, "." | "..");
    let place = url.split_once('?').map_or(url, |(place, _)| place);
    !path.is_empty()
        && path.len() <= MAX_PATH
        && url.len() <= MAX_URL
        && below.is_some()
        && url.bytes().all(|b| b.is_ascii_graphic())
        && !url.contains(['#', '\\'])
        && !place.split('/').any(relative)
}

fn hash(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(name, _)| *name == "hash")
        .map(|(_, hash)| hash)
}

fn too_many(what: &'static str, limit: usize) -> DecodeError {
    DecodeError::TooMany { what, limit }
}

#[cfg(test)]
mod tests;
