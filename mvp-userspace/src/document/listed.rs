//! Which group versions a server lists that has no aggregated discovery: its answers to `/api` and `/apis`. Pure.
//!
//! Shapes: `apimachinery/pkg/apis/meta/v1/types.go`. `/api` and `/api/v1` have no apiVersion in any release.

use serde::Deserialize;
use serde::de::{DeserializeSeed, MapAccess};

use super::json::{Many, Name, Object, One, over, skip, text};
use super::limits::Counts;
use super::{DecodeError, Root};
use crate::api::{GroupVersion, is_path_segment};

/// Group versions listed by `/api` (kind `APIVersions`) or `/apis` (kind `APIGroupList`), each once, in the server's order;
/// those that no path can name are left out.
pub fn group_versions(document: &[u8], root: Root) -> Result<Vec<GroupVersion>, DecodeError> {
    let mut sink = ListSink::default();
    let mut json = serde_json::Deserializer::from_str(text(document)?);
    if let Err(error) = One::<List>(&mut sink)
        .deserialize(&mut json)
        .and_then(|()| json.end())
    {
        return Err(sink.counts.error(&error));
    }
    let wanted = match root {
        Root::Core => "APIVersions",
        Root::Groups => "APIGroupList",
    };
    if sink.kind != wanted {
        return Err(DecodeError::Kind {
            found: sink.kind,
            wanted,
        });
    }
    let mut seen = std::collections::HashSet::new();
    Ok(sink
        .found
        .into_iter()
        .filter(|gv| root.holds(&gv.group))
        .filter(|gv| {
            is_path_segment(&gv.version) && (gv.group.is_empty() || is_path_segment(&gv.group))
        })
        .filter(|gv| seen.insert(gv.clone()))
        .collect())
}

struct List;

#[derive(Default)]
struct ListSink {
    kind: String,
    found: Vec<GroupVersion>,
    counts: Counts,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ListField {
    Kind,
    Versions,
    Groups,
    #[serde(other)]
    Other,
}

impl Object for List {
    type Sink = ListSink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut ListSink, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                ListField::Kind => sink.kind = map.next_value_seed(Name)?.into_owned(),
                // The versions of `APIVersions` are names, not objects.
                ListField::Versions => map.next_value_seed(CoreVersions(sink))?,
                ListField::Groups => map.next_value_seed(Many::<Group>(sink))?,
                ListField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct CoreVersions<'s>(&'s mut ListSink);

impl<'de> DeserializeSeed<'de> for CoreVersions<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> serde::de::Visitor<'de> for CoreVersions<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of versions")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(version) = seq.next_element_seed(Name)? {
            self.0.counts.version().map_err(over)?;
            self.0.found.push(GroupVersion {
                group: "".into(),
                version: (*version).into(),
            });
        }
        Ok(())
    }
}

struct Group;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum GroupField {
    Name,
    Versions,
    #[serde(other)]
    Other,
}

impl Object for Group {
    type Sink = ListSink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut ListSink, mut map: A) -> Result<(), A::Error> {
        sink.counts.group().map_err(over)?;
        let first = sink.found.len();
        let mut name = String::new();
        while let Some(field) = map.next_key()? {
            match field {
                GroupField::Name => name = map.next_value_seed(Name)?.into_owned(),
                GroupField::Versions => {
                    map.next_value_seed(Many::<GroupVersionForDiscovery>(sink))?
                }
                GroupField::Other => skip(&mut map)?,
            }
        }
        for gv in sink.found.iter_mut().skip(first) {
            gv.group = name.as_str().into();
        }
        Ok(())
    }
}

struct GroupVersionForDiscovery;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum GroupVersionField {
    Version,
    #[serde(other)]
    Other,
}

impl Object for GroupVersionForDiscovery {
    type Sink = ListSink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut ListSink, mut map: A) -> Result<(), A::Error> {
        sink.counts.version().map_err(over)?;
        let mut version = "".into();
        while let Some(field) = map.next_key()? {
            match field {
                GroupVersionField::Version => version = (*map.next_value_seed(Name)?).into(),
                GroupVersionField::Other => skip(&mut map)?,
            }
        }
        sink.found.push(GroupVersion {
            group: "".into(),
            version,
        });
        Ok(())
    }
}
