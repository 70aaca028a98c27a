//! Reading documents out of JSON, within the limits of [`super::limits`].
//!
//! Shapes and rules: `api/apidiscovery/v2/types.go` and client-go's `discovery/aggregated_discovery.go`.

mod resource;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::json::{Many, Name, Object, One, over, skip, text};
use super::limits::Counts;
use super::types::{
    Document, Freshness, Group, GroupVersionKind, Resource, Subresource, Text, Version, united,
};
use super::{DecodeError, Root};
use crate::api::is_path_segment;
use resource::{KindObject, ResourceObject};

/// Bytes that every further mention of a known name costs.
const MENTION: usize = size_of::<Text>();
/// Bytes beside its letters that a name costs when it is new.
const NEW_NAME: usize = 48;

/// A document, and what is not in it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Decoded {
    /// What was read, united and in the server's order.
    pub document: Document,
    /// Resources and subresources that were left out because no request path can name them.
    pub refused: usize,
}

impl Decoded {
    /// Reads the answer of `/api` or `/apis` to an Accept header of aggregated discovery, v2 or v2beta1.
    ///
    /// What no request path can name is left out with everything below it, and counted. Duplicates are united, absent and `null` are
    /// the same, and unknown fields are skipped.
    ///
    /// # Errors
    /// They are the fault of the server that sent the document.
    pub fn aggregated(document: &[u8], root: Root) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(root);
        let mut json = serde_json::Deserializer::from_str(text(document)?);
        if let Err(error) = One::<List>(&mut reader)
            .deserialize(&mut json)
            .and_then(|()| json.end())
        {
            return Err(reader.budget.error(&error));
        }
        let known = ["apidiscovery.k8s.io/v2", "apidiscovery.k8s.io/v2beta1"];
        if reader.kind != "APIGroupDiscoveryList" || !known.contains(&reader.api_version.as_str()) {
            return Err(DecodeError::Kind {
                found: format!("{} {}", reader.api_version, reader.kind),
                wanted: "apidiscovery.k8s.io APIGroupDiscoveryList",
            });
        }
        Ok(Self {
            document: Document {
                groups: united(reader.groups),
            },
            refused: reader.refused,
        })
    }
}

impl Document {
    /// As [`Decoded::aggregated`], for those who need no count.
    ///
    /// # Errors
    /// The same.
    pub fn aggregated(document: &[u8], root: Root) -> Result<Self, DecodeError> {
        Decoded::aggregated(document, root).map(|decoded| decoded.document)
    }
}

/// What one document may still take, and the names it already has.
#[derive(Default)]
pub(super) struct Budget {
    pub counts: Counts,
    known: HashSet<Text>,
}

impl Budget {
    /// `name` as kept: one allocation a document, however often it is mentioned.
    pub(super) fn keep(&mut self, name: &str) -> Result<Text, &'static str> {
        self.counts.keep(MENTION)?;
        if let Some(known) = self.known.get(name) {
            return Ok(known.clone());
        }
        self.counts.keep(NEW_NAME + name.len())?;
        let new = Text::from(name);
        self.known.insert(new.clone());
        Ok(new)
    }

    /// The limit that was passed, if one was: serde errors carry text only.
    pub(super) fn error(self, error: &serde_json::Error) -> DecodeError {
        self.counts.error(error)
    }
}

/// Reads one name.
pub(super) fn name<'de, A: MapAccess<'de>>(
    budget: &mut Budget,
    map: &mut A,
) -> Result<Text, A::Error> {
    let name = map.next_value_seed(Name)?;
    budget.keep(&name).map_err(over)
}

/// Reads a list of names of at most [`MAX_VERBS`]; empty ones say nothing.
pub(super) struct Names<'s>(pub &'s mut Budget);

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = Vec<Text>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Text>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = Vec<Text>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of names")
    }

    fn visit_unit<E>(self) -> Result<Vec<Text>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Text>, A::Error> {
        let mut names = Vec::new();
        let mut count = 0;
        while let Some(name) = seq.next_element_seed(Name)? {
            count += 1;
            self.0.counts.verbs(count).map_err(over)?;
            if !name.is_empty() {
                names.push(self.0.keep(&name).map_err(over)?);
            }
        }
        names.shrink_to_fit();
        Ok(names)
    }
}

/// Children are read into the list of their level, from which their parent takes them when it ends.
struct Reader {
    root: Root,
    kind: String,
    api_version: String,
    budget: Budget,
    groups: Vec<Group>,
    versions: Vec<Version>,
    resources: Vec<Resource>,
    subresources: Vec<Subresource>,
    kinds: Vec<GroupVersionKind>,
    group_name: Text,
    refused: usize,
}

impl Reader {
    fn new(root: Root) -> Self {
        Self {
            root,
            kind: String::new(),
            api_version: String::new(),
            budget: Budget::default(),
            groups: Vec::new(),
            versions: Vec::new(),
            resources: Vec::new(),
            subresources: Vec::new(),
            kinds: Vec::new(),
            group_name: "".into(),
            refused: 0,
        }
    }

    fn name<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Text, A::Error> {
        name(&mut self.budget, map)
    }

    fn names<'de, A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<Vec<Text>, A::Error> {
        map.next_value_seed(Names(&mut self.budget))
    }

    /// One kind; `null` is none.
    fn kind<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
    ) -> Result<Option<GroupVersionKind>, A::Error> {
        self.kinds.clear();
        map.next_value_seed(One::<KindObject>(self))?;
        Ok(self.kinds.pop())
    }

    fn kinds<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
    ) -> Result<Vec<GroupVersionKind>, A::Error> {
        self.kinds.clear();
        map.next_value_seed(Many::<KindObject>(self))?;
        Ok(self.kinds.drain(..).collect())
    }
}

/// The names of all keys of a group, in bytes.
fn key_bytes(group: &Group) -> usize {
    let of_version = |version: &Version| {
        let of_resource = |resource: &Resource| {
            let above = group.name.len() + version.version.len() + resource.resource.len();
            let subresources = resource.subresources.iter();
            resource.entries() * above + subresources.map(|s| s.subresource.len()).sum::<usize>()
        };
        version.resources.iter().map(of_resource).sum::<usize>()
    };
    group.versions.iter().map(of_version).sum()
}

/// What routing would have of it.
fn entries(version: &Version) -> usize {
    version.resources.iter().map(Resource::entries).sum()
}

struct List;

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
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                ListField::Kind => reader.kind = map.next_value_seed(Name)?.into_owned(),
                ListField::ApiVersion => {
                    reader.api_version = map.next_value_seed(Name)?.into_owned();
                }
                ListField::Items => map.next_value_seed(Many::<GroupObject>(reader))?,
                ListField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct GroupObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum GroupField {
    Metadata,
    Versions,
    #[serde(other)]
    Other,
}

impl Object for GroupObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        reader.budget.counts.group().map_err(over)?;
        reader.group_name = "".into();
        while let Some(field) = map.next_key()? {
            match field {
                GroupField::Metadata => map.next_value_seed(One::<Metadata>(reader))?,
                GroupField::Versions => map.next_value_seed(Many::<VersionObject>(reader))?,
                GroupField::Other => skip(&mut map)?,
            }
        }
        let group = Group {
            name: reader.group_name.clone(),
            versions: reader.versions.drain(..).collect(),
        };
        if reader.root.holds(&group.name) && (group.name.is_empty() || is_path_segment(&group.name))
        {
            reader.budget.counts.key(key_bytes(&group)).map_err(over)?;
            reader.groups.push(group);
        } else {
            reader.refused += group.versions.iter().map(entries).sum::<usize>();
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
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                MetadataField::Name => reader.group_name = reader.name(&mut map)?,
                MetadataField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct VersionObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum VersionField {
    Version,
    Resources,
    Freshness,
    #[serde(other)]
    Other,
}

impl Object for VersionObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        reader.budget.counts.version().map_err(over)?;
        let mut version = Text::from("");
        let mut freshness = Freshness::Current;
        while let Some(field) = map.next_key()? {
            match field {
                VersionField::Version => version = reader.name(&mut map)?,
                VersionField::Resources => map.next_value_seed(Many::<ResourceObject>(reader))?,
                VersionField::Freshness => {
                    freshness = match &*map.next_value_seed(Name)? {
                        "Stale" => Freshness::Stale,
                        _ => Freshness::Current,
                    };
                }
                VersionField::Other => skip(&mut map)?,
            }
        }
        let resources = reader.resources.drain(..).collect();
        let version = Version {
            version,
            resources,
            freshness,
        };
        match is_path_segment(&version.version) {
            true => reader.versions.push(version),
            false => reader.refused += entries(&version),
        }
        Ok(())
    }
}
