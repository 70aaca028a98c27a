//! Unaggregated shapes: the merge into a local answer, and aggregated documents made of them.

use super::DecodeError;
use super::legacy::{
    ApiResourceList, api_group, api_group_list, api_resource_list, merge_resource_list,
};
use super::testing::{document, shown, texts};
use super::types::{Document, Scope};
use crate::api::GroupVersion;

fn gv(group: &str, version: &str) -> GroupVersion {
    GroupVersion {
        group: group.into(),
        version: version.into(),
    }
}

fn names(list: &ApiResourceList) -> Vec<&str> {
    list.resources
        .iter()
        .map(|resource| &*resource.name)
        .collect()
}

fn list(json: &str) -> ApiResourceList {
    ApiResourceList::from_json(json.as_bytes()).unwrap()
}

#[test]
fn a_local_answer_gains_what_others_have() {
    let mut local = list(
        r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":[
        {"name":"daemonsets","singularName":"local","namespaced":false,"kind":"Local","verbs":["watch","delete"],"storageVersionHash":"h1="},
        {"name":"daemonsets/status","singularName":"","namespaced":true,"kind":"DaemonSet","verbs":["get"]},
        {"name":"statefulsets","singularName":"s","namespaced":true,"kind":"S","verbs":["get"],"storageVersionHash":"h2="}]}"#,
    );
    let view = document(
        "apps/v1: controllers daemonsets daemonsets/scale daemonsets/status deployments statefulsets statefulsets/status
         apps/v2: things",
    );
    let merged = merge_resource_list(local.clone(), &view, "apps", "v1");
    assert_eq!(
        names(&merged),
        [
            "controllers",
            "daemonsets",
            "daemonsets/scale",
            "daemonsets/status",
            "deployments",
            "statefulsets",
            "statefulsets/status"
        ]
    );
    let daemonsets = &merged.resources[1];
    assert_eq!(daemonsets.verbs, texts(&["delete", "get", "watch"]));
    local.resources[0].verbs = daemonsets.verbs.clone();
    // All else is as the local server said it.
    for resource in &local.resources {
        assert!(merged.resources.contains(resource), "{}", resource.name);
    }
    assert_eq!(
        merge_resource_list(merged.clone(), &view, "apps", "v1"),
        merged
    );
    // Nothing is known of this one.
    assert_eq!(
        merge_resource_list(local.clone(), &view, "apps", "v3"),
        local
    );
}

#[test]
fn verbs_that_do_not_grow_keep_their_order() {
    let local = list(
        r#"{"kind":"APIResourceList","groupVersion":"g/v1","resources":[{"name":"things","kind":"T","verbs":["watch","get"]}]}"#,
    );
    assert_eq!(
        merge_resource_list(local.clone(), &document("g/v1: things"), "g", "v1"),
        local
    );
}

/// An extension server's answer passes through the local server as it is.
#[test]
fn a_local_answer_that_says_everything_many_times() {
    let count = crate::document::MAX_ENTRIES / 2;
    let one = |n| format!(r#"{{"name":"things","kind":"T","verbs":["{n}a","{n}b"]}}"#);
    let all: Vec<String> = (0..count).map(one).collect();
    let text = format!(
        r#"{{"kind":"APIResourceList","groupVersion":"g/v1","resources":[{}]}}"#,
        all.join(",")
    );
    let merged = merge_resource_list(list(&text), &document("g/v1: things"), "g", "v1");
    assert_eq!(names(&merged), ["things"]);
    assert_eq!(merged.resources[0].verbs.len(), 2 * count + 1);
}

#[test]
fn groups_prefer_what_clients_do_not_drop() {
    let view = document("/v1: pods\napps/v2!: a\napps/v1: a\nall.stale/v1!:");
    let group = api_group(&view, "apps").unwrap();
    assert_eq!(
        (&*group.preferred.group_version, group.versions.len()),
        ("apps/v1", 2)
    );
    assert_eq!(
        &*api_group(&view, "all.stale").unwrap().preferred.version,
        "v1"
    );
    assert_eq!(
        &*api_group(&view, "").unwrap().preferred.group_version,
        "v1"
    );
    assert!(api_group(&view, "none").is_none() && api_resource_list(&view, "apps", "v3").is_none());
    let listed = api_group_list(&view).groups;
    assert_eq!(
        listed.iter().map(|group| &*group.name).collect::<Vec<_>>(),
        ["apps", "all.stale"]
    );
}

#[test]
fn kinds_of_the_list_itself_are_not_spelled_out() {
    let mut view = document("g/v1: things other");
    let kinds = [("g", "v1"), ("h", "v1")];
    for (resource, (group, version)) in view.groups[0].versions[0].resources.iter_mut().zip(kinds) {
        let kind = resource.response_kind.as_mut().unwrap();
        (kind.group, kind.version) = (group.into(), version.into());
    }
    let list = api_resource_list(&view, "g", "v1").unwrap();
    let shown: Vec<_> = list
        .resources
        .iter()
        .map(|r| (&*r.group, &*r.version))
        .collect();
    assert_eq!(shown, [("", ""), ("h", "v1")]);
}

#[test]
fn conversion_to_aggregated() {
    let text = r#"{"kind":"APIResourceList","groupVersion":"g/v1","resources":[
        {"name":"orphans/log","namespaced":true,"kind":"Log","verbs":["get"]},
        {"name":"b/status","namespaced":false,"kind":"","group":"x","verbs":["get"]},
        {"name":"b","singularName":"bee","namespaced":true,"kind":"B","verbs":["get"],"shortNames":["s"],"categories":["c"]},
        {"name":"a b","kind":"X","verbs":["get"]},{"name":"b/x/y","kind":"X","verbs":["get"]},{"name":"/b"},{"name":"b/"}]}"#;
    let converted = Document::from_legacy(&[(gv("g", "v1"), text.as_bytes())]).unwrap();
    assert_eq!(shown(&converted), "g/v1: b b/status orphans orphans/log");
    let [b, orphans] = &*converted.groups[0].versions[0].resources else {
        panic!("{converted:?}");
    };
    assert_eq!((b.scope, &*b.singular), (Scope::Namespaced, "bee"));
    assert_eq!(
        (&b.short_names, &b.categories),
        (&texts(&["s"]), &texts(&["c"]))
    );
    let status = b.subresources[0].response_kind.as_ref().unwrap();
    assert!(status.kind.is_empty() && status.group.is_empty());
    assert!(!orphans.is_served() && orphans.response_kind.is_some());
    assert_eq!(orphans.scope, Scope::Namespaced);
}

#[test]
fn lists_of_another_group_version_are_refused() {
    let text = br#"{"kind":"APIResourceList","groupVersion":"g/v1","resources":null}"#;
    let asked = [(gv("g", "v1"), &text[..]), (gv("g", "v2"), text)];
    assert!(Document::from_legacy(&asked[..1]).is_ok());
    assert!(matches!(
        Document::from_legacy(&asked),
        Err(DecodeError::Kind { .. })
    ));
    // All lists together have the limits of one document.
    let many = format!(
        r#"{{"kind":"APIResourceList","groupVersion":"g/v1","resources":[{}]}}"#,
        vec!["{}"; crate::document::MAX_ENTRIES / 2 + 1].join(",")
    );
    let asked = [
        (gv("g", "v1"), many.as_bytes()),
        (gv("g", "v1"), many.as_bytes()),
    ];
    assert!(Document::from_legacy(&asked[..1]).is_ok());
    assert!(matches!(
        Document::from_legacy(&asked),
        Err(DecodeError::TooMany { .. })
    ));
}
