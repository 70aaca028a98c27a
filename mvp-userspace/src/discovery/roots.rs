//! What one server serves, asked over an open connection: both discovery roots, conditionally, in whatever form it speaks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::connection::{DiscoveryConnection, DiscoveryResponse};
use super::fetch_error::{FetchError, Lost};
use crate::api::{ApiEntry, ApiSet, GroupVersion};
use crate::document::{
    DecodeError, Decoded, DiscoveryForm, Document, Freshness, Group, MAX_ENTRIES, Root, Version,
    group_versions,
};
use crate::route::Failure;

/// What one round found.
#[derive(Debug)]
pub(super) struct Found {
    /// `None`: the server confirmed what is known.
    pub set: Option<Arc<ApiSet>>,
    /// The roots' documents, as they stand after this round; the same objects as before if nothing in them changed.
    pub documents: Documents,
    pub source: DiscoveryForm,
    pub stale: Vec<GroupVersion>,
    pub refused: usize,
}

/// Both roots of one server, with the validators by which it knows them.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents {
    pub core: RootDocument,
    pub groups: RootDocument,
}

#[derive(Clone, Debug, Default)]
pub(super) struct RootDocument {
    pub document: Arc<Document>,
    pub source: Option<DiscoveryForm>,
    /// Only of aggregated answers: kube-apiserver gives none for legacy ones.
    pub etag: Option<HeaderValue>,
    /// What it was read from, JSON of aggregated v2, if that is kept.
    pub body: Option<Bytes>,
}

impl Documents {
    pub(super) fn root(&self, root: Root) -> &RootDocument {
        match root {
            Root::Core => &self.core,
            Root::Groups => &self.groups,
        }
    }

    /// True if nothing changed since `other` was taken.
    pub(super) fn same(&self, other: &Self) -> bool {
        [Root::Core, Root::Groups].into_iter().all(|root| {
            let (a, b) = (self.root(root), other.root(root));
            Arc::ptr_eq(&a.document, &b.document) && a.etag == b.etag && a.source == b.source
        })
    }
}

/// The two roots' validators between rounds.
#[derive(Default)]
pub(super) struct Roots {
    core: RootState,
    groups: RootState,
}

#[derive(Clone, Default)]
struct RootState {
    reported: RootDocument,
    /// For a legacy server: what the root listed and when the documents below it were read.
    listed: Vec<GroupVersion>,
    listed_at: Option<Instant>,
    stale: Vec<GroupVersion>,
    refused: usize,
}

/// In the order of preference; kube-apiserver takes the first it knows.
pub const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;profile=nopeer,\
     application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
     application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,\
     application/json";

/// Legacy documents are read again so often, whatever the roots say: they have no validators.
const LEGACY_REFRESH: Duration = Duration::from_secs(10);
/// The deadline for all documents of a legacy root together.
const LEGACY_DEADLINE: Duration = Duration::from_secs(10);
const LEGACY_CONCURRENT: usize = 8;
const LEGACY_MAX_DOCUMENTS: usize = 1_024;
/// Larger documents are decoded beside the runtime's threads.
const DECODE_INLINE: usize = 256 << 10;

impl Roots {
    /// Asks both roots. `known` is the set that the last successful round left; the validators are those of that set.
    ///
    /// Nothing changes unless both roots answer. There is one error for each root that fails. `keeps`: bodies are kept as they came.
    pub(super) async fn round(
        &mut self,
        connection: &DiscoveryConnection,
        known: Option<&Arc<ApiSet>>,
        max_bytes: usize,
        keeps: bool,
    ) -> Result<Found, Vec<FetchError>> {
        let none = ApiSet::default();
        let set = known.map_or(&none, |known| known);
        let (core, groups) = tokio::join!(
            ask(connection, Root::Core, &self.core, max_bytes, keeps),
            ask(connection, Root::Groups, &self.groups, max_bytes, keeps),
        );
        let (core, groups) = match (core, groups) {
            (Ok(core), Ok(groups)) => (core, groups),
            (core, groups) => return Err(core.err().into_iter().chain(groups.err()).collect()),
        };
        let changed = core.is_some() || groups.is_some();
        let mut entries = Vec::new();
        for (root, state, answer) in [
            (Root::Core, &mut self.core, core),
            (Root::Groups, &mut self.groups, groups),
        ] {
            match answer {
                Some((mut new, found)) => {
                    if new.reported.document == state.reported.document {
                        new.reported.document = Arc::clone(&state.reported.document);
                    }
                    *state = new;
                    entries.extend(found);
                }
                None if changed => entries.extend(of_root(set, root)),
                None => {}
            }
        }
        let set = changed.then(|| Arc::new(ApiSet::new(entries)));
        Ok(Found {
            // The same content (a legacy server's refresh, a restarted server) keeps the same object.
            set: set.filter(|set| known != Some(set)),
            source: self
                .core
                .reported
                .source
                .max(self.groups.reported.source)
                .unwrap_or(DiscoveryForm::Legacy),
            documents: Documents {
                core: self.core.reported.clone(),
                groups: self.groups.reported.clone(),
            },
            stale: [&*self.core.stale, &*self.groups.stale].concat(),
            refused: self.core.refused + self.groups.refused,
        })
    }
}

type Changed = Option<(RootState, Vec<ApiEntry>)>;

/// A document with its keys, which are taken from it where it is read: that takes time if it is large.
struct Keyed {
    decoded: Decoded,
    entries: Vec<ApiEntry>,
}

impl From<Decoded> for Keyed {
    fn from(decoded: Decoded) -> Self {
        Self {
            entries: decoded.document.entries(),
            decoded,
        }
    }
}

/// `None`: nothing changed.
async fn ask(
    connection: &DiscoveryConnection,
    root: Root,
    state: &RootState,
    max_bytes: usize,
    keeps: bool,
) -> Result<Changed, FetchError> {
    let answer = connection
        .get(root.path(), ACCEPT, state.reported.etag.as_ref(), max_bytes)
        .await?;
    match answer.status {
        StatusCode::NOT_MODIFIED => return Ok(None),
        StatusCode::OK => {}
        status => return Err(status_error(root.path(), status)),
    }
    let Some(source) = aggregated_source(&answer.content_type) else {
        let asking = ask_legacy(connection, root, state, answer, max_bytes);
        return tokio::time::timeout(LEGACY_DEADLINE, asking)
            .await
            .unwrap_or_else(|_| {
                Err(FetchError::Transport {
                    what: "reading legacy discovery",
                    reason: format!("not all documents came within {LEGACY_DEADLINE:?}"),
                    failure: Failure::TimedOut,
                    lost: Lost::No,
                })
            });
    };
    let etag = answer.etag;
    // A copy has the size of what is in it; a buffer that has grown may have twice as much.
    let body = (keeps && source == DiscoveryForm::V2).then(|| Bytes::copy_from_slice(&answer.body));
    let read = move |body: &[u8]| Decoded::aggregated(body, root).map(Keyed::from);
    let found = decode(root.path(), answer.body, read).await?;
    let state = RootState {
        stale: found.decoded.document.stale(),
        refused: found.decoded.refused,
        reported: RootDocument {
            document: Arc::new(found.decoded.document),
            source: Some(source),
            etag,
            body,
        },
        ..RootState::default()
    };
    Ok(Some((state, found.entries)))
}

async fn ask_legacy(
    connection: &DiscoveryConnection,
    root: Root,
    state: &RootState,
    answer: DiscoveryResponse,
    max_bytes: usize,
) -> Result<Changed, FetchError> {
    let listed = decode(root.path(), answer.body, move |body| {
        group_versions(body, root)
    })
    .await?;
    let fresh = state
        .listed_at
        .is_some_and(|at| at.elapsed() < LEGACY_REFRESH);
    if fresh && listed == state.listed {
        return Ok(None);
    }
    if listed.len() > LEGACY_MAX_DOCUMENTS {
        return Err(too_many(root, "group versions", LEGACY_MAX_DOCUMENTS));
    }
    let known = &state.reported;
    let listed_at = Instant::now();
    let asks: Vec<_> = listed
        .iter()
        .map(|gv| ask_group_version(connection, root, gv, max_bytes / LEGACY_CONCURRENT))
        .collect();
    let mut documents = stream::iter(asks).buffer_unordered(LEGACY_CONCURRENT);
    let mut resources = 0;
    let mut lists = Vec::new();
    let mut state = RootState {
        listed_at: Some(listed_at),
        ..RootState::default()
    };
    while let Some((gv, document)) = documents.try_next().await? {
        match document {
            List::Read { count, body } => {
                resources += count;
                lists.push((gv.clone(), body));
            }
            List::NotServed => {}
            List::Unavailable => state.stale.push(gv.clone()),
        }
        if resources > MAX_ENTRIES {
            return Err(too_many(root, "resources", MAX_ENTRIES));
        }
    }
    drop(documents);
    state.stale.sort();
    let (order, stale) = (listed.clone(), state.stale.clone());
    let known = Arc::clone(&known.document);
    let build = move || legacy_document(lists, &order, &stale, &known).map(Keyed::from);
    let found = match tokio::task::spawn_blocking(build).await {
        Ok(found) => found.map_err(|error| FetchError::Decode {
            path: root.path().to_owned(),
            error,
        })?,
        Err(error) => return Err(given_up(root.path(), &error)),
    };
    state.refused = found.decoded.refused;
    state.reported.document = Arc::new(found.decoded.document);
    state.reported.source = Some(DiscoveryForm::Legacy);
    state.listed = listed;
    Ok(Some((state, found.entries)))
}

enum List {
    /// It was read once, so that whatever is wrong with it is reported with its path.
    Read { count: usize, body: Bytes },
    /// `/apis` of an old server lists groups that only newer servers serve: it is made from APIService objects, which they share.
    NotServed,
    /// An extension API server that is down.
    Unavailable,
}

async fn ask_group_version<'g>(
    connection: &DiscoveryConnection,
    root: Root,
    gv: &'g GroupVersion,
    max_bytes: usize,
) -> Result<(&'g GroupVersion, List), FetchError> {
    let path = match root {
        Root::Core => format!("/api/{}", escaped(&gv.version)),
        Root::Groups => format!("/apis/{}/{}", escaped(&gv.group), escaped(&gv.version)),
    };
    let answer = connection
        .get(&path, "application/json", None, max_bytes)
        .await?;
    let document = match answer.status {
        StatusCode::OK => {
            let wanted = gv.clone();
            let count = move |body: &[u8]| {
                let read = Document::from_legacy(&[(wanted, body)])?;
                Ok(read.entries().len())
            };
            let body = answer.body.clone();
            let count = decode(&path, answer.body, count).await?;
            List::Read { count, body }
        }
        StatusCode::NOT_FOUND => List::NotServed,
        status if status.is_server_error() => List::Unavailable,
        status => return Err(status_error(&path, status)),
    };
    Ok((gv, document))
}

/// The lists in the root's order, each as it was read or, of a group version that did not answer, as it was known.
fn legacy_document(
    mut lists: Vec<(GroupVersion, Bytes)>,
    listed: &[GroupVersion],
    stale: &[GroupVersion],
    known: &Document,
) -> Result<Decoded, DecodeError> {
    let place = |gv: &GroupVersion| listed.iter().position(|other| other == gv);
    lists.sort_by_key(|(gv, _)| place(gv));
    let bodies: Vec<_> = lists
        .iter()
        .map(|(gv, body)| (gv.clone(), body.as_ref()))
        .collect();
    let Decoded {
        mut document,
        refused,
    } = Decoded::from_legacy(&bodies)?;
    for gv in stale {
        add_stale(&mut document, known, gv);
    }
    document
        .groups
        .sort_by_key(|group| listed.iter().position(|other| *other.group == *group.name));
    for group in &mut document.groups {
        let name = Arc::clone(&group.name);
        group.versions.sort_by_key(|version| {
            listed
                .iter()
                .position(|other| *other.group == *name && *other.version == *version.version)
        });
    }
    Ok(Decoded { document, refused })
}

fn add_stale(document: &mut Document, known: &Document, gv: &GroupVersion) {
    let version = match known.version(&gv.group, &gv.version) {
        Some(version) => version.clone(),
        None => Version {
            version: Arc::from(&*gv.version),
            resources: Vec::new(),
            freshness: Freshness::Stale,
        },
    };
    let version = Version {
        freshness: Freshness::Stale,
        ..version
    };
    let group = document
        .groups
        .iter_mut()
        .find(|group| *group.name == *gv.group);
    match group {
        Some(group) => group.versions.push(version),
        None => document.groups.push(Group {
            name: Arc::from(&*gv.group),
            versions: vec![version],
        }),
    }
}

/// A name as a segment of a request path; names of real groups and versions come through unchanged.
fn escaped(name: &str) -> String {
    name.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// The form of an answer by its content type; `None`: not aggregated.
fn aggregated_source(content_type: &str) -> Option<DiscoveryForm> {
    let parameter = |wanted: &str| {
        content_type
            .split(';')
            .filter_map(|p| p.trim().split_once('='))
            .find(|(name, _)| *name == wanted)
            .map(|(_, value)| value.trim_matches('"'))
    };
    if parameter("as") != Some("APIGroupDiscoveryList") {
        return None;
    }
    match parameter("v") {
        Some("v2") => Some(DiscoveryForm::V2),
        Some("v2beta1") => Some(DiscoveryForm::V2beta1),
        _ => None,
    }
}

async fn decode<T: Send + 'static>(
    path: &str,
    body: Bytes,
    read: impl FnOnce(&[u8]) -> Result<T, DecodeError> + Send + 'static,
) -> Result<T, FetchError> {
    let decoded = if body.len() <= DECODE_INLINE {
        read(&body)
    } else {
        match tokio::task::spawn_blocking(move || read(&body)).await {
            Ok(decoded) => decoded,
            Err(error) => return Err(given_up(path, &error)),
        }
    };
    decoded.map_err(|error| FetchError::Decode {
        path: path.to_owned(),
        error,
    })
}

fn given_up(path: &str, error: &tokio::task::JoinError) -> FetchError {
    FetchError::Decode {
        path: path.to_owned(),
        error: DecodeError::Json(format!("decoding was given up: {error}")),
    }
}

fn of_root(set: &ApiSet, root: Root) -> impl Iterator<Item = ApiEntry> {
    set.entries()
        .iter()
        .filter(move |e| root.holds(&e.group))
        .cloned()
}

fn status_error(path: &str, status: StatusCode) -> FetchError {
    FetchError::Status {
        path: path.to_owned(),
        status: status.as_u16(),
    }
}

fn too_many(root: Root, what: &'static str, limit: usize) -> FetchError {
    FetchError::Decode {
        path: root.path().to_owned(),
        error: DecodeError::TooMany { what, limit },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_read_from_the_content_type() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!(aggregated_source(v2), Some(DiscoveryForm::V2));
        let spaced =
            "application/json; as=APIGroupDiscoveryList; v=\"v2beta1\"; g=apidiscovery.k8s.io";
        assert_eq!(aggregated_source(spaced), Some(DiscoveryForm::V2beta1));
        for other in [
            "application/json",
            "",
            "application/json;v=v2",
            "text/html;as=APIGroupDiscoveryList",
        ] {
            assert_eq!(aggregated_source(other), None, "{other}");
        }
    }

    #[test]
    fn path_segments_are_escaped() {
        assert_eq!(escaped("apps"), "apps");
        assert_eq!(escaped("a?b#c%é"), "a%3Fb%23c%25%C3%A9");
    }
}
