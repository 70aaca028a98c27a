//! Reads with an option that the asked server is too old for.
//!
//! A kube-apiserver ignores most options of a query that it does not know. Two it refuses: a field selector by a label that its release
//! cannot select by, and `sendInitialEvents` of a watch. Its answer says so in words of its own, and does so before anything was done.

use http::{HeaderMap, Method, StatusCode};

use super::Worker;
use super::forward::{AnswerBody, ServerAnswer, attempt};
use super::outgoing::Outgoing;
use super::trace::Trace;
use crate::api::Verb;
use crate::request::{NewerOptions, RequestInfo};
use crate::route::{Reason, RouteTable, newer};

/// `fields.Selector.Transform` over the release's conversions. 400, in `apimachinery/pkg/runtime/conversion.go`
/// (`DefaultMetaV1FieldSelectorConversion`), and in `conversion.go` of each group and of custom resources.
const UNKNOWN_FIELD: [&[u8]; 2] = [b"is not a known field selector", b"field label"];
/// What the second of them also says: with and without the label or the kind before it.
const NOT_SUPPORTED: &[u8] = b"not supported";
/// `ValidateListOptions` (`apimachinery/pkg/apis/meta/internalversion/validation`): 422. With the feature gate off, and before
/// there was one (1.26), where only what goes with the option is refused.
const NO_INITIAL_EVENTS: [&[u8]; 2] = [
    b"sendInitialEvents is forbidden for watch",
    b"resourceVersionMatch is forbidden for watch",
];

/// The options because of which a server may be too old for the request: none if it is no read.
pub(super) fn options(info: &RequestInfo<'_>, outgoing: &Outgoing<'_>) -> NewerOptions {
    let reads = *outgoing.method == Method::GET
        && info.is_resource
        && matches!(info.verb, Verb::List | Verb::Watch)
        && outgoing.upgrade.is_none();
    match reads {
        true => NewerOptions::read(outgoing.uri.query()),
        false => NewerOptions::default(),
    }
}

/// Whether an answer of this status, if it is a short one, may refuse such an option.
pub(super) fn may_refuse(status: StatusCode, options: NewerOptions) -> bool {
    match status {
        StatusCode::BAD_REQUEST => options.field_selector,
        StatusCode::UNPROCESSABLE_ENTITY => options.send_initial_events,
        _ => false,
    }
}

/// Puts the answer of a newer server in place of the first one, if there is one and it does not refuse the option as well.
pub(super) async fn ask_newer(
    thread: &Worker,
    (info, outgoing): (&RequestInfo<'_>, &Outgoing<'_>),
    table: &RouteTable,
    answer: &mut ServerAnswer,
    trace: &mut Trace,
) {
    let options = options(info, outgoing);
    let class = outgoing.admitted.class();
    let newer = match refuses(answer, options) {
        true => newer(info, table, &answer.server, class),
        false => None,
    };
    let Some(server) = newer else {
        return;
    };
    thread.shared.metrics.retry("query");
    match attempt(thread, &server, Reason::QueryOnPeer, outgoing, info, trace).await {
        Ok(second) => {
            server.succeeded();
            if second.head.status != StatusCode::NOT_FOUND && !refuses(&second, options) {
                *answer = second;
            }
        }
        Err(error) => {
            if let Some(failure) = error.ending.verdict().counts {
                server.failed(failure);
            }
        }
    }
}

/// Whether a server says that it does not know one of the options. In any encoding: strings are what they are in all of them.
fn refuses(answer: &ServerAnswer, options: NewerOptions) -> bool {
    let AnswerBody::Whole(body) = &answer.body else {
        return false;
    };
    // One that a kube-apiserver compressed would be longer than what is read.
    if !is_plain(&answer.head.headers) || !may_refuse(answer.head.status, options) {
        return false;
    }
    let says = |text: &[u8]| body.windows(text.len()).any(|window| window == text);
    match answer.head.status {
        StatusCode::BAD_REQUEST => {
            let [default, label] = UNKNOWN_FIELD;
            says(default) || says(label) && says(NOT_SUPPORTED)
        }
        _ => NO_INITIAL_EVENTS.into_iter().any(says),
    }
}

fn is_plain(headers: &HeaderMap) -> bool {
    !headers.contains_key(http::header::CONTENT_ENCODING)
}
