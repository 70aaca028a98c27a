//! Paths of a group version, with the operations its resources' verbs allow. Clients find the kind of an operation in
//! `x-kubernetes-group-version-kind`, and whether the server validates fields in the parameters of `patch`.

use serde_json::{Map, Value, json};

use super::schemas;
use crate::sim::surface::{Group, Resource, Version};

pub(super) fn of(group: &Group, version: &Version) -> Map<String, Value> {
    let mut paths = Map::new();
    let base = match group.name.as_str() {
        "" => format!("/api/{}", version.name),
        name => format!("/apis/{name}/{}", version.name),
    };
    for resource in &version.resources {
        let collection = match resource.namespaced {
            true => format!("{base}/namespaces/{{namespace}}/{}", resource.name),
            false => format!("{base}/{}", resource.name),
        };
        let kind = Kind::of(group, version, resource);
        let all = [
            ("list", "get"),
            ("create", "post"),
            ("deletecollection", "delete"),
        ];
        insert(&mut paths, &collection, &kind, &resource.verbs, &all);
        if resource.namespaced {
            let everywhere = format!("{base}/{}", resource.name);
            insert(&mut paths, &everywhere, &kind, &resource.verbs, &all[..1]);
        }
        let item = format!("{collection}/{{name}}");
        let one = [
            ("get", "get"),
            ("update", "put"),
            ("patch", "patch"),
            ("delete", "delete"),
        ];
        insert(&mut paths, &item, &kind, &resource.verbs, &one);
        for subresource in &resource.subresources {
            let kind = match subresource.kind_version.as_str() {
                "" => Kind {
                    kind: &subresource.kind,
                    ..kind
                },
                own => Kind {
                    group: &subresource.kind_group,
                    version: own,
                    kind: &subresource.kind,
                },
            };
            let path = format!("{item}/{}", subresource.name);
            let verbs = [
                ("get", "get"),
                ("create", "post"),
                ("update", "put"),
                ("patch", "patch"),
                ("delete", "delete"),
            ];
            insert(&mut paths, &path, &kind, &subresource.verbs, &verbs);
        }
    }
    paths
}

/// The same in the form of OpenAPI v2: bodies are parameters, answers have no media types.
pub(super) fn as_v2(paths: Map<String, Value>) -> Map<String, Value> {
    paths
        .into_iter()
        .map(|(path, item)| {
            let item = match item {
                Value::Object(item) => item
                    .into_iter()
                    .map(|(name, part)| (name.clone(), part_as_v2(&name, part)))
                    .collect::<Map<_, _>>()
                    .into(),
                other => other,
            };
            (path, item)
        })
        .collect()
}

fn part_as_v2(name: &str, part: Value) -> Value {
    if name == "parameters" {
        return part
            .as_array()
            .map(|list| list.iter().map(parameter_as_v2).collect())
            .unwrap_or_default();
    }
    let mut parameters: Vec<Value> = part["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(parameter_as_v2)
        .collect();
    if !part["requestBody"].is_null() {
        parameters.push(
            json!({"name": "body", "in": "body", "required": true, "schema": {"type": "object"}}),
        );
    }
    json!({
        "description": part["description"],
        "operationId": part["operationId"],
        "consumes": part["requestBody"]["content"].as_object().map_or_else(|| vec!["*/*"], |content| content.keys().map(String::as_str).collect()),
        "produces": ["application/json"],
        "schemes": ["https"],
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "schema": schemas::refer_to_definitions(part["responses"]["200"]["content"]["application/json"]["schema"].clone())},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": part["x-kubernetes-action"],
        "x-kubernetes-group-version-kind": part["x-kubernetes-group-version-kind"],
    })
}

fn parameter_as_v2(parameter: &Value) -> Value {
    let mut flat = parameter.clone();
    if let Value::Object(flat) = &mut flat {
        flat.remove("schema");
        flat.insert("type".to_owned(), parameter["schema"]["type"].clone());
        flat.insert("uniqueItems".to_owned(), true.into());
    }
    flat
}

#[derive(Clone, Copy)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> Kind<'a> {
    fn of(group: &'a Group, version: &'a Version, resource: &'a Resource) -> Kind<'a> {
        Kind {
            group: &group.name,
            version: &version.name,
            kind: &resource.kind,
        }
    }

    fn schema(&self) -> String {
        schemas::name(self.group, self.version, self.kind)
    }
}

/// Adds the operations of a path; a path without any is none.
fn insert(
    paths: &mut Map<String, Value>,
    path: &str,
    kind: &Kind<'_>,
    verbs: &[String],
    methods: &[(&str, &str)],
) {
    let mut item = Map::new();
    for (verb, method) in methods {
        if verbs.iter().any(|one| one == verb) {
            item.insert((*method).to_owned(), operation(path, verb, method, kind));
        }
    }
    if item.is_empty() {
        return;
    }
    let parameters: Vec<Value> = ["namespace", "name"]
        .iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| json!({"name": name, "in": "path", "required": true, "description": format!("The {name} of the object."), "schema": {"type": "string"}}))
        .collect();
    item.insert("parameters".to_owned(), parameters.into());
    paths.insert(path.to_owned(), item.into());
}

fn operation(path: &str, verb: &str, method: &str, kind: &Kind<'_>) -> Value {
    let answer = match verb {
        "list" => format!("{}List", kind.schema()),
        "delete" | "deletecollection" => schemas::status_name(),
        _ => kind.schema(),
    };
    let query = |name: &str, about: &str| json!({"name": name, "in": "query", "description": about, "schema": {"type": "string"}});
    let parameters = match verb {
        "create" | "update" | "patch" => vec![
            query("dryRun", "All: nothing is kept."),
            query("fieldManager", "Who makes the change."),
            query(
                "fieldValidation",
                "Ignore, Warn or Strict: what to do about unknown and duplicate fields.",
            ),
        ],
        "list" => vec![
            query("labelSelector", "Which objects, by their labels."),
            query("fieldSelector", "Which objects, by their fields."),
            query("continue", "Where the page begins."),
            query("limit", "How many objects a page holds."),
            query("resourceVersion", "Which version of the list."),
            query("watch", "true: changes instead of objects."),
        ],
        "delete" | "deletecollection" => vec![query("dryRun", "All: nothing is deleted.")],
        _ => Vec::new(),
    };
    let body = schemas::reference(&kind.schema());
    let media: &[&str] = match verb {
        "create" | "update" => &["*/*"],
        // Not the strategic merge patch, though servers take it: kubectl would look for merge keys in these schemas,
        // find none, warn, and use those it has built in.
        "patch" => &[
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ],
        _ => &[],
    };
    let action = match (verb, method) {
        ("deletecollection", _) => "deletecollection",
        (_, "get") if verb == "list" => "list",
        (_, method) => method,
    };
    let mut operation = json!({
        "description": format!("{verb} {}", kind.kind),
        "operationId": format!("{verb}{}", path.replace(['/', '{', '}', '.', '-'], "_")),
        "parameters": parameters,
        "responses": {
            "200": {"description": "OK", "content": {"application/json": {"schema": schemas::reference(&answer)}}},
            "401": {"description": "Unauthorized"},
        },
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": schemas::gvk(kind.group, kind.version, kind.kind),
    });
    if !media.is_empty() {
        let content: Map<String, Value> = media
            .iter()
            .map(|media| ((*media).to_owned(), json!({"schema": body})))
            .collect();
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}
