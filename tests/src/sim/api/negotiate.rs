//! Which media type, and which form of an object, an answer takes.

use http::{HeaderMap, header};

use super::{
    query::Query,
    status::{self, Failure},
};

/// How to write an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Output {
    pub encoding: Encoding,
    pub form: Form,
    pub pretty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
}

/// `as=` of the accepted media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Object,
    Table,
    Partial,
}

impl Output {
    /// For errors, which fall back to JSON whatever is accepted.
    pub fn for_error(headers: &HeaderMap, query: &Query) -> Self {
        let yaml = accepted(headers)
            .first()
            .is_some_and(|media| media.starts_with("application/yaml"));
        let encoding = if yaml { Encoding::Yaml } else { Encoding::Json };
        Self {
            encoding,
            form: Form::Object,
            pretty: pretty(headers, query),
        }
    }

    /// For resources: the most wanted media type that is served. Protobuf is not.
    pub fn for_resource(headers: &HeaderMap, query: &Query) -> Result<Self, Failure> {
        let pretty = pretty(headers, query);
        let mut refused_conversion = false;
        for media in accepted(headers) {
            let mut parts = media.split(';').map(str::trim);
            let encoding = match parts.next().unwrap_or_default() {
                "application/json" | "*/*" | "application/*" => Encoding::Json,
                "application/yaml" => Encoding::Yaml,
                _ => continue,
            };
            let convert = parts
                .find_map(|part| part.strip_prefix("as="))
                .unwrap_or_default();
            let form = match convert {
                "" => Form::Object,
                "Table" => Form::Table,
                "PartialObjectMetadata" | "PartialObjectMetadataList" => Form::Partial,
                _ => {
                    refused_conversion = true;
                    continue;
                }
            };
            return Ok(Self {
                encoding,
                form,
                pretty,
            });
        }
        Err(if refused_conversion {
            status::not_convertible()
        } else {
            status::not_acceptable()
        })
    }

    pub fn content_type(self) -> &'static str {
        match self.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }
}

/// Accepted media types, most wanted first; everything if nothing is said.
fn accepted(headers: &HeaderMap) -> Vec<String> {
    let mut all: Vec<(f32, String)> = Vec::new();
    for value in headers.get_all(header::ACCEPT) {
        for media in value
            .to_str()
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|media| !media.is_empty())
        {
            let quality = media
                .split(';')
                .find_map(|part| part.trim().strip_prefix("q="))
                .and_then(|q| q.parse().ok());
            all.push((quality.unwrap_or(1.0), media.to_owned()));
        }
    }
    if all.is_empty() {
        all.push((1.0, "*/*".into()));
    }
    all.retain(|(quality, _)| *quality > 0.0);
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().map(|(_, media)| media).collect()
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
