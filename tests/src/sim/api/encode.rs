//! Objects, lists, tables and watch events as bytes, with the fields in the order that Go gives them.

use bytes::Bytes;
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::{Value, json};

use super::{
    negotiate::{Encoding, Form, Output},
    status::{self, Failure},
};
use crate::sim::{clock, store::Object};

/// The version and kind in which objects are served, whatever they were stored as.
#[derive(Clone, Copy, Debug)]
pub(super) struct TypeMeta<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
}

/// `metav1.ListMeta`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListMeta {
    pub resource_version: String,
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<usize>,
}

/// Which part of an object the rows of a table carry (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(super) fn parse(text: Option<&str>) -> Self {
        match text {
            Some("None") => Self::None,
            Some("Object") => Self::Object,
            _ => Self::Metadata,
        }
    }
}

pub(super) fn object(
    object: &Value,
    meta: TypeMeta<'_>,
    output: Output,
    include: Include,
) -> Result<Bytes, Failure> {
    match output.form {
        Form::Object => write(
            &Typed {
                object,
                meta: Some(meta),
            },
            output,
        ),
        Form::Partial => write(&Partial(object), output),
        Form::Table => {
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let list = ListMeta {
                resource_version: version,
                ..ListMeta::default()
            };
            write(
                &Table {
                    rows: std::slice::from_ref(&object),
                    list: &list,
                    meta,
                    include,
                    columns: true,
                },
                output,
            )
        }
    }
}

/// `custom`: the items of custom resources carry their type, those of built-in ones do not.
pub(super) fn list(
    items: &[Object],
    meta: TypeMeta<'_>,
    custom: bool,
    list: &ListMeta,
    output: Output,
    include: Include,
) -> Result<Bytes, Failure> {
    let rows: Vec<&Value> = items.iter().map(|item| &**item).collect();
    match output.form {
        Form::Table => write(
            &Table {
                rows: &rows,
                list,
                meta,
                include,
                columns: true,
            },
            output,
        ),
        Form::Object => {
            let items = rows
                .iter()
                .map(|object| Typed {
                    object,
                    meta: custom.then_some(meta),
                })
                .collect();
            let kind = format!("{}List", meta.kind);
            write(
                &List {
                    kind: &kind,
                    api_version: meta.api_version,
                    metadata: list,
                    items,
                },
                output,
            )
        }
        Form::Partial => {
            let items: Vec<_> = rows.iter().map(|object| Partial(object)).collect();
            let kind = "PartialObjectMetadataList";
            write(
                &List {
                    kind,
                    api_version: "meta.k8s.io/v1",
                    metadata: list,
                    items,
                },
                output,
            )
        }
    }
}

/// One line of a watch. Only the first table carries its columns.
pub(super) fn event(
    change: &str,
    object: &Value,
    meta: TypeMeta<'_>,
    form: Form,
    include: Include,
    first: bool,
) -> Result<Bytes, Failure> {
    let output = Output {
        encoding: Encoding::Json,
        form: Form::Object,
        pretty: false,
    };
    match form {
        Form::Object => write(
            &Line {
                change,
                object: Typed {
                    object,
                    meta: Some(meta),
                },
            },
            output,
        ),
        Form::Partial => write(
            &Line {
                change,
                object: Partial(object),
            },
            output,
        ),
        Form::Table => {
            let version = object["metadata"]["resourceVersion"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let list = ListMeta {
                resource_version: version,
                ..ListMeta::default()
            };
            let rows = std::slice::from_ref(&object);
            write(
                &Line {
                    change,
                    object: Table {
                        rows,
                        list: &list,
                        meta,
                        include,
                        columns: first,
                    },
                },
                output,
            )
        }
    }
}

/// An ERROR line of a watch.
pub(super) fn error_event(status: &status::Status) -> Result<Bytes, Failure> {
    let output = Output {
        encoding: Encoding::Json,
        form: Form::Object,
        pretty: false,
    };
    write(
        &Line {
            change: "ERROR",
            object: status,
        },
        output,
    )
}

/// Indented JSON has no newline at the end, compact JSON has one: that is how kube-apiserver's serializer does it.
pub(super) fn write(value: &impl Serialize, output: Output) -> Result<Bytes, Failure> {
    let failed = |error: &dyn std::fmt::Display| status::internal(error);
    Ok(match output.encoding {
        Encoding::Yaml => serde_saphyr::to_string(value)
            .map_err(|error| failed(&error))?
            .into(),
        Encoding::Json if output.pretty => serde_json::to_vec_pretty(value)
            .map_err(|error| failed(&error))?
            .into(),
        Encoding::Json => {
            let mut bytes = serde_json::to_vec(value).map_err(|error| failed(&error))?;
            bytes.push(b'\n');
            bytes.into()
        }
    })
}

#[derive(Serialize)]
struct List<'a, T> {
    kind: &'a str,
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    metadata: &'a ListMeta,
    items: Vec<T>,
}

#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(rename = "type")]
    change: &'a str,
    object: T,
}

struct Typed<'a> {
    object: &'a Value,
    meta: Option<TypeMeta<'a>>,
}

struct Metadata<'a>(&'a Value);

struct Partial<'a>(&'a Value);

struct Table<'a> {
    rows: &'a [&'a Value],
    list: &'a ListMeta,
    meta: TypeMeta<'a>,
    include: Include,
    columns: bool,
}

struct Row<'a> {
    object: &'a Value,
    meta: TypeMeta<'a>,
    include: Include,
}

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(meta) = self.meta {
            map.serialize_entry("kind", meta.kind)?;
            map.serialize_entry("apiVersion", meta.api_version)?;
        }
        map.serialize_entry("metadata", &Metadata(&self.object["metadata"]))?;
        for (key, value) in self.object.as_object().into_iter().flatten() {
            if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// `metav1.ObjectMeta`.
        const ORDER: [&str; 14] = [
            "name",
            "generateName",
            "namespace",
            "selfLink",
            "uid",
            "resourceVersion",
            "generation",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "labels",
            "annotations",
            "ownerReferences",
            "finalizers",
        ];
        let mut map = serializer.serialize_map(None)?;
        let Some(fields) = self.0.as_object() else {
            return map.end();
        };
        for key in ORDER {
            if let Some(value) = fields.get(key) {
                map.serialize_entry(key, value)?;
            }
        }
        for (key, value) in fields {
            match key.as_str() {
                "managedFields" => map.serialize_entry(key, &ManagedFields(value))?,
                key if ORDER.contains(&key) => {}
                key => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

struct ManagedFields<'a>(&'a Value);

impl Serialize for ManagedFields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// `metav1.ManagedFieldsEntry`.
        const ORDER: [&str; 7] = [
            "manager",
            "operation",
            "apiVersion",
            "time",
            "fieldsType",
            "fieldsV1",
            "subresource",
        ];
        struct Entry<'a>(&'a Value);
        impl Serialize for Entry<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut map = serializer.serialize_map(None)?;
                for key in ORDER {
                    if let Some(value) = self.0.get(key) {
                        map.serialize_entry(key, value)?;
                    }
                }
                map.end()
            }
        }
        let entries = self.0.as_array().map(Vec::as_slice).unwrap_or_default();
        let mut seq = serializer.serialize_seq(Some(entries.len()))?;
        for entry in entries {
            seq.serialize_element(&Entry(entry))?;
        }
        seq.end()
    }
}

impl Serialize for Partial<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "PartialObjectMetadata")?;
        map.serialize_entry("apiVersion", "meta.k8s.io/v1")?;
        map.serialize_entry("metadata", &Metadata(&self.0["metadata"]))?;
        map.end()
    }
}

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let columns = self.columns.then(|| {
            json!([
                {"name": "Name", "type": "string", "format": "name", "description": "Name must be unique within a namespace.", "priority": 0},
                {"name": "Age", "type": "string", "format": "", "description": "Time since the creation of the object.", "priority": 0},
            ])
        });
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|object| Row {
                object,
                meta: self.meta,
                include: self.include,
            })
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "Table")?;
        map.serialize_entry("apiVersion", "meta.k8s.io/v1")?;
        map.serialize_entry("metadata", self.list)?;
        map.serialize_entry("columnDefinitions", &columns)?;
        map.serialize_entry("rows", &rows)?;
        map.end()
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metadata = &self.object["metadata"];
        let age = clock::age(metadata["creationTimestamp"].as_str().unwrap_or_default());
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("cells", &(&metadata["name"], age))?;
        match self.include {
            Include::None => {}
            Include::Metadata => map.serialize_entry("object", &Partial(self.object))?,
            Include::Object => {
                map.serialize_entry(
                    "object",
                    &Typed {
                        object: self.object,
                        meta: Some(self.meta),
                    },
                )?;
            }
        }
        map.end()
    }
}
