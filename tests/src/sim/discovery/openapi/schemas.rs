//! Component schemas: every kind of a group version, its list, and the shared types of meta/v1.

use serde_json::{Map, Value, json};

use super::kinds;
use crate::sim::surface::{Group, Resource, Version};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

pub(super) fn of(group: &Group, version: &Version) -> Map<String, Value> {
    let mut schemas = meta();
    for resource in &version.resources {
        let name = name(&group.name, &version.name, &resource.kind);
        if resource.verbs.iter().any(|verb| verb == "list") {
            schemas.insert(format!("{name}List"), list(group, version, resource, &name));
        }
        schemas.insert(name, schema(group, version, resource));
        for subresource in &resource.subresources {
            let or = |own: &str, enclosing: &str| {
                if own.is_empty() { enclosing } else { own }.to_owned()
            };
            let (group, version) = match subresource.kind_version.as_str() {
                "" => (group.name.clone(), version.name.clone()),
                own => (subresource.kind_group.clone(), or(own, &version.name)),
            };
            let kind = &subresource.kind;
            let name = self::name(&group, &version, kind);
            schemas
                .entry(name)
                .or_insert_with(|| object(&group, &version, kind, kinds::fields(kind)));
        }
    }
    schemas
}

/// The name of a kind's schema: the Go package with its first part reversed, for custom kinds the reversed group.
pub(super) fn name(group: &str, version: &str, kind: &str) -> String {
    let first = group.split('.').next().unwrap_or_default();
    let is_built_in = group.is_empty() || !group.contains('.') || group.ends_with(".k8s.io");
    let package = match group {
        "" => "io.k8s.api.core".to_owned(),
        "apiextensions.k8s.io" => {
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".to_owned()
        }
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".to_owned(),
        "internal.apiserver.k8s.io" => "io.k8s.api.apiserverinternal".to_owned(),
        _ if is_built_in => format!("io.k8s.api.{first}"),
        _ => group.rsplit('.').collect::<Vec<_>>().join("."),
    };
    format!("{package}.{version}.{kind}")
}

pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

pub(super) fn status_name() -> String {
    format!("{META}.Status")
}

/// The definitions of OpenAPI v2: the same schemas, elsewhere.
pub(super) fn as_v2(schemas: Map<String, Value>) -> Map<String, Value> {
    schemas
        .into_iter()
        .map(|(name, schema)| (name, refer_to_definitions(schema)))
        .collect()
}

pub(super) fn refer_to_definitions(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(to) if key == "$ref" => {
                    let to = to.replace("#/components/schemas/", "#/definitions/");
                    (key, Value::String(to))
                }
                value => (key, refer_to_definitions(value)),
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.into_iter().map(refer_to_definitions).collect(),
        other => other,
    }
}

fn schema(group: &Group, version: &Version, resource: &Resource) -> Value {
    let kind = &resource.kind;
    let Some(custom) = &resource.schema else {
        return object(&group.name, &version.name, kind, built_in_fields(resource));
    };
    let mut fields = match &custom["properties"] {
        Value::Object(properties) => properties.clone(),
        _ => Map::new(),
    };
    // The server adds what every object has to what a definition says.
    fields.extend(type_meta());
    fields.insert("metadata".to_owned(), metadata("ObjectMeta"));
    let mut schema = object(&group.name, &version.name, kind, Map::new());
    if let (Value::Object(schema), Value::Object(custom)) = (&mut schema, &**custom) {
        schema.extend(custom.clone());
        schema.insert("properties".to_owned(), fields.into());
    }
    schema
}

fn built_in_fields(resource: &Resource) -> Map<String, Value> {
    let mut fields = kinds::fields(&resource.kind);
    if resource.custom && fields.is_empty() {
        fields = kinds::spec_and_status();
    }
    fields
}

fn object(group: &str, version: &str, kind: &str, fields: Map<String, Value>) -> Value {
    let mut properties = type_meta();
    properties.insert("metadata".to_owned(), metadata("ObjectMeta"));
    properties.extend(fields);
    json!({
        "description": kinds::description(kind),
        "type": "object",
        "properties": properties,
        "x-kubernetes-group-version-kind": [gvk(group, version, kind)],
    })
}

fn list(group: &Group, version: &Version, resource: &Resource, item: &str) -> Value {
    let mut properties = type_meta();
    properties.insert("metadata".to_owned(), metadata("ListMeta"));
    properties.insert(
        "items".to_owned(),
        json!({"description": "The objects of the list.", "type": "array", "items": reference(item)}),
    );
    let kind = format!("{}List", resource.kind);
    json!({
        "description": format!("{kind} is a list of {} objects.", resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": properties,
        "x-kubernetes-group-version-kind": [gvk(&group.name, &version.name, &kind)],
    })
}

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn type_meta() -> Map<String, Value> {
    map([
        (
            "apiVersion",
            json!({"type": "string", "description": "Group and version of the schema that this object follows."}),
        ),
        (
            "kind",
            json!({"type": "string", "description": "Name of the schema that this object follows."}),
        ),
    ])
}

fn metadata(kind: &str) -> Value {
    json!({
        "description": "What every object has: name, labels, and what the server keeps about it.",
        "default": {},
        "allOf": [reference(&format!("{META}.{kind}"))],
    })
}

fn meta() -> Map<String, Value> {
    let text = |about: &str| json!({"type": "string", "description": about});
    let time = |about: &str| json!({"type": "string", "format": "date-time", "description": about});
    let number = |about: &str| json!({"type": "integer", "format": "int64", "description": about});
    let object = |about: &str, properties: Map<String, Value>| json!({"type": "object", "description": about, "properties": properties});
    let list_of =
        |about: &str, items: Value| json!({"type": "array", "description": about, "items": items});
    let owner = object(
        "An object that this one belongs to.",
        map([
            ("apiVersion", text("Group and version of the owner.")),
            ("kind", text("Kind of the owner.")),
            ("name", text("Name of the owner.")),
            ("uid", text("UID of the owner.")),
            (
                "controller",
                json!({"type": "boolean", "description": "Whether the owner manages this object."}),
            ),
            (
                "blockOwnerDeletion",
                json!({"type": "boolean", "description": "Whether the owner stays until this object is gone."}),
            ),
        ]),
    );
    let object_meta = map([
        (
            "name",
            text("Name of the object, unique in its namespace for its resource."),
        ),
        (
            "generateName",
            text("Beginning of a name that the server completes."),
        ),
        ("namespace", text("Namespace that the name is unique in.")),
        ("uid", text("Identity of the object in time and space.")),
        (
            "resourceVersion",
            text("Opaque version of the object, for watches and conflicts."),
        ),
        (
            "generation",
            number("Counts the changes of the desired state."),
        ),
        (
            "creationTimestamp",
            time("When the server created the object."),
        ),
        ("deletionTimestamp", time("When the object is to be gone.")),
        (
            "deletionGracePeriodSeconds",
            number("Seconds that the object has to end gracefully."),
        ),
        (
            "labels",
            kinds::text_by_key("Keys and values to select objects by."),
        ),
        (
            "annotations",
            kinds::text_by_key("Keys and values for tools, not for selection."),
        ),
        (
            "finalizers",
            list_of(
                "What has to be done before the object can go.",
                json!({"type": "string"}),
            ),
        ),
        (
            "ownerReferences",
            list_of("What this object belongs to.", owner),
        ),
        (
            "managedFields",
            list_of(
                "Who manages which field.",
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            ),
        ),
    ]);
    let list_meta = map([
        ("continue", text("Where the next page of the list begins.")),
        (
            "remainingItemCount",
            number("How many objects the following pages hold."),
        ),
        (
            "resourceVersion",
            text("Version of the list, to watch from."),
        ),
    ]);
    let status = map([
        ("status", text("Success or Failure.")),
        ("message", text("The result for a human.")),
        ("reason", text("The result for a program.")),
        (
            "code",
            json!({"type": "integer", "format": "int32", "description": "Suggested HTTP status."}),
        ),
    ]);
    map([
        (
            format!("{META}.ObjectMeta"),
            object("Metadata of an object.", object_meta),
        ),
        (
            format!("{META}.ListMeta"),
            object("Metadata of a list.", list_meta),
        ),
        (
            status_name(),
            object("The result of a call that returns no object.", status),
        ),
    ])
}

fn map<K: Into<String>, const N: usize>(pairs: [(K, Value); N]) -> Map<String, Value> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.into(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(name("", "v1", "Pod"), "io.k8s.api.core.v1.Pod");
        assert_eq!(
            name("apps", "v1", "Deployment"),
            "io.k8s.api.apps.v1.Deployment"
        );
        assert_eq!(
            name("rbac.authorization.k8s.io", "v1", "Role"),
            "io.k8s.api.rbac.v1.Role"
        );
        assert_eq!(
            name("test.example", "v1", "Widget"),
            "example.test.v1.Widget"
        );
    }
}
