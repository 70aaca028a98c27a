//! Which server serves which resource, as text for people.

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::RouteView;
use crate::text::table::table;

/// `wide`: one line for each server.
pub(super) fn table_of(routes: &[RouteView], wide: bool) -> String {
    if wide {
        return by_server(routes);
    }
    let rows: Vec<_> = routes
        .iter()
        .map(|route| {
            let [group_version, resource] = names(route);
            [group_version, resource, by_verbs(route)]
        })
        .collect();
    table(["GROUP/VERSION", "RESOURCE", "SERVERS (VERBS)"], &rows)
}

fn by_server(routes: &[RouteView]) -> String {
    let rows: Vec<_> = routes
        .iter()
        .flat_map(|route| {
            let own = route.verbs.iter();
            let own = own.map(|(server, verbs)| (server, verbs.join(",")));
            let all = own.chain(published(route).map(|server| (server, String::new())));
            all.map(|(server, verbs)| {
                let [group_version, resource] = names(route);
                let source = route.sources.get(server).cloned().unwrap_or_default();
                [group_version, resource, server.clone(), source, verbs]
            })
        })
        .collect();
    table(
        ["GROUP/VERSION", "RESOURCE", "SERVER", "SOURCE", "VERBS"],
        &rows,
    )
}

/// Group and version, resource and subresource, as Kubernetes writes them.
fn names(route: &RouteView) -> [String; 2] {
    let group_version = match route.group.as_str() {
        "" => route.version.clone(),
        group => format!("{group}/{}", route.version),
    };
    let resource = match route.subresource.as_str() {
        "" => route.resource.clone(),
        subresource => format!("{}/{subresource}", route.resource),
    };
    [group_version, resource]
}

/// Servers that serve it by what they published about themselves, and not by their own word.
fn published(route: &RouteView) -> impl Iterator<Item = &String> {
    let servers = route.sources.keys();
    servers.filter(|server| !route.verbs.contains_key(*server))
}

/// Routes that not every server serves with the same verbs.
pub(super) fn differences(routes: Vec<RouteView>) -> Vec<RouteView> {
    let all: BTreeSet<String> = routes
        .iter()
        .flat_map(|route| route.verbs.keys().chain(published(route)).cloned())
        .collect();
    routes
        .into_iter()
        .filter(|route| {
            let mut verbs = route.verbs.values();
            let first = verbs.next();
            route.verbs.len() != all.len() || verbs.any(|other| Some(other) != first)
        })
        .collect()
}

/// `cp-a,cp-b (get,list) cp-c (get)`: servers with the same verbs are joined.
fn by_verbs(route: &RouteView) -> String {
    let mut groups: BTreeMap<&Vec<String>, Vec<&str>> = BTreeMap::new();
    for (server, verbs) in &route.verbs {
        groups.entry(verbs).or_default().push(server);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|a, b| a.1.cmp(&b.1));
    let mut parts: Vec<_> = groups
        .iter()
        .map(|(verbs, servers)| format!("{} ({})", servers.join(","), verbs.join(",")))
        .collect();
    let published: Vec<_> = published(route).map(String::as_str).collect();
    if !published.is_empty() {
        parts.push(format!("{} (storageversion)", published.join(",")));
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(group: &str, resource: &str, verbs: &[(&str, &[&str])]) -> RouteView {
        RouteView {
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: String::new(),
            sources: verbs
                .iter()
                .map(|(server, _)| ((*server).to_owned(), "v2".to_owned()))
                .collect(),
            verbs: verbs
                .iter()
                .map(|(server, verbs)| {
                    let verbs = verbs.iter().map(|v| (*v).to_owned()).collect();
                    ((*server).to_owned(), verbs)
                })
                .collect(),
        }
    }

    #[test]
    fn routes_as_a_table() {
        let both = route(
            "",
            "pods",
            &[("cp-a", &["get", "list"]), ("cp-b", &["get", "list"])],
        );
        let one = route("batch", "jobs", &[("cp-b", &["get"])]);
        let less = route(
            "apps",
            "x",
            &[("cp-b", &["get"]), ("cp-a", &["get", "list"])],
        );
        let mut published = route("apps", "y", &[("cp-a", &["get"])]);
        let word = "storageversion".to_owned();
        published.sources.insert("cp-b".into(), word);
        let all = vec![both, one, less, published];
        assert_eq!(
            table_of(&all, false),
            "\
GROUP/VERSION  RESOURCE  SERVERS (VERBS)
v1             pods      cp-a,cp-b (get,list)
batch/v1       jobs      cp-b (get)
apps/v1        x         cp-a (get,list) cp-b (get)
apps/v1        y         cp-a (get) cp-b (storageversion)
"
        );
        assert_eq!(
            table_of(&all[1..], true),
            "\
GROUP/VERSION  RESOURCE  SERVER  SOURCE          VERBS
batch/v1       jobs      cp-b    v2              get
apps/v1        x         cp-a    v2              get,list
apps/v1        x         cp-b    v2              get
apps/v1        y         cp-a    v2              get
apps/v1        y         cp-b    storageversion
"
        );
        let names: Vec<_> = differences(all).into_iter().map(|r| r.resource).collect();
        assert_eq!(names, ["jobs", "x", "y"]);
    }
}
