//! Patches: RFC 7386 merge (also for strategic merge), RFC 6902 operations, and a merge that keeps what it does not name.

use serde_json::{Map, Value};

use super::status::{self, Failure};

/// RFC 7386: null removes.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else {
        return;
    };
    for (key, value) in patch {
        // Directives of strategic merge patches order and replace lists; lists are replaced here anyway.
        if key.starts_with('$') {
            continue;
        }
        if value.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// RFC 6902. A test that fails is a 422, as is a path that leads nowhere.
pub(super) fn json_patch(target: &mut Value, operations: &Value) -> Result<(), Failure> {
    let operations = operations
        .as_array()
        .ok_or_else(|| status::bad_request("a JSON patch is a list of operations"))?;
    for operation in operations {
        apply(target, operation).ok_or_else(|| {
            let message = format!(
                "the server rejected our request due to an error in our request: {operation}"
            );
            Failure::from(status::Status::failure(
                422,
                "Invalid",
                message,
                Some(status::Details::default()),
            ))
        })?;
    }
    Ok(())
}

fn apply(target: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    let from = || operation["from"].as_str();
    match operation["op"].as_str()? {
        "add" => add(target, path, operation.get("value")?.clone()),
        "replace" => {
            *target.pointer_mut(path)? = operation.get("value")?.clone();
            Some(())
        }
        "remove" => remove(target, path).map(drop),
        "test" => (target.pointer(path)? == operation.get("value")?).then_some(()),
        "copy" => {
            let value = target.pointer(from()?)?.clone();
            add(target, path, value)
        }
        "move" => {
            let value = remove(target, from()?)?;
            add(target, path, value)
        }
        _ => None,
    }
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, key) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(fields) => {
            fields.insert(key, value);
        }
        Value::Array(items) => {
            let at = if key == "-" {
                items.len()
            } else {
                key.parse().ok().filter(|at| *at <= items.len())?
            };
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, key) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(fields) => fields.remove(&key),
        Value::Array(items) => {
            let at = key.parse().ok().filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

fn split(path: &str) -> Option<(&str, String)> {
    let (parent, key) = path.rsplit_once('/')?;
    Some((parent, key.replace("~1", "/").replace("~0", "~")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_removes_nulls_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        merge(
            &mut target,
            &json!({"a": {"b": null, "d": 3}, "l": [3], "$setElementOrder/l": [3]}),
        );
        assert_eq!(target, json!({"a": {"c": 2, "d": 3}, "l": [3]}));
    }

    #[test]
    fn operations() {
        let mut target = json!({"a": {"x/y": 1}, "l": [1]});
        let operations = json!([
            {"op": "test", "path": "/a/x~1y", "value": 1},
            {"op": "add", "path": "/l/-", "value": 2},
            {"op": "move", "from": "/a/x~1y", "path": "/b"},
            {"op": "remove", "path": "/l/0"},
        ]);
        json_patch(&mut target, &operations).unwrap();
        assert_eq!(target, json!({"a": {}, "l": [2], "b": 1}));
        assert!(
            json_patch(
                &mut target,
                &json!([{"op": "replace", "path": "/nope/x", "value": 1}])
            )
            .is_err()
        );
    }
}
