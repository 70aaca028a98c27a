//! A resource of an aggregated discovery document: `APIResourceDiscovery`, `APISubresourceDiscovery` and the kinds in them
//! (`apidiscovery.k8s.io`).

use serde::Deserialize;
use serde::de::MapAccess;

use super::Reader;
use crate::api::is_path_segment;
use crate::document::MAX_VERBS;
use crate::document::json::{Many, Name, Object, over, skip};
use crate::document::types::{GroupVersionKind, Resource, Scope, Subresource};

pub(super) struct ResourceObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ResourceField {
    Resource,
    ResponseKind,
    Scope,
    SingularResource,
    Verbs,
    ShortNames,
    Categories,
    Subresources,
    #[serde(other)]
    Other,
}

impl Object for ResourceObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        reader.budget.counts.object().map_err(over)?;
        let mut resource = Resource {
            resource: "".into(),
            response_kind: None,
            scope: Scope::Cluster,
            singular: "".into(),
            verbs: Vec::new(),
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
        };
        while let Some(field) = map.next_key()? {
            match field {
                ResourceField::Resource => resource.resource = reader.name(&mut map)?,
                ResourceField::ResponseKind => resource.response_kind = reader.kind(&mut map)?,
                // As client-go reads it: what is not namespaced is of the cluster.
                ResourceField::Scope => {
                    resource.scope = match &*map.next_value_seed(Name)? {
                        "Namespaced" => Scope::Namespaced,
                        _ => Scope::Cluster,
                    };
                }
                ResourceField::SingularResource => resource.singular = reader.name(&mut map)?,
                ResourceField::Verbs => resource.verbs = reader.names(&mut map)?,
                ResourceField::ShortNames => resource.short_names = reader.names(&mut map)?,
                ResourceField::Categories => resource.categories = reader.names(&mut map)?,
                ResourceField::Subresources => {
                    map.next_value_seed(Many::<SubresourceObject>(reader))?;
                }
                ResourceField::Other => skip(&mut map)?,
            }
        }
        resource.subresources = reader.subresources.drain(..).collect();
        match is_path_segment(&resource.resource) {
            true => reader.resources.push(resource),
            false => reader.refused += resource.entries(),
        }
        Ok(())
    }
}

struct SubresourceObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum SubresourceField {
    Subresource,
    ResponseKind,
    AcceptedTypes,
    Verbs,
    #[serde(other)]
    Other,
}

impl Object for SubresourceObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        reader.budget.counts.object().map_err(over)?;
        let mut subresource = Subresource {
            subresource: "".into(),
            response_kind: None,
            accepted_types: Vec::new(),
            verbs: Vec::new(),
        };
        while let Some(field) = map.next_key()? {
            match field {
                SubresourceField::Subresource => subresource.subresource = reader.name(&mut map)?,
                SubresourceField::ResponseKind => {
                    subresource.response_kind = reader.kind(&mut map)?;
                }
                SubresourceField::AcceptedTypes => {
                    subresource.accepted_types = reader.kinds(&mut map)?;
                }
                SubresourceField::Verbs => subresource.verbs = reader.names(&mut map)?,
                SubresourceField::Other => skip(&mut map)?,
            }
        }
        match is_path_segment(&subresource.subresource) {
            true => reader.subresources.push(subresource),
            false => reader.refused += 1,
        }
        Ok(())
    }
}

pub(super) struct KindObject;

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum KindField {
    Group,
    Version,
    Kind,
    #[serde(other)]
    Other,
}

impl Object for KindObject {
    type Sink = Reader;

    fn read<'de, A: MapAccess<'de>>(reader: &mut Reader, mut map: A) -> Result<(), A::Error> {
        if reader.kinds.len() >= MAX_VERBS {
            let count = reader.kinds.len() + 1;
            reader.budget.counts.verbs(count).map_err(over)?;
        }
        reader
            .budget
            .counts
            .keep(size_of::<GroupVersionKind>())
            .map_err(over)?;
        let mut kind = GroupVersionKind::default();
        while let Some(field) = map.next_key()? {
            match field {
                KindField::Group => kind.group = reader.name(&mut map)?,
                KindField::Version => kind.version = reader.name(&mut map)?,
                KindField::Kind => kind.kind = reader.name(&mut map)?,
                KindField::Other => skip(&mut map)?,
            }
        }
        reader.kinds.push(kind);
        Ok(())
    }
}
