//! Which media type, and which form of an object, an answer takes.

use http::{HeaderMap, header};

use super::{
    query::Query,
    status::{self, Failure},
};
use crate::sim::negotiation;

/// How to write an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub encoding: Encoding,
    pub form: Form,
    pub pretty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Yaml,
}

/// `as=` of the accepted media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Object,
    Table,
    Partial,
}

impl Output {
    /// For errors, which fall back to JSON whatever is accepted.
    pub(super) fn for_error(headers: &HeaderMap, query: &Query) -> Self {
        let plain = |_: &str, convert: Option<[&str; 3]>| convert.is_none();
        let found = negotiation::negotiate(accept(headers), &WRITTEN, true, plain);
        Self {
            encoding: Encoding::of(found.map(|(media, _)| media)),
            form: Form::Object,
            pretty: pretty(headers, query),
        }
    }

    /// For resources: the most wanted media type that is served. Protobuf is not.
    pub(super) fn for_resource(headers: &HeaderMap, query: &Query) -> Result<Self, Failure> {
        let header = accept(headers);
        let mut output = Self {
            encoding: Encoding::Json,
            form: Form::Object,
            pretty: pretty(headers, query),
        };
        if header.is_empty() {
            return Ok(output);
        }
        if !negotiation::routed(header, &PRODUCED) {
            return Err(status::not_acceptable());
        }
        let allows = |_: &str, convert: Option<[&str; 3]>| match convert {
            None => true,
            Some(convert) => Form::of(convert).is_some(),
        };
        let Some((media, clause)) = negotiation::negotiate(header, &WRITTEN, true, allows) else {
            return Err(status::not_convertible());
        };
        output.encoding = Encoding::of(Some(media));
        output.form = clause.convert().and_then(Form::of).unwrap_or(Form::Object);
        Ok(output)
    }

    pub(super) fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

impl Encoding {
    fn of(media: Option<&str>) -> Self {
        match media {
            Some("application/yaml") => Self::Yaml,
            _ => Self::Json,
        }
    }
}

impl Form {
    fn of([group, version, kind]: [&str; 3]) -> Option<Self> {
        match (group, version, kind) {
            ("meta.k8s.io", "v1" | "v1beta1", "Table") => Some(Self::Table),
            (
                "meta.k8s.io",
                "v1" | "v1beta1",
                "PartialObjectMetadata" | "PartialObjectMetadataList",
            ) => Some(Self::Partial),
            _ => None,
        }
    }
}

/// What the routes of resources say that they produce. Protobuf is not written, so it is not among them.
const PRODUCED: [&str; 3] = [
    "application/json",
    "application/yaml",
    "application/json;stream=watch",
];
const WRITTEN: [&str; 2] = ["application/json", "application/yaml"];

/// The first header, as Go's `Header.Get`.
fn accept(headers: &HeaderMap) -> &str {
    let first = headers.get(header::ACCEPT);
    first
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
}

/// People get indented JSON: apiserver `negotiation.isPrettyPrint`.
fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|human| agent.starts_with(human))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(accept: &str) -> Result<Output, Failure> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        Output::for_resource(&headers, &Query::default())
    }

    #[test]
    fn falls_back_in_order() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(output(table).unwrap().form, Form::Table);
        assert_eq!(
            output("application/vnd.kubernetes.protobuf,application/json")
                .unwrap()
                .encoding,
            Encoding::Json
        );
        assert_eq!(
            output("application/json;q=0.5, application/yaml")
                .unwrap()
                .encoding,
            Encoding::Yaml
        );
        assert_eq!(
            output("application/vnd.kubernetes.protobuf").unwrap_err(),
            status::not_acceptable()
        );
        assert_eq!(
            output("application/json;as=Chair").unwrap_err(),
            status::not_convertible()
        );
    }
}
