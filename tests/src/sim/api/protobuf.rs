//! Request bodies in Kubernetes' protobuf, for the few kinds that kubectl sends so (its generators and `auth`). Other
//! kinds are refused with 415. The field numbers are those of the `generated.proto` files of k8s.io/api.

use serde_json::{Map, Value, json};

use super::status::{self, Failure};

pub(super) const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
const MAGIC: &[u8] = b"k8s\0";

enum Field {
    Text,
    /// `map<string, string>`
    Map,
    Message(Schema),
}

type Schema = &'static [(u64, &'static str, Field)];

const METADATA: Schema = &[
    (1, "name", Field::Text),
    (2, "generateName", Field::Text),
    (3, "namespace", Field::Text),
    (11, "labels", Field::Map),
    (12, "annotations", Field::Map),
];
const ONLY_METADATA: Schema = &[(1, "metadata", Field::Message(METADATA))];
const CONFIG_MAP: Schema = &[
    (1, "metadata", Field::Message(METADATA)),
    (2, "data", Field::Map),
];
const RESOURCE_ATTRIBUTES: Schema = &[
    (1, "namespace", Field::Text),
    (2, "verb", Field::Text),
    (3, "group", Field::Text),
    (4, "version", Field::Text),
    (5, "resource", Field::Text),
    (6, "subresource", Field::Text),
    (7, "name", Field::Text),
];
const PATH_ATTRIBUTES: Schema = &[(1, "path", Field::Text), (2, "verb", Field::Text)];
const ACCESS_REVIEW: Schema = &[(
    2,
    "spec",
    Field::Message(&[
        (1, "resourceAttributes", Field::Message(RESOURCE_ATTRIBUTES)),
        (2, "nonResourceAttributes", Field::Message(PATH_ATTRIBUTES)),
    ]),
)];
/// `runtime.Unknown`, the envelope, without its payload.
const ENVELOPE: Schema = &[(
    1,
    "type",
    Field::Message(&[(1, "apiVersion", Field::Text), (2, "kind", Field::Text)]),
)];
const PAYLOAD: u64 = 2;

/// The object as JSON would say it.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, Failure> {
    let malformed =
        || status::bad_request("the object provided is unrecognized (must be of type Unknown)");
    let envelope = bytes.strip_prefix(MAGIC).ok_or_else(malformed)?;
    let head = message(envelope, ENVELOPE).ok_or_else(malformed)?;
    let kind = head["type"]["kind"].as_str().unwrap_or_default();
    let schema = match kind {
        "ConfigMap" => CONFIG_MAP,
        "Namespace" | "ServiceAccount" | "SelfSubjectReview" => ONLY_METADATA,
        "SelfSubjectAccessReview" => ACCESS_REVIEW,
        "DeleteOptions" => &[],
        _ => {
            return Err(status::unsupported_media_type(
                "application/json, application/yaml",
            ));
        }
    };
    let mut payload: &[u8] = &[];
    for (number, value) in fields(envelope).ok_or_else(malformed)? {
        if number == PAYLOAD {
            payload = value;
        }
    }
    let mut object = message(payload, schema).ok_or_else(malformed)?;
    object["apiVersion"] = head["type"]["apiVersion"].clone();
    object["kind"] = json!(kind);
    Ok(object)
}

fn message(bytes: &[u8], schema: Schema) -> Option<Value> {
    let mut out = Map::new();
    for (number, value) in fields(bytes)? {
        let Some((_, name, field)) = schema.iter().find(|(known, ..)| *known == number) else {
            continue;
        };
        match field {
            Field::Message(inner) => {
                out.insert((*name).into(), message(value, inner)?);
            }
            // Kubernetes writes empty strings too; JSON leaves them out.
            Field::Text if value.is_empty() => {}
            Field::Text => {
                out.insert((*name).into(), text(value)?);
            }
            Field::Map => {
                let entry = fields(value)?;
                let part = |number| {
                    entry
                        .iter()
                        .find(|(one, _)| *one == number)
                        .map_or(&[][..], |(_, value)| value)
                };
                let map = out.entry(*name).or_insert_with(|| json!({}));
                map[std::str::from_utf8(part(1)).ok()?] = text(part(2))?;
            }
        }
    }
    Some(Value::Object(out))
}

/// The length-delimited fields; numbers are of no interest in these kinds and are passed over.
fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        match tag & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => bytes = bytes.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                out.push((tag >> 3, value));
                bytes = rest;
            }
            5 => bytes = bytes.get(4..)?,
            _ => return None,
        }
    }
    Some(out)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn text(bytes: &[u8]) -> Option<Value> {
    Some(json!(std::str::from_utf8(bytes).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, value.len() as u8], value].concat()
    }

    #[test]
    fn config_map() {
        let entry = field(2, &[field(1, b"k"), field(2, b"v")].concat());
        let object = [field(1, &[field(1, b"m"), vec![0x38, 0]].concat()), entry].concat();
        let kind = field(1, &[field(1, b"v1"), field(2, b"ConfigMap")].concat());
        let bytes = [MAGIC, &kind, &field(2, &object)].concat();
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"k": "v"}});
        assert_eq!(decode(&bytes).unwrap(), expected);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
