//! Unaggregated documents as JSON, both ways.

use serde::de::{DeserializeSeed, MapAccess};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::json::{Many, Name, Object, One, over, skip, text};
use super::legacy::{ApiGroup, ApiGroupList, ApiResource, ApiResourceList, ApiVersions};
use super::limits::within;
use super::read::{Budget, Names, name};
use super::types::{Document, Text};
use super::{DecodeError, Decoded, MAX_NAME_BYTES};
use crate::api::GroupVersion;

impl ApiResourceList {
    /// Reads the answer of `/api/v1` or `/apis/<group>/<version>` within the limits of discovery documents. Errors are the fault
    /// of the server that sent it.
    pub fn from_json(document: &[u8]) -> Result<Self, DecodeError> {
        read(document, &mut Some(Budget::default())).map(|(list, _)| list)
    }
}

impl Decoded {
    /// From the answers to `/api/<version>` or `/apis/<group>/<version>` of one server, in the order that its root lists them.
    /// Each must be of the group version it stands for. All of them share the limits of one document.
    ///
    /// # Errors
    /// They are the fault of the server that sent the documents.
    pub fn from_legacy(lists: &[(GroupVersion, &[u8])]) -> Result<Self, DecodeError> {
        let mut budget = Some(Budget::default());
        let (mut refused, mut key_bytes) = (0, 0);
        let mut read_lists = Vec::with_capacity(lists.len());
        for (gv, document) in lists {
            let (list, nameless) = read(document, &mut budget)?;
            refused += nameless;
            if *list.group_version != *gv.to_string() {
                return Err(DecodeError::Kind {
                    found: list.group_version.to_string(),
                    wanted: "the APIResourceList of the group version asked for",
                });
            }
            let above = gv.group.len() + gv.version.len();
            for resource in &list.resources {
                match resource.is_nameable() {
                    true => key_bytes += above + resource.name.len(),
                    false => refused += 1,
                }
            }
            within(key_bytes, MAX_NAME_BYTES, "bytes of names")?;
            read_lists.push((gv.clone(), list));
        }
        Ok(Self {
            document: Document::from_legacy_lists(&read_lists),
            refused,
        })
    }
}

impl Document {
    /// As [`Decoded::from_legacy`], for those who need no count.
    ///
    /// # Errors
    /// The same.
    pub fn from_legacy(lists: &[(GroupVersion, &[u8])]) -> Result<Self, DecodeError> {
        Decoded::from_legacy(lists).map(|decoded| decoded.document)
    }
}

/// A list, and how many of its resources have no name. Takes the budget away when it fails, since the error may be in it.
fn read(
    document: &[u8],
    budget: &mut Option<Budget>,
) -> Result<(ApiResourceList, usize), DecodeError> {
    let mut reader = Reader {
        kind: String::new(),
        list: ApiResourceList::default(),
        nameless: 0,
        budget: budget.take().unwrap_or_default(),
    };
    let mut json = serde_json::Deserializer::from_str(text(document)?);
    if let Err(error) = One::<ListObject>(&mut reader)
        .deserialize(&mut json)
        .and_then(|()| json.end())
    {
        return Err(reader.budget.error(&error));
    }
    if reader.kind != "APIResourceList" {
        return Err(DecodeError::Kind {
            found: reader.kind,
            wanted: "APIResourceList",
        });
    }
    *budget = Some(reader.budget);
    Ok((reader.list, reader.nameless))
}

struct Reader {
    kind: String,
    list: ApiResourceList,
    nameless: usize,
    budget: Budget,
}

struct ListObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ListField {
    Kind,
    ApiVersion,
    GroupVersion,
    Resources,
    #[serde(other)]
    Other,
}

impl Object for ListObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            match field {
                ListField::Kind => reader.kind = map.next_value_seed(Name)?.into_owned(),
                ListField::ApiVersion => {
                    reader.list.api_version = name(&mut reader.budget, &mut map)?;
                }
                // A group and a version may be longer together than one name.
                ListField::GroupVersion => {
                    reader.list.group_version =
                        map.next_value::<Option<Text>>()?.unwrap_or_default();
                }
                ListField::Resources => map.next_value_seed(Many::<ResourceObject>(reader))?,
                ListField::Other => skip(&mut map)?,
            }
        }
        Ok(())
    }
}

struct ResourceObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ResourceField {
    Name,
    SingularName,
    Namespaced,
    Group,
    Version,
    Kind,
    Verbs,
    ShortNames,
    Categories,
    StorageVersionHash,
    #[serde(other)]
    Other,
}

impl Object for ResourceObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        let budget = &mut reader.budget;
        budget.counts.object().map_err(over)?;
        let mut resource = ApiResource::default();
        while let Some(field) = map.next_key()? {
            match field {
                ResourceField::Name => resource.name = name(budget, &mut map)?,
                ResourceField::SingularName => resource.singular_name = name(budget, &mut map)?,
                ResourceField::Namespaced => {
                    resource.namespaced = map.next_value::<Option<bool>>()?.unwrap_or_default();
                }
                ResourceField::Group => resource.group = name(budget, &mut map)?,
                ResourceField::Version => resource.version = name(budget, &mut map)?,
                ResourceField::Kind => resource.kind = name(budget, &mut map)?,
                ResourceField::Verbs => resource.verbs = map.next_value_seed(Names(budget))?,
                ResourceField::ShortNames => {
                    resource.short_names = map.next_value_seed(Names(budget))?;
                }
                ResourceField::Categories => {
                    resource.categories = map.next_value_seed(Names(budget))?;
                }
                ResourceField::StorageVersionHash => {
                    resource.storage_version_hash = name(budget, &mut map)?;
                }
                ResourceField::Other => skip(&mut map)?,
            }
        }
        match resource.name.is_empty() {
            true => reader.nameless += 1,
            false => reader.list.resources.push(resource),
        }
        Ok(())
    }
}

impl Serialize for ApiVersions {
    /// Kube-apiserver leaves apiVersion out.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("APIVersions", 3)?;
        object.serialize_field("kind", "APIVersions")?;
        object.serialize_field("versions", &self.versions)?;
        object.serialize_field("serverAddressByClientCIDRs", &self.server_addresses)?;
        object.end()
    }
}

impl Serialize for ApiGroupList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let groups: Vec<_> = self.groups.iter().map(|group| Item(group, false)).collect();
        let mut object = serializer.serialize_struct("APIGroupList", 3)?;
        object.serialize_field("kind", "APIGroupList")?;
        object.serialize_field("apiVersion", "v1")?;
        object.serialize_field("groups", &groups)?;
        object.end()
    }
}

impl Serialize for ApiGroup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Item(self, true).serialize(serializer)
    }
}

/// A group, with its type when it stands alone.
struct Item<'a>(&'a ApiGroup, bool);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(group, typed) = self;
        let mut object = serializer.serialize_struct("APIGroup", 3 + 2 * usize::from(*typed))?;
        if *typed {
            object.serialize_field("kind", "APIGroup")?;
            object.serialize_field("apiVersion", "v1")?;
        }
        object.serialize_field("name", &group.name)?;
        object.serialize_field("versions", &group.versions)?;
        object.serialize_field("preferredVersion", &group.preferred)?;
        object.end()
    }
}

impl Serialize for ApiResourceList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let versioned = !self.api_version.is_empty();
        let mut object =
            serializer.serialize_struct("APIResourceList", 3 + usize::from(versioned))?;
        object.serialize_field("kind", "APIResourceList")?;
        if versioned {
            object.serialize_field("apiVersion", &self.api_version)?;
        }
        object.serialize_field("groupVersion", &self.group_version)?;
        object.serialize_field("resources", &self.resources)?;
        object.end()
    }
}
