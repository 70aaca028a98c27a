//! Legacy discovery documents: `/api`, `/apis`, and an `APIResourceList` a group version. Pure.
//!
//! Shapes: `apimachinery/pkg/apis/meta/v1/types.go`. `/api` and `/api/v1` have no apiVersion in any release.

use serde::Deserialize;
use serde::de::{DeserializeSeed, MapAccess};

use super::json::{Many, Name, Object, One, Verbs, over, skip, text};
use super::limits::Collector;
use super::{DecodeError, Decoded, Root};
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
        return Err(sink.collector.error(&error));
    }
    let wanted = match root {
        Root::Core => "APIVersions",
        Root::Groups => "APIGroupList",
    };
    check_kind(&sink.kind, wanted)?;
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

/// Reads the answer of `/api/<version>` or `/apis/<group>/<version>` (kind `APIResourceList`). The document's own
/// `groupVersion` must be the one asked for.
pub fn resources(document: &[u8], gv: &GroupVersion) -> Result<Decoded, DecodeError> {
    let mut sink = ResourcesSink::default();
    let mut json = serde_json::Deserializer::from_str(text(document)?);
    if let Err(error) = One::<Resources>(&mut sink)
        .deserialize(&mut json)
        .and_then(|()| json.end())
    {
        return Err(sink.collector.error(&error));
    }
    check_kind(&sink.kind, "APIResourceList")?;
    if sink.group_version != gv.to_string() {
        return Err(DecodeError::Kind {
            found: sink.group_version,
            wanted: "the APIResourceList of the group version asked for",
        });
    }
    let fill = |entry: &mut crate::api::ApiEntry, name| entry.version = name;
    let filled = sink.collector.fill(0, &gv.version, fill).and_then(|()| {
        if gv.group.is_empty() {
            return Ok(());
        }
        sink.collector
            .fill(0, &gv.group, |entry, name| entry.group = name)
    });
    match filled {
        Ok(()) => Ok(sink.collector.decoded),
        Err(message) => Err(sink
            .collector
            .error(&<serde_json::Error as serde::de::Error>::custom(message))),
    }
}

impl std::fmt::Display for GroupVersion {
    /// As `groupVersion` and `apiVersion` fields have it: `v1`, `apps/v1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        f.write_str(&self.version)
    }
}

fn check_kind(found: &str, wanted: &'static str) -> Result<(), DecodeError> {
    if found == wanted {
        return Ok(());
    }
    Err(DecodeError::Kind {
        found: found.to_owned(),
        wanted,
    })
}

struct List;

#[derive(Default)]
struct ListSink {
    kind: String,
    found: Vec<GroupVersion>,
    collector: Collector,
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
                // Of `APIVersions`: names, not objects.
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
            self.0.collector.version().map_err(over)?;
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
        sink.collector.group().map_err(over)?;
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
        sink.collector.version().map_err(over)?;
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

struct Resources;

#[derive(Default)]
struct ResourcesSink {
    kind: String,
    group_version: String,
    collector: Collector,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ResourcesField {
    Kind,
    GroupVersion,
    Resources,
    #[serde(other)]
    Other,
}

impl Object for Resources {
    type Sink = ResourcesSink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut ResourcesSink, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                ResourcesField::Kind => sink.kind = map.next_value_seed(Name)?.into_owned(),
                ResourcesField::GroupVersion => {
                    sink.group_version = map.next_value_seed(Name)?.into_owned();
                }
                ResourcesField::Resources => {
                    map.next_value_seed(Many::<Resource>(&mut sink.collector))?;
                }
                ResourcesField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct Resource;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ResourceField {
    Name,
    Verbs,
    #[serde(other)]
    Other,
}

impl Object for Resource {
    type Sink = Collector;

    fn read<'de, A: MapAccess<'de>>(sink: &mut Collector, mut map: A) -> Result<(), A::Error> {
        sink.object().map_err(over)?;
        let first = sink.len();
        let mut name = String::new();
        let mut verbs = Default::default();
        while let Some(field) = map.next_key()? {
            match field {
                ResourceField::Name => name = map.next_value_seed(Name)?.into_owned(),
                ResourceField::Verbs => {
                    let (set, count) = map.next_value_seed(Verbs)?;
                    sink.verbs(count).map_err(over)?;
                    verbs = set;
                }
                ResourceField::Other => skip(&mut map)?,
            }
        }
        sink.push("", "", verbs);
        let resource = match name.split_once('/') {
            None => name.as_str(),
            Some((resource, subresource)) => {
                sink.fill(first, subresource, |entry, name| entry.subresource = name)
                    .map_err(over)?;
                resource
            }
        };
        sink.fill(first, resource, |entry, name| entry.resource = name)
            .map_err(over)
    }
}
