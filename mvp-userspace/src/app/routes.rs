//! Which server serves what, and how that is known, for the admin port.

use std::collections::BTreeMap;

use crate::admin::RouteView;
use crate::api::Key;
use crate::discovery::ServerStatus;
use crate::document::DiscoveryForm;
use crate::route::RouteTable;

/// What a server published about itself.
const STORAGE_VERSION: &str = "storageversion";

/// Every key that a server lists or published, in the order of their names.
pub(super) fn routes(table: &RouteTable, statuses: &[ServerStatus]) -> Vec<RouteView> {
    let own = table.entries().map(|entry| entry.key());
    let published = table.all_published().map(|entry| entry.key());
    let published = published.filter(|key| table.lookup(*key).is_none());
    let mut routes: Vec<_> = own
        .chain(published)
        .map(|key| route_view(table, key, statuses))
        .collect();
    routes.sort_by(|a, b| {
        (&a.group, &a.version, &a.resource, &a.subresource).cmp(&(
            &b.group,
            &b.version,
            &b.resource,
            &b.subresource,
        ))
    });
    routes
}

/// Of all that is known of the server, in one word or two.
pub(super) fn source_of(status: &ServerStatus) -> String {
    let published = (status.published > 0).then_some(STORAGE_VERSION);
    let own = Some(own_source(status)).filter(|own| !own.is_empty());
    let both: Vec<_> = own.into_iter().chain(published).collect();
    both.join(",")
}

fn route_view(table: &RouteTable, key: Key<'_>, statuses: &[ServerStatus]) -> RouteView {
    let name = |index| Some(table.member(index)?.server.name.to_string());
    let (mut verbs, mut sources) = (BTreeMap::new(), BTreeMap::new());
    if let Some(entry) = table.lookup(key) {
        for index in entry.servers().iter() {
            let Some(name) = name(index) else { continue };
            let status = statuses.iter().find(|status| status.name == name);
            let source = status.map_or("", |status| own_source(status));
            let listed = entry.verbs(index).iter();
            let listed = listed.map(|verb| verb.as_str().to_owned()).collect();
            sources.insert(name.clone(), source.to_owned());
            verbs.insert(name, listed);
        }
    }
    let published = table.published(key).iter().filter_map(name);
    sources.extend(published.map(|name| (name, STORAGE_VERSION.to_owned())));
    RouteView {
        group: key.group.to_owned(),
        version: key.version.to_owned(),
        resource: key.resource.to_owned(),
        subresource: key.subresource.to_owned(),
        verbs,
        sources,
    }
}

/// Of the server's own word, or of an earlier agent's; empty if there is none.
fn own_source(status: &ServerStatus) -> &'static str {
    match status.source {
        Some(source) => source_name(source),
        None if status.keys > 0 => "pinned",
        None => "",
    }
}

fn source_name(source: DiscoveryForm) -> &'static str {
    match source {
        DiscoveryForm::V2 => "v2",
        DiscoveryForm::V2beta1 => "v2beta1",
        DiscoveryForm::Legacy => "legacy",
    }
}
