//! `metadata.managedFields`: who wrote which fields. Lists count as one field, conflicts are never raised.

use serde_json::{Map, Value, json};

use crate::sim::clock;

/// Who writes, and how.
#[derive(Clone, Debug)]
pub(super) struct Manager<'a> {
    pub name: &'a str,
    pub apply: bool,
    pub api_version: &'a str,
    pub subresource: &'a str,
}

/// Replaces (apply) or extends (update) the manager's entry with the fields in which `new` differs from `old`.
pub(super) fn record(new: &mut Value, old: Option<&Value>, manager: &Manager<'_>) {
    let mut fields = match old {
        Some(old) => changed(new, old),
        None => owned(new),
    };
    let mut entries: Vec<Value> = new["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let operation = if manager.apply { "Apply" } else { "Update" };
    let same = |entry: &Value| {
        entry["manager"] == manager.name
            && entry["operation"] == operation
            && entry["subresource"].as_str().unwrap_or_default() == manager.subresource
    };
    let known = entries.iter().position(same).map(|at| entries.remove(at));
    if let (Some(known), false) = (&known, manager.apply) {
        let mut all = known["fieldsV1"].clone();
        extend(&mut all, &Value::Object(fields));
        fields = all.as_object().cloned().unwrap_or_default();
    }
    if fields.is_empty() {
        entries.extend(known);
    } else {
        let mut entry = json!({
            "manager": manager.name,
            "operation": operation,
            "apiVersion": manager.api_version,
            "time": clock::now(),
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        });
        if !manager.subresource.is_empty() {
            entry["subresource"] = json!(manager.subresource);
        }
        entries.push(entry);
    }
    if !entries.is_empty() {
        new["metadata"]["managedFields"] = Value::Array(entries);
    }
}

/// The manager's name when none is given: the User-Agent up to its first slash (apiserver `managerOrUserAgent`).
pub(super) fn from_user_agent(agent: &str) -> &str {
    let name = agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown" } else { name }
}

/// Every field that a writer may own, in the `f:` notation.
pub(super) fn owned(object: &Value) -> Map<String, Value> {
    difference(object, &Value::Null, 0)
}

fn changed(new: &Value, old: &Value) -> Map<String, Value> {
    difference(new, old, 0)
}

fn difference(new: &Value, old: &Value, depth: usize) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, value) in new.as_object().into_iter().flatten() {
        let before = &old[key.as_str()];
        if value == before || depth == 0 && matches!(key.as_str(), "kind" | "apiVersion") {
            continue;
        }
        let field = if depth == 0 && key == "metadata" {
            let kept = |key: &str| {
                matches!(
                    key,
                    "labels" | "annotations" | "finalizers" | "ownerReferences"
                )
            };
            let inner = value
                .as_object()
                .map(|map| map.iter().filter(|(key, _)| kept(key)));
            let inner: Map<_, _> = inner
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            difference(&Value::Object(inner), before, 1)
        } else {
            match value {
                Value::Object(_) => {
                    let mut inner = difference(value, before, depth + 1);
                    // The map itself belongs to whom makes it, except for the sections right below the root.
                    let section = depth == 0 && matches!(key.as_str(), "spec" | "status");
                    if before.is_null() && !section {
                        inner.insert(".".into(), json!({}));
                    }
                    inner
                }
                _ => Map::new(),
            }
        };
        if field.is_empty() && depth == 0 && key == "metadata" {
            continue;
        }
        out.insert(format!("f:{key}"), Value::Object(field));
    }
    out
}

fn extend(all: &mut Value, more: &Value) {
    if let (Value::Object(all), Value::Object(more)) = (all, more) {
        for (key, value) in more {
            extend(all.entry(key.clone()).or_insert_with(|| json!({})), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_create_of_a_configmap() {
        let mut object = json!({"kind": "ConfigMap", "metadata": {"name": "c1", "uid": "u"}, "data": {"k": "v"}});
        let manager = Manager {
            name: from_user_agent("curl/8.1"),
            apply: false,
            api_version: "v1",
            subresource: "",
        };
        record(&mut object, None, &manager);
        let entry = &object["metadata"]["managedFields"][0];
        assert_eq!(entry["manager"], "curl");
        assert_eq!(entry["fieldsV1"], json!({"f:data": {".": {}, "f:k": {}}}));
        let old = object.clone();
        object["data"]["k2"] = json!("w");
        record(&mut object, Some(&old), &manager);
        let fields = &object["metadata"]["managedFields"][0]["fieldsV1"];
        assert_eq!(*fields, json!({"f:data": {".": {}, "f:k": {}, "f:k2": {}}}));
    }
}
