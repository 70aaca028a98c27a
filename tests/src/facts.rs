//! What a discovery document says, independent of its form: documents of different forms, servers and agents can be compared.

use std::collections::BTreeSet;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use http::{HeaderMap, header};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::sim::discovery::protobuf::{
    self, ApiGroup, ApiGroupDiscoveryList, ApiGroupList, ApiResource, ApiResourceList, ApiVersions,
    GroupVersionForDiscovery, GroupVersionKind, MAGIC, Unknown,
};
use crate::sim::surface::version_order;

/// `Accept` of aggregated discovery.
pub const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// `Accept` of aggregated discovery before Kubernetes 1.30.
pub const V2BETA1: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
/// `Accept` of legacy documents in protobuf.
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Statements like `apps/v1`, `apps/v1 deployments is Deployment Namespaced`, `apps/v1 deployments/scale patch`.
pub type Facts = BTreeSet<String>;

/// The facts of an answer that must be a 200.
///
/// # Errors
/// Another status, or a body that is no discovery document.
pub fn of(answer: &Answer) -> Result<Facts> {
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    facts(&document(&answer.headers, &answer.body)?)
}

/// A body, whatever its encoding, in the shape of its JSON.
///
/// # Errors
/// It is not what its headers say.
pub fn document(headers: &HeaderMap, body: &[u8]) -> Result<Value> {
    let value = |name: header::HeaderName| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let mut plain = Vec::new();
    let body = match value(header::CONTENT_ENCODING).as_str() {
        "" => body,
        "gzip" => {
            GzDecoder::new(body).read_to_end(&mut plain)?;
            &plain
        }
        other => bail!("content-encoding {other}"),
    };
    let content_type = value(header::CONTENT_TYPE);
    match content_type.split(';').next().unwrap_or_default().trim() {
        // The index of OpenAPI v3 says that it is text.
        "application/json" | "text/plain" => Ok(serde_json::from_slice(body)?),
        "application/yaml" => Ok(serde_saphyr::from_str(std::str::from_utf8(body)?)?),
        PROTOBUF => from_protobuf(body),
        other => bail!("content-type {other}"),
    }
}

/// The facts of any discovery document or of OpenAPI's index.
///
/// # Errors
/// It is none of these.
pub fn facts(document: &Value) -> Result<Facts> {
    let mut facts = Facts::new();
    match text(&document["kind"]) {
        "APIGroupDiscoveryList" => {
            for group in list(&document["items"]) {
                for version in list(&group["versions"]) {
                    let name = text(&group["metadata"]["name"]);
                    aggregated(
                        &group_version(name, text(&version["version"])),
                        version,
                        &mut facts,
                    );
                }
            }
        }
        "APIResourceList" => {
            let name = text(&document["groupVersion"]);
            for one in list(&document["resources"]) {
                let scope = if one["namespaced"] == true {
                    "Namespaced"
                } else {
                    "Cluster"
                };
                let subject = format!("{name} {}", text(&one["name"]));
                add(
                    &subject,
                    text(&one["kind"]),
                    scope,
                    &one["verbs"],
                    &mut facts,
                );
            }
        }
        "APIGroupList" => list(&document["groups"])
            .iter()
            .for_each(|one| group_versions(one, &mut facts)),
        "APIGroup" => group_versions(document, &mut facts),
        "APIVersions" => facts.extend(
            list(&document["versions"])
                .iter()
                .map(|one| text(one).to_owned()),
        ),
        _ => {
            let paths = document["paths"]
                .as_object()
                .context("no discovery document")?;
            facts.extend(paths.keys().cloned());
        }
    }
    Ok(facts)
}

/// Panics unless an aggregated document names everything once, is fresh, and puts versions in Kubernetes' order.
pub fn assert_well_formed(document: &Value) {
    let groups = names(list(&document["items"]), |group| {
        text(&group["metadata"]["name"])
    });
    assert_eq!(groups.len(), list(&document["items"]).len());
    for group in list(&document["items"]) {
        let name = text(&group["metadata"]["name"]);
        let versions = list(&group["versions"]);
        let order: Vec<&str> = versions.iter().map(|one| text(&one["version"])).collect();
        assert!(
            order.is_sorted_by(|a, b| version_order(a, b).is_lt()),
            "versions of {name}: {order:?}"
        );
        for version in versions {
            assert_eq!(version["freshness"], "Current", "{name}");
            let resources = list(&version["resources"]);
            let distinct = names(resources, |one| text(&one["resource"]));
            assert_eq!(distinct.len(), resources.len(), "{name}: {resources:?}");
            for resource in resources {
                let all = list(&resource["subresources"]);
                let distinct = names(all, |one| text(&one["subresource"]));
                assert_eq!(distinct.len(), all.len(), "{name}: {resource}");
            }
        }
    }
}

fn aggregated(name: &str, version: &Value, facts: &mut Facts) {
    facts.insert(name.to_owned());
    for resource in list(&version["resources"]) {
        let (scope, subject) = (
            text(&resource["scope"]),
            format!("{name} {}", text(&resource["resource"])),
        );
        let kind = |one: &Value| text(&one["responseKind"]["kind"]).to_owned();
        add(&subject, &kind(resource), scope, &resource["verbs"], facts);
        for sub in list(&resource["subresources"]) {
            let subject = format!("{subject}/{}", text(&sub["subresource"]));
            add(&subject, &kind(sub), scope, &sub["verbs"], facts);
        }
    }
}

fn add(subject: &str, kind: &str, scope: &str, verbs: &Value, facts: &mut Facts) {
    facts.insert(format!("{subject} is {kind} {scope}"));
    facts.extend(
        list(verbs)
            .iter()
            .map(|verb| format!("{subject} {}", text(verb))),
    );
}

fn group_versions(group: &Value, facts: &mut Facts) {
    let versions = list(&group["versions"]);
    facts.extend(
        versions
            .iter()
            .map(|one| text(&one["groupVersion"]).to_owned()),
    );
}

fn group_version(group: &str, version: &str) -> String {
    match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    }
}

fn names<'a>(all: &'a [Value], name: impl Fn(&'a Value) -> &'a str) -> BTreeSet<&'a str> {
    all.iter().map(name).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn from_protobuf(body: &[u8]) -> Result<Value> {
    use prost::Message;
    let envelope = Unknown::decode(body.strip_prefix(MAGIC).context("no k8s magic")?)?;
    let raw = envelope.raw.as_slice();
    let meta = envelope.type_meta;
    let mut document = match meta.kind.as_str() {
        "APIGroupDiscoveryList" => {
            let list = ApiGroupDiscoveryList::decode(raw)?;
            json!({"metadata": {}, "items": list.items.iter().map(discovered_group).collect::<Vec<_>>()})
        }
        "APIGroupList" => {
            let list = ApiGroupList::decode(raw)?;
            json!({"groups": list.groups.iter().map(group).collect::<Vec<_>>()})
        }
        "APIGroup" => group(&ApiGroup::decode(raw)?),
        "APIResourceList" => {
            let list = ApiResourceList::decode(raw)?;
            let resources: Vec<_> = list.resources.iter().map(resource).collect();
            json!({"groupVersion": list.group_version, "resources": resources})
        }
        "APIVersions" => {
            let versions = ApiVersions::decode(raw)?;
            let addresses = versions.server_address_by_client_cidrs.iter();
            let addresses = addresses.map(
                |one| json!({"clientCIDR": one.client_cidr, "serverAddress": one.server_address}),
            );
            json!({"versions": versions.versions, "serverAddressByClientCIDRs": addresses.collect::<Vec<_>>()})
        }
        other => bail!("a {other} in protobuf"),
    };
    document["kind"] = json!(meta.kind);
    if !meta.api_version.is_empty() {
        document["apiVersion"] = json!(meta.api_version);
    }
    Ok(document)
}

fn discovered_group(group: &protobuf::ApiGroupDiscovery) -> Value {
    let versions = group.versions.iter().map(|version| {
        let resources: Vec<_> = version.resources.iter().map(discovered_resource).collect();
        json!({"version": version.version, "resources": resources, "freshness": version.freshness})
    });
    let mut metadata = json!({});
    if !group.metadata.name.is_empty() {
        metadata["name"] = json!(group.metadata.name);
    }
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn discovered_resource(one: &protobuf::ApiResourceDiscovery) -> Value {
    let kind = |kind: &GroupVersionKind| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let subresources = one.subresources.iter().map(|sub| {
        let mut value = json!({
            "subresource": sub.subresource, "responseKind": sub.response_kind.as_ref().map(kind), "verbs": sub.verbs,
        });
        optional(&mut value, "acceptedTypes", sub.accepted_types.iter().map(kind).collect());
        value
    });
    let mut value = json!({
        "resource": one.resource, "responseKind": one.response_kind.as_ref().map(kind), "scope": one.scope,
        "singularResource": one.singular_resource, "verbs": one.verbs,
    });
    optional(&mut value, "subresources", subresources.collect());
    optional(
        &mut value,
        "shortNames",
        one.short_names.iter().map(|name| json!(name)).collect(),
    );
    optional(
        &mut value,
        "categories",
        one.categories.iter().map(|name| json!(name)).collect(),
    );
    value
}

fn group(group: &ApiGroup) -> Value {
    let version = |one: &GroupVersionForDiscovery| json!({"groupVersion": one.group_version, "version": one.version});
    json!({
        "name": group.name,
        "versions": group.versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": version(&group.preferred_version),
    })
}

fn resource(one: &ApiResource) -> Value {
    let verbs = one.verbs.as_ref().map(|verbs| verbs.items.clone());
    let mut value = json!({
        "name": one.name, "singularName": one.singular_name, "namespaced": one.namespaced, "kind": one.kind, "verbs": verbs,
    });
    for (name, text) in [
        ("group", &one.group),
        ("version", &one.version),
        ("storageVersionHash", &one.storage_version_hash),
    ] {
        if !text.is_empty() {
            value[name] = json!(text);
        }
    }
    optional(
        &mut value,
        "shortNames",
        one.short_names.iter().map(|name| json!(name)).collect(),
    );
    optional(
        &mut value,
        "categories",
        one.categories.iter().map(|name| json!(name)).collect(),
    );
    value
}

/// JSON leaves empty lists out.
fn optional(value: &mut Value, name: &str, list: Vec<Value>) {
    if !list.is_empty() {
        value[name] = Value::Array(list);
    }
}
