//! One view of what the whole control plane serves: built from all servers' documents whenever one of them changes, off the
//! request path, then never changed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::watch;
use tokio::time::Instant;

use super::dropped::Dropped;
use super::hub::lock;
use super::roots::Documents;
use crate::api::{ApiSet, GitVersion};
use crate::document::{
    DiscoveryForm, Document, Encoding, Form, Freshness, GZIP_ABOVE, Input, Layout, Media,
    Priorities, Root, Text, Version, encode_root, etag, gzip as compress, merge,
};
use crate::route::Server;

/// What one server last reported.
#[derive(Clone)]
pub(super) struct ServerReport {
    pub server: Arc<Server>,
    pub documents: Documents,
    /// Confirmed just now; else the server may be gone.
    pub alive: bool,
    /// Alive, or so until a moment ago: what it serves is not called stale.
    pub current: bool,
    pub confirmed: Instant,
    /// `gitVersion`.
    pub version: Option<String>,
}

/// A snapshot of the merged discovery of all servers.
#[derive(Default)]
pub struct View {
    core: RootView,
    groups: RootView,
    /// Servers of the newest version among those that are alive.
    newest: Vec<Arc<Server>>,
}

/// One root of the view.
#[derive(Default)]
pub struct RootView {
    /// `None`: all servers report the same, and each may answer for itself.
    pub merged: Option<Arc<Merged>>,
    /// What the local server answers with by itself, while all report the same and it is alive.
    pub own: Option<Arc<OwnDocument>>,
    etags: Vec<(Arc<Server>, DiscoveryForm, HeaderValue)>,
}

/// The document of the local server, aggregated v2 as JSON, byte for byte. Whoever may read it gets it from here once the server has
/// confirmed that it is still the same (304), which is less work for both than to send it again.
pub struct OwnDocument {
    /// By which the server knows it.
    pub etag: HeaderValue,
    body: Bytes,
    gzipped: OnceLock<Bytes>,
}

/// A document that no single server has, with its encodings.
pub struct Merged {
    /// The groups of this root as all servers together have them.
    pub document: Document,
    /// The value of the `ETag` field, with its quotes.
    pub etag: HeaderValue,
    /// Groups and group versions of which some server would report less, or in another order.
    groups: HashSet<Text>,
    versions: HashMap<Text, HashSet<Text>>,
    encodings: Mutex<Vec<(Encoding, Arc<OnceLock<Bytes>>)>>,
}

impl View {
    /// The view of `/api` or of `/apis`.
    pub fn root(&self, root: Root) -> &RootView {
        match root {
            Root::Core => &self.core,
            Root::Groups => &self.groups,
        }
    }

    /// The root that has `group`.
    pub fn root_of(&self, group: &str) -> &RootView {
        match group.is_empty() {
            true => &self.core,
            false => &self.groups,
        }
    }

    /// True if servers report different things.
    pub fn differs(&self) -> bool {
        self.core.merged.is_some() || self.groups.merged.is_some()
    }

    /// Those that run the newest version; empty while no version is known.
    pub fn newest(&self) -> &[Arc<Server>] {
        &self.newest
    }

    /// So that no client waits for what most clients ask for.
    fn encode_usual(&self) {
        for own in [&self.core, &self.groups].into_iter().flat_map(|r| &r.own) {
            own.encoded(true);
        }
        for merged in [&self.core, &self.groups]
            .into_iter()
            .flat_map(|r| &r.merged)
        {
            for (form, media) in [
                (Form::V2, Media::Json),
                (Form::V2, Media::Protobuf),
                (Form::Legacy, Media::Json),
            ] {
                let plain = Encoding {
                    form,
                    media,
                    gzip: false,
                };
                if merged.encoded(plain).len() > GZIP_ABOVE {
                    merged.encoded(Encoding {
                        gzip: true,
                        ..plain
                    });
                }
            }
        }
    }

    fn build(reports: &[ServerReport], dropped: &Dropped, priorities: &Priorities) -> Self {
        let version = |report: &ServerReport| report.version.as_deref().and_then(GitVersion::parse);
        let newest = reports.iter().filter(|t| t.alive).filter_map(version).max();
        let newest = reports
            .iter()
            .filter(|report| report.alive && newest.is_some() && version(report) == newest)
            .map(|report| Arc::clone(&report.server))
            .collect();
        Self {
            core: RootView::build(Root::Core, reports, dropped, priorities),
            groups: RootView::build(Root::Groups, reports, dropped, priorities),
            newest,
        }
    }
}

impl RootView {
    /// The ETag of what `server` itself last reported in this form, as far as it is known.
    pub fn etag_of(&self, server: &Arc<Server>, source: DiscoveryForm) -> Option<&HeaderValue> {
        self.etags
            .iter()
            .find(|(other, of, _)| Arc::ptr_eq(other, server) && *of == source)
            .map(|(_, _, etag)| etag)
    }

    fn build(
        root: Root,
        reports: &[ServerReport],
        dropped: &Dropped,
        priorities: &Priorities,
    ) -> Self {
        let documents: Vec<_> = reports
            .iter()
            .map(|report| {
                let document = &*report.documents.root(root).document;
                match report.alive {
                    true => std::borrow::Cow::Borrowed(document),
                    false => dropped.without(document, report.confirmed),
                }
            })
            .collect();
        let agree = documents
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a == b));
        let merged = (!agree).then(|| {
            let inputs: Vec<_> = reports
                .iter()
                .zip(&documents)
                .map(|(report, document)| Input {
                    document,
                    alive: report.alive,
                })
                .collect();
            let mut merged = merge(&inputs, priorities);
            for (report, document) in reports.iter().zip(&documents) {
                if report.current && !report.alive {
                    keep_current(&mut merged, document);
                }
            }
            Arc::new(Merged::new(merged, &documents))
        });
        let etags = reports
            .iter()
            .filter_map(|report| {
                let of = report.documents.root(root);
                Some((Arc::clone(&report.server), of.source?, of.etag.clone()?))
            })
            .collect();
        let own = match merged {
            Some(_) => None,
            None => reports
                .iter()
                .find(|report| report.server.local && report.alive)
                .and_then(|report| OwnDocument::of(report, root))
                .map(Arc::new),
        };
        Self { merged, own, etags }
    }
}

impl OwnDocument {
    fn of(report: &ServerReport, root: Root) -> Option<Self> {
        let of = report.documents.root(root);
        Some(Self {
            etag: of.etag.clone()?,
            body: of.body.clone()?,
            gzipped: OnceLock::new(),
        })
    }

    /// The body, and whether it is compressed: only if the client accepts that, and only above the size from which kube-apiserver does it.
    pub fn encoded(&self, accepts_gzip: bool) -> (Bytes, bool) {
        let gzipped = accepts_gzip && self.body.len() > GZIP_ABOVE;
        let body = match gzipped {
            true => self.gzipped.get_or_init(|| compress(&self.body)),
            false => &self.body,
        };
        (body.clone(), gzipped)
    }
}

impl Merged {
    fn new<D: AsRef<Document>>(document: Document, parts: &[D]) -> Self {
        let mut groups = HashSet::new();
        let mut versions = HashMap::<Text, HashSet<Text>>::new();
        for group in &document.groups {
            let theirs = parts.iter().flat_map(|part| &part.as_ref().groups);
            for other in theirs.filter(|other| other.name == group.name) {
                let names = |versions: &[Version]| {
                    let names = versions.iter().map(|v| v.version.clone());
                    names.collect::<Vec<_>>()
                };
                if names(&other.versions) != names(&group.versions)
                    || group
                        .versions
                        .iter()
                        .any(|v| v.freshness == Freshness::Stale)
                {
                    groups.insert(group.name.clone());
                }
                for version in &group.versions {
                    let differs = |theirs: &Version| theirs.resources != version.resources;
                    let theirs = other.versions.iter().find(|v| v.version == version.version);
                    if theirs.is_some_and(differs) {
                        let of_group = versions.entry(group.name.clone()).or_default();
                        of_group.insert(version.version.clone());
                    }
                }
            }
        }
        // Hexadecimal: always a header's value.
        let etag = HeaderValue::try_from(format!("\"{}\"", etag(&document)))
            .unwrap_or(HeaderValue::from_static("\"\""));
        Self {
            document,
            etag,
            groups,
            versions,
            encodings: Mutex::default(),
        }
    }

    /// True if some server that has the group would list other versions of it, or in another order.
    pub fn differs_in_group(&self, group: &str) -> bool {
        self.groups.contains(group)
    }

    /// True if some server that has the group version would list less in it.
    pub fn differs_in(&self, group: &str, version: &str) -> bool {
        let of_group = self.versions.get(group);
        of_group.is_some_and(|versions| versions.contains(version))
    }

    /// The whole document: made when the encoding is first needed, then shared.
    pub fn encoded(&self, encoding: Encoding) -> Bytes {
        let cell = {
            let mut encodings = lock(&self.encodings);
            match encodings.iter().find(|(name, _)| *name == encoding) {
                Some((_, cell)) => Arc::clone(cell),
                None => {
                    let cell = Arc::<OnceLock<Bytes>>::default();
                    encodings.push((encoding, Arc::clone(&cell)));
                    cell
                }
            }
        };
        let Encoding { form, media, gzip } = encoding;
        let make = || match gzip {
            true => compress(&self.encoded(Encoding {
                gzip: false,
                ..encoding
            })),
            false => encode_root(&self.document, form, media, Layout::Compact),
        };
        cell.get_or_init(make).clone()
    }
}

/// Where views are wanted and built.
pub(super) struct Views {
    pub cell: Arc<ArcSwap<View>>,
    retain: Duration,
    dropped: Mutex<Dropped>,
    wanted: watch::Sender<Wanted>,
    /// The number of the last one built.
    built: watch::Sender<u64>,
    merges: AtomicU64,
    priorities: ArcSwap<Priorities>,
}

#[derive(Clone, Default)]
struct Wanted {
    number: u64,
    reports: Arc<[ServerReport]>,
    priorities: Arc<Priorities>,
}

impl Views {
    pub(super) fn new(retain: Duration) -> Self {
        Self {
            cell: Arc::default(),
            retain,
            dropped: Mutex::default(),
            wanted: watch::Sender::default(),
            built: watch::Sender::default(),
            merges: AtomicU64::new(0),
            priorities: ArcSwap::default(),
        }
    }

    /// Requests a view of `reports`, in which there may be servers that ended long ago.
    pub(super) fn want(&self, reports: impl Iterator<Item = ServerReport>, now: Instant) {
        let fresh = |report: &ServerReport| {
            report.alive || now.saturating_duration_since(report.confirmed) < self.retain
        };
        let mut reports: Vec<ServerReport> = reports.filter(fresh).collect();
        if !reports.iter().any(|report| report.alive) {
            // It is the agent that cannot reach anybody. The server that answers its client is alive, and no other is known to be less so.
            reports.iter_mut().for_each(|report| report.alive = true);
        }
        let reports: Arc<[ServerReport]> = reports.into();
        lock(&self.dropped).purge(now, self.retain);
        let priorities = self.priorities.load_full();
        self.wanted.send_if_modified(|wanted| {
            let same =
                Arc::ptr_eq(&wanted.priorities, &priorities) && same(&wanted.reports, &reports);
            if !same {
                *wanted = Wanted {
                    number: wanted.number + 1,
                    reports,
                    priorities,
                };
            }
            !same
        });
    }

    /// A server that was not restarted reported `after`, having reported `before`.
    pub(super) fn dropped(&self, before: &Documents, after: &Documents) {
        for root in [Root::Core, Root::Groups] {
            let (before, after) = (&before.root(root).document, &after.root(root).document);
            if !Arc::ptr_eq(before, after) {
                lock(&self.dropped).note(before, after, Instant::now());
            }
        }
    }

    /// What is left of what a server served that cannot be asked now; `None`: all of it.
    pub(super) fn without_dropped(&self, set: &ApiSet, confirmed: Instant) -> Option<ApiSet> {
        lock(&self.dropped).without_keys(set, confirmed)
    }

    /// True if they are other ones than before.
    pub(super) fn set_priorities(&self, priorities: Priorities) -> bool {
        let changed = **self.priorities.load() != priorities;
        if changed {
            self.priorities.store(Arc::new(priorities));
        }
        changed
    }

    pub(super) fn priorities(&self) -> Arc<Priorities> {
        self.priorities.load_full()
    }

    /// Number of documents merged so far.
    pub(super) fn merges(&self) -> u64 {
        self.merges.load(Ordering::Relaxed)
    }

    /// Waits until everything that was wanted before the call is built.
    pub(super) async fn settled(&self) {
        let number = self.wanted.borrow().number;
        let mut built = self.built.subscribe();
        // An error means that nobody builds any more.
        let _ = built.wait_for(|built| *built >= number).await;
    }

    /// Builds what is wanted, one view at a time, until dropped.
    pub(super) async fn run(self: Arc<Self>) {
        let mut wanted = self.wanted.subscribe();
        loop {
            let now = wanted.borrow_and_update().clone();
            let (views, number) = (Arc::clone(&self), now.number);
            let building = tokio::task::spawn_blocking(move || {
                let dropped = lock(&views.dropped);
                let view = View::build(&now.reports, &dropped, &now.priorities);
                view.encode_usual();
                view
            });
            match building.await {
                Ok(view) => {
                    let merged = [&view.core, &view.groups].map(|root| root.merged.is_some());
                    let merged = merged.into_iter().filter(|merged| *merged).count();
                    self.merges.fetch_add(merged as u64, Ordering::Relaxed);
                    self.cell.store(Arc::new(view));
                }
                Err(error) => {
                    tracing::error!(%error, "the merged view of discovery could not be built")
                }
            }
            self.built.send_replace(number);
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What `restarting` lists as current is so in `merged`: that server is likely to be back in a moment.
fn keep_current(merged: &mut Document, restarting: &Document) {
    for group in &mut merged.groups {
        for version in &mut group.versions {
            let listed = restarting.version(&group.name, &version.version);
            if listed.is_some_and(|listed| listed.freshness == Freshness::Current) {
                version.freshness = Freshness::Current;
            }
        }
    }
}

fn same(a: &[ServerReport], b: &[ServerReport]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| {
            Arc::ptr_eq(&a.server, &b.server)
                && a.alive == b.alive
                && a.current == b.current
                && a.version == b.version
                // Matters only where something was dropped meanwhile; a live server's never does.
                && (a.alive || a.confirmed == b.confirmed)
                && a.documents.same(&b.documents)
        })
}

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
