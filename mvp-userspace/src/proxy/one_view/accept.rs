//! Which form of a discovery document a client asks for. Pure.
//!
//! The rules are those of the discovery wrapper (`apiserver/pkg/endpoints/discovery/aggregated/wrapper.go`) before those of the
//! handler inside: the first clause that names the list of aggregated discovery wins, wherever it stands among plain ones; only
//! where there is none the plain ones count.

use http::{HeaderMap, HeaderValue};

use crate::document::{Form, Media};
use crate::proxy::negotiate::{Convert, accept, choose, choose_plain, clauses, is_routed};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Choice {
    pub form: Form,
    pub media: Media,
    /// `profile=nopeer`: the answer of one server about itself. Any other profile is as none.
    pub nopeer: bool,
}

/// What the client would rather have, or `None` if it accepts nothing that kube-apiserver writes. `aggregated`: whether the
/// path has an aggregated form (`/api` and `/apis`, without a slash at the end). `routed`: whether go-restful serves the path,
/// which looks at the header as well.
///
/// Only the first Accept header counts, as in Go's `Header.Get`; none, or an empty one, means plain JSON.
pub(super) fn negotiate(headers: &HeaderMap, aggregated: bool, routed: bool) -> Option<Choice> {
    let header = accept(headers)?;
    if routed && !is_routed(header) {
        return None;
    }
    let is_list = |_, convert: Option<Convert<'_>>| convert.and_then(aggregated_form).is_some();
    if aggregated && let Some((media, clause)) = choose(header, false, is_list) {
        return Some(Choice {
            form: clause.convert().and_then(aggregated_form)?,
            media,
            nopeer: clause.parameter("profile") == Some("nopeer"),
        });
    }
    let media = choose_plain(header)?;
    Some(Choice {
        form: Form::Legacy,
        media,
        nopeer: false,
    })
}

fn aggregated_form(convert: Convert<'_>) -> Option<Form> {
    match convert {
        ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => Some(Form::V2),
        ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => Some(Form::V2beta1),
        _ => None,
    }
}

/// The form and media type of an answer by its `Content-Type`; `None` for one that is not merged.
pub(super) fn answered(content_type: &str) -> Option<(Form, Media)> {
    let mut clauses = clauses(content_type);
    let clause = clauses.pop().filter(|_| clauses.is_empty())?;
    let media = [Media::Json, Media::Yaml, Media::Protobuf]
        .into_iter()
        .find(|media| content_type.split(';').next().map(str::trim) == Some(media.name()))?;
    let form = match clause.convert() {
        None => Form::Legacy,
        Some(convert) => aggregated_form(convert)?,
    };
    Some((form, media))
}

/// The `Content-Type` of a document.
pub(super) fn content_type(form: Form, media: Media) -> HeaderValue {
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

#[cfg(test)]
mod tests {
    use http::header::ACCEPT;

    use super::*;

    const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

    fn chosen(accept: &str) -> Option<(Form, Media, bool)> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        negotiate(&headers, true, true).map(|c| (c.form, c.media, c.nopeer))
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
            // Order of parameters and blanks; a quoted value is another.
            (
                "application/json;g=apidiscovery.k8s.io;v=\"v2\";as=APIGroupDiscoveryList",
                None,
            ),
            (
                "application/json;as=APIGroupDiscoveryList;as=Table;g=apidiscovery.k8s.io;v=v2",
                None,
            ),
            (
                "application/json; as=APIGroupDiscoveryList ;v=v2; g=apidiscovery.k8s.io",
                Some((Form::V2, json, false)),
            ),
            // A release that nobody has yet, then one that there is.
            (
                "application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
                Some((Form::V2beta1, json, false)),
            ),
            // Plain clauses count only where no other does, whatever their place or q.
            (
                &format!("application/json,{V2}"),
                Some((Form::V2, json, false)),
            ),
            (
                &format!("{V2};q=0.1,application/yaml;q=0.5"),
                Some((Form::V2, json, false)),
            ),
            (
                &format!("application/json;q=1,{V2};q=0"),
                Some((Form::V2, json, false)),
            ),
            // go-restful has no route for it; the handler would take it.
            (&V2.replace("json", "*"), None),
            ("application/*", None),
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
            (
                &format!("{V2};stream=watch,{V2}"),
                Some((Form::V2, json, false)),
            ),
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
        let plain = Choice {
            form: Form::Legacy,
            media: Media::Json,
            nopeer: false,
        };
        assert_eq!(negotiate(&headers, true, true), Some(plain));
        headers.insert(ACCEPT, V2.parse().unwrap());
        assert_eq!(negotiate(&headers, false, true), None, "no aggregated form");
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
