//! `APIResourceList` out of protobuf, within the limits of discovery documents. Not by a derived message: two bytes on the wire
//! would make an object of hundreds in memory before any limit could be looked at.

use super::DecodeError;
use super::legacy::{ApiResource, ApiResourceList};
use super::read::Budget;
use super::types::Text;
use crate::api::MAX_NAME;
use crate::envelope;

impl ApiResourceList {
    /// Reads the answer of `/api/v1` or `/apis/<group>/<version>` in its envelope. Errors are the fault of the server that sent it.
    pub fn from_protobuf(document: &[u8]) -> Result<Self, DecodeError> {
        let unknown = envelope::open(document).map_err(DecodeError::Protobuf)?;
        let meta = unknown.type_meta.unwrap_or_default();
        if meta.kind != "APIResourceList" {
            return Err(DecodeError::Kind {
                found: meta.kind,
                wanted: "APIResourceList",
            });
        }
        let mut budget = Budget::default();
        list(&unknown.raw, &meta.api_version, &mut budget).map_err(|message| {
            let fault = || DecodeError::Protobuf(message.to_owned());
            budget.counts.error_or(fault)
        })
    }
}

/// One field's value. Fixed-width numbers, of which discovery has none, are skipped.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn list(
    raw: &[u8],
    api_version: &str,
    budget: &mut Budget,
) -> Result<ApiResourceList, &'static str> {
    let mut list = ApiResourceList {
        api_version: budget.keep(bounded(api_version))?,
        ..ApiResourceList::default()
    };
    fields(raw, |number, value| {
        match (number, value) {
            // A group and a version may be longer together than one name.
            (1, Value::Bytes(bytes)) => list.group_version = utf8(bytes)?.into(),
            (2, Value::Bytes(bytes)) => {
                let resource = resource(bytes, budget)?;
                if !resource.name.is_empty() {
                    list.resources.push(resource);
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(list)
}

/// Field numbers: apimachinery `pkg/apis/meta/v1/generated.proto`.
fn resource(raw: &[u8], budget: &mut Budget) -> Result<ApiResource, &'static str> {
    budget.counts.object()?;
    let mut resource = ApiResource::default();
    fields(raw, |number, value| {
        let bytes = match value {
            Value::Number(n) => {
                if number == 2 {
                    resource.namespaced = n != 0;
                }
                return Ok(());
            }
            Value::Bytes(bytes) => bytes,
        };
        let target = match number {
            1 => &mut resource.name,
            3 => &mut resource.kind,
            6 => &mut resource.singular_name,
            8 => &mut resource.group,
            9 => &mut resource.version,
            10 => &mut resource.storage_version_hash,
            4 => {
                return fields(bytes, |number, value| match value {
                    Value::Bytes(bytes) if number == 1 => push(&mut resource.verbs, bytes, budget),
                    _ => Ok(()),
                });
            }
            5 => return push(&mut resource.short_names, bytes, budget),
            7 => return push(&mut resource.categories, bytes, budget),
            _ => return Ok(()),
        };
        *target = budget.keep(bounded(utf8(bytes)?))?;
        Ok(())
    })?;
    Ok(resource)
}

fn push(list: &mut Vec<Text>, bytes: &[u8], budget: &mut Budget) -> Result<(), &'static str> {
    budget.counts.verbs(list.len() + 1)?;
    let name = bounded(utf8(bytes)?);
    if !name.is_empty() {
        list.push(budget.keep(name)?);
    }
    Ok(())
}

/// Calls `each` with the number and value of every field of a message.
fn fields<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(usize, Value<'a>) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let number = usize::try_from(key >> 3).map_err(|_| "a field number is too large")?;
        match key & 7 {
            0 => each(number, Value::Number(varint(&mut rest)?))?,
            1 => drop(take(&mut rest, 8)?),
            2 => {
                let length = varint(&mut rest)?;
                let length = usize::try_from(length).map_err(|_| "a field is too long")?;
                each(number, Value::Bytes(take(&mut rest, length)?))?;
            }
            5 => drop(take(&mut rest, 4)?),
            _ => return Err("a field has an unknown wire type"),
        }
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], &'static str> {
    let (taken, left) = rest
        .split_at_checked(length)
        .ok_or("a field is cut short")?;
    *rest = left;
    Ok(taken)
}

/// At most ten bytes of seven bits each, the lowest first.
fn varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = take(rest, 1)? else {
            return Err("a number is cut short");
        };
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number is too long")
}

fn utf8(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| "a name is not UTF-8")
}

/// As in JSON: a name too long for any path reads as none.
fn bounded(name: &str) -> &str {
    if name.len() <= MAX_NAME { name } else { "" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::{MAX_ENTRIES, MAX_VERBS};

    /// An `APIResourceList` of the given bytes.
    fn read(raw: &[u8]) -> Result<ApiResourceList, DecodeError> {
        #[derive(prost::Message)]
        struct Nothing {}
        let envelope = envelope::wrap("v1", "APIResourceList", &Nothing {});
        let mut unknown = envelope::open(&envelope).unwrap();
        unknown.raw = raw.to_vec();
        ApiResourceList::from_protobuf(
            &[b"k8s\0", &*prost::Message::encode_to_vec(&unknown)].concat(),
        )
    }

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        prost::encode_length_delimiter(content.len(), &mut field).unwrap();
        field.extend_from_slice(content);
        field
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let resource = [
            field(1, b"pods"),
            vec![2 << 3, 1],
            field(15, b"?"),
            vec![14 << 3, 0x80, 1],
            vec![13 << 3 | 5, 1, 2, 3, 4],
            vec![12 << 3 | 1, 1, 2, 3, 4, 5, 6, 7, 8],
            field(4, &[field(1, b"get"), field(1, b"list")].concat()),
            field(10, b"hash="),
        ];
        let list = read(&[field(1, b"v1"), field(2, &resource.concat())].concat()).unwrap();
        assert_eq!((&*list.api_version, &*list.group_version), ("v1", "v1"));
        let pods = &list.resources[0];
        assert!(pods.namespaced);
        assert_eq!(
            (&*pods.name, &*pods.storage_version_hash),
            ("pods", "hash=")
        );
        assert_eq!(pods.verbs.concat(), "getlist");
    }

    #[test]
    fn hostile_lists_are_refused() {
        let over = |raw: &[u8]| matches!(read(raw), Err(DecodeError::TooMany { .. }));
        assert!(
            read(&field(2, b"").repeat(MAX_ENTRIES))
                .unwrap()
                .resources
                .is_empty()
        );
        assert!(over(&field(2, b"").repeat(MAX_ENTRIES + 1)));
        assert!(over(&field(2, &field(5, b"x").repeat(MAX_VERBS + 1))));
        assert!(over(&field(
            2,
            &field(4, &field(1, b"x").repeat(MAX_VERBS + 1))
        )));
        let names: Vec<u8> = (0..MAX_ENTRIES)
            .flat_map(|n| field(2, &field(1, format!("{n:0253}").as_bytes())))
            .collect();
        assert!(over(&names));
        for broken in [
            &[2 << 3 | 2, 9][..],
            &[3],
            &[0x80],
            &[0xff; 12],
            &field(1, b"\xff"),
        ] {
            assert!(
                matches!(read(broken), Err(DecodeError::Protobuf(_))),
                "{broken:?}"
            );
        }
        let long = "x".repeat(MAX_NAME + 1);
        assert!(
            read(&field(2, &field(1, long.as_bytes())))
                .unwrap()
                .resources
                .is_empty()
        );
        for other in [&b""[..], b"{}", b"k8s\0", b"k8s\0\x0a\x04\x12\x02No"] {
            assert!(ApiResourceList::from_protobuf(other).is_err(), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(raw in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&raw);
            let _ = ApiResourceList::from_protobuf(&raw);
        }
    }
}
