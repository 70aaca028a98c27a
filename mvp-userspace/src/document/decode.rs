//! Aggregated discovery documents (`APIGroupDiscoveryList`, v2 and v2beta1: the same fields) -> [`Decoded`]. Pure.
//!
//! Shapes and rules: `api/apidiscovery/v2/types.go` and client-go's `discovery/aggregated_discovery.go`.

use serde::Deserialize;
use serde::de::{DeserializeSeed, MapAccess};

use super::json::{Many, Name, Object, One, Verbs, over, skip, text};
use super::limits::Collector;
use super::{DecodeError, Decoded};
use crate::api::GroupVersion;

/// Which of the two discovery roots a document is the answer of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Root {
    /// `/api`: the core group, whose name is empty.
    Core,
    /// `/apis`: every other group.
    Groups,
}

impl Root {
    pub fn path(self) -> &'static str {
        match self {
            Root::Core => "/api",
            Root::Groups => "/apis",
        }
    }

    /// True if an entry of `group` belongs into the root's document.
    pub fn holds(self, group: &str) -> bool {
        group.is_empty() == (self == Root::Core)
    }
}

/// Reads the answer of `/api` or `/apis` to an Accept header of aggregated discovery.
///
/// - A version that is `Stale` keeps the resources it lists and is named in [`Decoded::stale`].
/// - A resource without `responseKind` is only the parent of its subresources and is not itself served.
/// - `null` and absent are the same; unknown fields are skipped; names that no path can contain are left out and counted.
pub fn aggregated(document: &[u8], root: Root) -> Result<Decoded, DecodeError> {
    let mut list = ListSink {
        root,
        kind: String::new(),
        api_version: String::new(),
        collector: Collector::default(),
    };
    let mut json = serde_json::Deserializer::from_str(text(document)?);
    if let Err(error) = One::<List>(&mut list)
        .deserialize(&mut json)
        .and_then(|()| json.end())
    {
        return Err(list.collector.error(&error));
    }
    let known = ["apidiscovery.k8s.io/v2", "apidiscovery.k8s.io/v2beta1"];
    if list.kind != "APIGroupDiscoveryList" || !known.contains(&list.api_version.as_str()) {
        return Err(DecodeError::Kind {
            found: format!("{} {}", list.api_version, list.kind),
            wanted: "apidiscovery.k8s.io APIGroupDiscoveryList",
        });
    }
    Ok(list.collector.decoded)
}

struct List;

struct ListSink {
    root: Root,
    kind: String,
    api_version: String,
    collector: Collector,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ListField {
    Kind,
    ApiVersion,
    Items,
    #[serde(other)]
    Other,
}

impl Object for List {
    type Sink = ListSink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut ListSink, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                ListField::Kind => sink.kind = map.next_value_seed(Name)?.into_owned(),
                ListField::ApiVersion => {
                    sink.api_version = map.next_value_seed(Name)?.into_owned();
                }
                ListField::Items => map.next_value_seed(Many::<Group>(sink))?,
                ListField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct Group;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum GroupField {
    Metadata,
    Versions,
    #[serde(other)]
    Other,
}

impl Object for Group {
    type Sink = ListSink;

    fn read<'de, A: MapAccess<'de>>(sink: &mut ListSink, mut map: A) -> Result<(), A::Error> {
        let collector = &mut sink.collector;
        collector.group().map_err(over)?;
        let (first, first_stale) = (collector.len(), collector.decoded.stale.len());
        let mut name = String::new();
        while let Some(field) = map.next_key()? {
            match field {
                GroupField::Metadata => map.next_value_seed(One::<Metadata>(&mut name))?,
                GroupField::Versions => map.next_value_seed(Many::<Version>(collector))?,
                GroupField::Other => skip(&mut map)?,
            }
        }
        if !sink.root.holds(&name) {
            collector.drop_from(first);
            collector.decoded.stale.truncate(first_stale);
        } else if !name.is_empty() {
            collector
                .fill(first, &name, |entry, name| entry.group = name)
                .map_err(over)?;
            for stale in collector.decoded.stale.iter_mut().skip(first_stale) {
                stale.group = name.as_str().into();
            }
        }
        Ok(())
    }
}

struct Metadata;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum MetadataField {
    Name,
    #[serde(other)]
    Other,
}

impl Object for Metadata {
    type Sink = String;

    fn read<'de, A: MapAccess<'de>>(name: &mut String, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                MetadataField::Name => *name = map.next_value_seed(Name)?.into_owned(),
                MetadataField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct Version;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum VersionField {
    Version,
    Resources,
    Freshness,
    #[serde(other)]
    Other,
}

impl Object for Version {
    type Sink = Collector;

    fn read<'de, A: MapAccess<'de>>(sink: &mut Collector, mut map: A) -> Result<(), A::Error> {
        sink.version().map_err(over)?;
        let first = sink.len();
        let mut version = String::new();
        let mut stale = false;
        while let Some(field) = map.next_key()? {
            match field {
                VersionField::Version => version = map.next_value_seed(Name)?.into_owned(),
                VersionField::Resources => map.next_value_seed(Many::<Resource>(sink))?,
                VersionField::Freshness => stale = map.next_value_seed(Name)? == "Stale",
                VersionField::Other => skip(&mut map)?,
            }
        }
        if stale {
            sink.decoded.stale.push(GroupVersion {
                group: "".into(),
                version: version.as_str().into(),
            });
        }
        sink.fill(first, &version, |entry, name| entry.version = name)
            .map_err(over)
    }
}

struct Resource;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ResourceField {
    Resource,
    ResponseKind,
    Verbs,
    Subresources,
    #[serde(other)]
    Other,
}

impl Object for Resource {
    type Sink = Collector;

    fn read<'de, A: MapAccess<'de>>(sink: &mut Collector, mut map: A) -> Result<(), A::Error> {
        sink.object().map_err(over)?;
        let first = sink.len();
        let mut resource = String::new();
        let mut kind = String::new();
        let mut verbs = Default::default();
        while let Some(field) = map.next_key()? {
            match field {
                ResourceField::Resource => resource = map.next_value_seed(Name)?.into_owned(),
                ResourceField::ResponseKind => map.next_value_seed(One::<Kind>(&mut kind))?,
                ResourceField::Verbs => {
                    let (set, count) = map.next_value_seed(Verbs)?;
                    sink.verbs(count).map_err(over)?;
                    verbs = set;
                }
                ResourceField::Subresources => map.next_value_seed(Many::<Subresource>(sink))?,
                ResourceField::Other => skip(&mut map)?,
            }
        }
        if !kind.is_empty() {
            sink.push("", "", verbs);
        }
        sink.fill(first, &resource, |entry, name| entry.resource = name)
            .map_err(over)
    }
}

struct Kind;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum KindField {
    Kind,
    #[serde(other)]
    Other,
}

impl Object for Kind {
    type Sink = String;

    fn read<'de, A: MapAccess<'de>>(kind: &mut String, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                KindField::Kind => *kind = map.next_value_seed(Name)?.into_owned(),
                KindField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct Subresource;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum SubresourceField {
    Subresource,
    Verbs,
    #[serde(other)]
    Other,
}

impl Object for Subresource {
    type Sink = Collector;

    fn read<'de, A: MapAccess<'de>>(sink: &mut Collector, mut map: A) -> Result<(), A::Error> {
        sink.object().map_err(over)?;
        let first = sink.len();
        let mut name = String::new();
        let mut verbs = Default::default();
        while let Some(field) = map.next_key()? {
            match field {
                SubresourceField::Subresource => name = map.next_value_seed(Name)?.into_owned(),
                SubresourceField::Verbs => {
                    let (set, count) = map.next_value_seed(Verbs)?;
                    sink.verbs(count).map_err(over)?;
                    verbs = set;
                }
                SubresourceField::Other => skip(&mut map)?,
            }
        }
        sink.push("", "", verbs);
        sink.fill(first, &name, |entry, name| entry.subresource = name)
            .map_err(over)
    }
}
