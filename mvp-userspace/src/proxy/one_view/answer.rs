//! The answer as the client receives it. The head is the server's, so that its audit log has the caller and the request; the
//! document is that of the whole control plane.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    ETAG, IF_NONE_MATCH, LAST_MODIFIED, TRANSFER_ENCODING, USER_AGENT, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Serialize;

use crate::discovery::{Merged, OwnDocument, View, read_bounded};
use crate::document::{
    ApiResourceList, Encoding, Form, GZIP_ABOVE, Layout, Media, api_group, encode, encode_root,
    gzip, merge_resource_list,
};
use crate::proxy::Shared;
use crate::proxy::blame::Ending;
use crate::proxy::error::{AttemptError, ProxyError};
use crate::proxy::forward::{AnswerBody, ServerAnswer};
use crate::proxy::one_view::Question;
use crate::proxy::one_view::accept::{Choice, answered, content_type};
use crate::proxy::one_view::ask::Ask;
use crate::proxy::outgoing::Outgoing;
use crate::route::{Reason, Server};

/// A body that replaces an answer's.
struct Replacement {
    body: Bytes,
    content_type: HeaderValue,
    /// `None` for documents that are not whole roots.
    etag: Option<HeaderValue>,
    gzipped: bool,
}

/// Replaces the server's document by that of the view; anything but a 200 or 304 passes as it is.
pub(super) async fn from_view(
    ask: &Ask,
    answer: ServerAnswer,
    view: &Arc<View>,
    client: &Outgoing<'_>,
    shared: &Shared,
) -> Result<ServerAnswer, ProxyError> {
    let passes = !matches!(
        answer.head.status,
        StatusCode::OK | StatusCode::NOT_MODIFIED
    );
    if passes || ask.passes() {
        return Ok(for_head(answer, client.method));
    }
    let answer = read(answer, shared).await?;
    let told = match &ask.question {
        Question::Root { root, .. } => {
            let merged = view.root(*root).merged.as_ref();
            merged.and_then(|merged| whole_root(ask, &answer, merged, client))
        }
        Question::Group(group) => one_group(ask, view, group, client),
        Question::GroupVersion(gv) => {
            one_version(ask, &answer, view, &gv.group, &gv.version, client)?
        }
        Question::OpenApiIndex => Some(index(&answer, client, shared)),
        Question::OpenApiDocument(_) | Question::OpenApiV2 => None,
    };
    let Some(told) = told else {
        return Ok(for_head(answer, client.method));
    };
    shared.metrics.peer_aggregated_cache(true);
    let mut answer = replaced(answer, told, client);
    answer.reason = Reason::DiscoveryMerged;
    Ok(answer)
}

/// Replaces the server's 304 by the document that it confirms; anything else passes as it is.
pub(super) async fn confirmed(
    own: &OwnDocument,
    answer: ServerAnswer,
    client: &Outgoing<'_>,
    shared: &Shared,
) -> Result<ServerAnswer, ProxyError> {
    if answer.head.status != StatusCode::NOT_MODIFIED {
        return Ok(answer);
    }
    let answer = read(answer, shared).await?;
    let (body, gzipped) = own.encoded(accepts_gzip(client.admitted.headers()));
    let told = Replacement {
        body,
        content_type: content_type(Form::V2, Media::Json),
        etag: Some(own.etag.clone()),
        gzipped,
    };
    Ok(replaced(answer, told, client))
}

/// Reads the whole answer, so that its connection is free again and the document can be merged.
async fn read(mut answer: ServerAnswer, shared: &Shared) -> Result<ServerAnswer, ProxyError> {
    let AnswerBody::Streaming(body, lease) = answer.body else {
        return Ok(answer);
    };
    let broken = |text| broken(&answer.server, text);
    let limit = shared.discovery.max_bytes();
    let bytes = read_bounded(body, limit)
        .await
        .map_err(|error| broken(error.to_string()))?
        .ok_or_else(|| broken(format!("its document has more than {limit} bytes")))?;
    drop(lease);
    answer.body = AnswerBody::Whole(bytes);
    Ok(answer)
}

fn broken(server: &Server, text: String) -> ProxyError {
    ProxyError::Upstream {
        server: server.name.to_string(),
        local: server.local,
        attempt: AttemptError::new(Ending::AnswerMalformed, text),
        // The request is a GET.
        repeatable: true,
    }
}

fn whole_root(
    ask: &Ask,
    answer: &ServerAnswer,
    merged: &Merged,
    client: &Outgoing<'_>,
) -> Option<Replacement> {
    let (form, media) = form_of(ask, answer)?;
    // Only the forms are kept that programs request.
    let kept = media != Media::Json || layout(client) == Layout::Compact;
    let plain = Encoding {
        form,
        media,
        gzip: false,
    };
    let mut body = match kept {
        true => merged.encoded(plain),
        false => encode_root(&merged.document, form, media, Layout::Pretty),
    };
    let gzipped = body.len() > GZIP_ABOVE && accepts_gzip(client.admitted.headers());
    if gzipped {
        body = match kept {
            true => merged.encoded(Encoding {
                gzip: true,
                ..plain
            }),
            false => gzip(&body),
        };
    }
    Some(Replacement {
        body,
        content_type: content_type(form, media),
        etag: (form != Form::Legacy).then(|| merged.etag.clone()),
        gzipped,
    })
}

fn one_group(ask: &Ask, view: &View, group: &str, client: &Outgoing<'_>) -> Option<Replacement> {
    let merged = view.root_of(group).merged.as_ref()?;
    let group = api_group(&merged.document, group)?;
    legacy(&group, || group.to_protobuf(), ask, client)
}

fn one_version(
    ask: &Ask,
    answer: &ServerAnswer,
    view: &View,
    group: &str,
    version: &str,
    client: &Outgoing<'_>,
) -> Result<Option<Replacement>, ProxyError> {
    let Some(merged) = view.root_of(group).merged.as_ref() else {
        return Ok(None);
    };
    let Some((_, media)) = form_of(ask, answer) else {
        return Ok(None);
    };
    let bytes = answer.whole();
    let local = match media {
        Media::Protobuf => ApiResourceList::from_protobuf(bytes),
        Media::Json | Media::Yaml => ApiResourceList::from_json(bytes),
    };
    // A list that is too short would have the effect of a false 404. If the document cannot be read, the client receives an
    // error.
    let local = local.map_err(|error| {
        let text = error.to_string();
        broken(&answer.server, text)
    })?;
    let list = merge_resource_list(local, &merged.document, group, version);
    Ok(legacy(&list, || list.to_protobuf(), ask, client))
}

fn index(answer: &ServerAnswer, client: &Outgoing<'_>, shared: &Shared) -> Replacement {
    let body = Bytes::copy_from_slice(answer.whole());
    let body = shared.discovery.openapi_index(&answer.server, &body);
    // kube-openapi's handler compresses whatever its size.
    let gzipped = accepts_gzip(client.admitted.headers());
    let body = match gzipped {
        true => gzip(&body),
        false => body,
    };
    let kind = answer.head.headers.get(CONTENT_TYPE).cloned();
    Replacement {
        body,
        content_type: kind.unwrap_or(HeaderValue::from_static("application/json")),
        etag: None,
        gzipped,
    }
}

/// The form of the server's document. A 304 has no content type, but only one form was requested.
fn form_of(ask: &Ask, answer: &ServerAnswer) -> Option<(Form, Media)> {
    let Choice { form, media, .. } = ask.choice?;
    match answer.head.status {
        StatusCode::NOT_MODIFIED => Some((form, media)),
        _ => answered(answer.head.headers.get(CONTENT_TYPE)?.to_str().ok()?),
    }
}

/// Encodes in the media type that the client requested, whatever was requested from the server.
fn legacy<T: Serialize>(
    object: &T,
    protobuf: impl FnOnce() -> Vec<u8>,
    ask: &Ask,
    client: &Outgoing<'_>,
) -> Option<Replacement> {
    let media = ask.choice?.media;
    let body = Bytes::from(encode(object, protobuf, media, layout(client)));
    let gzipped = body.len() > GZIP_ABOVE && accepts_gzip(client.admitted.headers());
    Some(Replacement {
        body: match gzipped {
            true => gzip(&body),
            false => body,
        },
        content_type: content_type(Form::Legacy, media),
        etag: None,
        gzipped,
    })
}

fn replaced(mut answer: ServerAnswer, told: Replacement, client: &Outgoing<'_>) -> ServerAnswer {
    let headers = &mut answer.head.headers;
    for name in [
        CONTENT_ENCODING,
        TRANSFER_ENCODING,
        LAST_MODIFIED,
        ACCEPT_RANGES,
        ETAG,
    ] {
        headers.remove(name);
    }
    // Exactly the quoted value, as kube-apiserver compares it: no lists, no weak validators, no `*`.
    let unchanged =
        told.etag.is_some() && client.admitted.headers().get(IF_NONE_MATCH) == told.etag.as_ref();
    if let Some(etag) = told.etag {
        headers.insert(ETAG, etag);
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    }
    if unchanged {
        headers.remove(CONTENT_TYPE);
        headers.remove(CONTENT_LENGTH);
        answer.head.status = StatusCode::NOT_MODIFIED;
        answer.body = AnswerBody::Whole(Bytes::new());
        return answer;
    }
    answer.head.status = StatusCode::OK;
    headers.insert(CONTENT_TYPE, told.content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(told.body.len()));
    if told.gzipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    answer.body = AnswerBody::Whole(told.body);
    for_head(answer, client.method)
}

/// An answer to HEAD: the length of a body that is not sent.
fn for_head(mut answer: ServerAnswer, method: &Method) -> ServerAnswer {
    if *method == Method::HEAD {
        if let AnswerBody::Whole(bytes) = &answer.body {
            let length = HeaderValue::from(bytes.len());
            answer.head.headers.insert(CONTENT_LENGTH, length);
        }
        answer.body = AnswerBody::Whole(Bytes::new());
    }
    answer
}

/// `negotiateContentEncoding` in `apiserver/pkg/endpoints/handlers/responsewriters/writers.go`: the first header, bare tokens.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
    accepted.is_some_and(|accepted| accepted.split(',').any(|token| token.trim() == "gzip"))
}

/// As `isPrettyPrint` in `apiserver/pkg/endpoints/handlers/negotiation/negotiate.go`: the query's parameter decides, else
/// whether the client is one that people use.
pub(super) fn layout(client: &Outgoing<'_>) -> Layout {
    let query = client.uri.query().unwrap_or_default();
    let asked = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(name, value)| *name == "pretty" && !value.is_empty());
    if let Some((_, value)) = asked {
        // Go's ParseBool.
        return match value {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Layout::Pretty,
            _ => Layout::Compact,
        };
    }
    let agent = client
        .admitted
        .headers()
        .get(USER_AGENT)
        .and_then(|v| v.to_str().ok());
    let agent = agent.unwrap_or_default();
    match ["curl", "Wget", "Mozilla/5.0"]
        .iter()
        .any(|people| agent.starts_with(people))
    {
        true => Layout::Pretty,
        false => Layout::Compact,
    }
}
