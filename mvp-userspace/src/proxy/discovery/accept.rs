//! Which form of a discovery document a client asks for. Pure.
//!
//! The rules are those of `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go` and of the discovery wrapper
//! (`apiserver/pkg/endpoints/discovery/aggregated/wrapper.go`): the first clause wins, by q and then by order, that names a
//! media type the server writes and, if it names a form at all, the list of aggregated discovery.

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};

use crate::discovery::{Form, Media};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Choice {
    pub form: Form,
    pub media: Media,
    /// `profile=nopeer`: the answer of one server about itself. Any other profile is as none.
    pub nopeer: bool,
}

/// What the client would rather have, or `None` if it accepts nothing that kube-apiserver writes. `aggregated`: whether the
/// path has an aggregated form (`/api` and `/apis`, without a slash at the end).
///
/// Only the first Accept header counts, as in Go's `Header.Get`; none, or an empty one, means plain JSON.
pub fn negotiate(headers: &HeaderMap, aggregated: bool) -> Option<Choice> {
    let accept = match headers.get(ACCEPT).map(HeaderValue::to_str) {
        None => "",
        Some(Ok(text)) => text,
        // Go reads the bytes as they are; no clause with them can match.
        Some(Err(_)) => return None,
    };
    if accept.trim().is_empty() {
        return Some(Choice::PLAIN);
    }
    let mut clauses: Vec<Clause<'_>> = accept.split(',').filter_map(Clause::parse).collect();
    // Stable, as the insertion sort that Go uses for so few.
    clauses.sort_by(|a, b| b.q.total_cmp(&a.q).then(a.wildcards().cmp(&b.wildcards())));
    clauses.iter().find_map(|clause| clause.choice(aggregated))
}

impl Choice {
    const PLAIN: Self = Self {
        form: Form::Legacy,
        media: Media::Json,
        nopeer: false,
    };
}

/// The form and media type of an answer by its `Content-Type`; `None` for one that is not merged.
pub fn answered(content_type: &str) -> Option<(Form, Media)> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let media = media_type(kind, false)?;
    let clause = Clause {
        kind,
        parameters,
        q: 1.0,
    };
    let form = match clause.list() {
        List::Plain => Form::Legacy,
        List::Aggregated(form) => form,
        List::Other => return None,
    };
    Some((form, media))
}

/// The `Content-Type` of a document.
pub fn content_type(form: Form, media: Media) -> HeaderValue {
    macro_rules! of {
        ($media:literal) => {
            match form {
                Form::V2 => concat!(
                    $media,
                    ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
                ),
                Form::V2beta1 => {
                    concat!(
                        $media,
                        ";g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
                    )
                }
                Form::Legacy => $media,
            }
        };
    }
    HeaderValue::from_static(match media {
        Media::Json => of!("application/json"),
        Media::Yaml => of!("application/yaml"),
        Media::Protobuf => of!("application/vnd.kubernetes.protobuf"),
    })
}

/// By the type of a `Content-Type` or of a clause, in the very letters that kube-apiserver compares; `*/*` is JSON, the first that
/// it offers.
fn media_type(kind: &str, wildcards: bool) -> Option<Media> {
    let kind = kind.trim();
    [Media::Json, Media::Yaml, Media::Protobuf]
        .into_iter()
        .find(|media| kind == media.name())
        .or((wildcards && matches!(kind, "*/*" | "application/*")).then_some(Media::Json))
}

struct Clause<'a> {
    kind: &'a str,
    parameters: &'a str,
    q: f64,
}

enum List {
    Plain,
    Aggregated(Form),
    /// Another form, which no discovery path has.
    Other,
}

impl<'a> Clause<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (kind, parameters) = text.split_once(';').unwrap_or((text, ""));
        let mut clause = Self {
            kind: kind.trim(),
            parameters,
            q: 1.0,
        };
        if let Some(q) = clause.parameter("q") {
            // goautoneg takes what it cannot read for 1.
            clause.q = q
                .parse()
                .ok()
                .filter(|q: &f64| q.is_finite())
                .unwrap_or(1.0);
        }
        (!clause.kind.is_empty()).then_some(clause)
    }

    fn parameter(&self, wanted: &str) -> Option<&'a str> {
        self.parameters
            .split(';')
            .filter_map(|p| p.trim().split_once('='))
            .find(|(name, _)| name.trim() == wanted)
            .map(|(_, value)| value.trim().trim_matches('"'))
    }

    fn wildcards(&self) -> usize {
        self.kind.split('/').filter(|part| *part == "*").count()
    }

    fn list(&self) -> List {
        let named = ["g", "v", "as"].map(|name| self.parameter(name).unwrap_or_default());
        match named {
            ["", "", ""] => List::Plain,
            ["apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList"] => List::Aggregated(Form::V2),
            ["apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList"] => {
                List::Aggregated(Form::V2beta1)
            }
            _ => List::Other,
        }
    }

    fn choice(&self, aggregated: bool) -> Option<Choice> {
        let media = media_type(self.kind, true)?;
        // No discovery path streams.
        if self.parameter("stream").is_some() {
            return None;
        }
        let form = match self.list() {
            List::Plain => Form::Legacy,
            List::Aggregated(form) if aggregated => form,
            List::Aggregated(_) | List::Other => return None,
        };
        let nopeer = form != Form::Legacy && self.parameter("profile") == Some("nopeer");
        Some(Choice {
            form,
            media,
            nopeer,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

    fn chosen(accept: &str) -> Option<(Form, Media, bool)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers, true).map(|c| (c.form, c.media, c.nopeer))
    }

    #[test]
    fn the_first_acceptable_clause_wins() {
        let (json, proto) = (Media::Json, Media::Protobuf);
        for (accept, want) in [
            ("", Some((Form::Legacy, json, false))),
            ("*/*", Some((Form::Legacy, json, false))),
            ("application/json", Some((Form::Legacy, json, false))),
            ("text/html", None),
            ("Application/JSON", None),
            (V2, Some((Form::V2, json, false))),
            // Order of parameters, blanks and quotes.
            (
                "application/json; as=APIGroupDiscoveryList ;v=\"v2\"; g=apidiscovery.k8s.io",
                Some((Form::V2, json, false)),
            ),
            // A release that nobody has yet, then one that there is.
            (
                "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
                Some((Form::V2beta1, json, false)),
            ),
            // A plain clause is acceptable too, and stands first.
            (
                &format!("application/json,{V2}"),
                Some((Form::Legacy, json, false)),
            ),
            // q decides before order.
            (
                &format!("application/json;q=0.5,{V2};q=0.9"),
                Some((Form::V2, json, false)),
            ),
            (&format!("*/*,{V2}"), Some((Form::V2, json, false))),
            (
                "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Some((Form::V2, proto, false)),
            ),
            (
                &format!("{V2};profile=nopeer"),
                Some((Form::V2, json, true)),
            ),
            (
                &format!("{V2};profile=other"),
                Some((Form::V2, json, false)),
            ),
            (&format!("{V2};stream=watch"), None),
            (&format!("{V2};x=y"), Some((Form::V2, json, false))),
            (
                "application/cbor,application/json;q=0.1",
                Some((Form::Legacy, json, false)),
            ),
            (",;,", None),
        ] {
            assert_eq!(chosen(accept), want, "{accept}");
        }
        let mut headers = HeaderMap::new();
        assert_eq!(negotiate(&headers, true), Some(Choice::PLAIN));
        headers.insert(ACCEPT, V2.parse().unwrap());
        assert_eq!(negotiate(&headers, false), None, "no aggregated form here");
    }

    #[test]
    fn content_types_are_read_as_they_are_written() {
        for form in [Form::V2, Form::V2beta1, Form::Legacy] {
            for media in [Media::Json, Media::Yaml, Media::Protobuf] {
                let written = content_type(form, media);
                assert_eq!(answered(written.to_str().unwrap()), Some((form, media)));
            }
        }
        for other in [
            "",
            "text/plain",
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        ] {
            assert_eq!(answered(other), None, "{other}");
        }
    }
}
