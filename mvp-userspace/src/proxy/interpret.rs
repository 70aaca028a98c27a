//! What a 404 may be taken for. It is interpreted only if the server itself made it, and only about the type.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;

use super::attempt::body_error;
use super::error::AttemptError;
use super::forward::{AnswerBody, ServerAnswer};
use crate::api::Key;
use crate::request::RequestInfo;
use crate::route::{Knowledge, Reason, RouteTable, Server};

/// The most types that are remembered as unknown to all servers. Above it all are forgotten: a client that requests so many
/// invents them, and is answered after refreshes that all such requests share.
const MOST_KEYS: usize = 4096;

/// What is interpreted is at most a short Status; anything longer is another answer.
const SHORT: usize = 4096;

/// Whether a 404 of `server` may mean that it has no such type. Otherwise the answer is final, and no other server is tried.
///
/// It may not mean that if a workload or a kubelet gave it, nor if the server lists the type and has confirmed that freshly.
/// A kubelet that does not know the container and a workload with Go's default handler answer with exactly the text by which a
/// kube-apiserver says that it has no such type.
pub(super) fn may_mean_the_type(
    info: &RequestInfo<'_>,
    table: &RouteTable,
    server: &Arc<Server>,
) -> bool {
    if !info.is_resource || is_passed_on(info.key()) {
        return false;
    }
    let Some(position) = table.position(server) else {
        return true;
    };
    let listed = table
        .lookup(info.key())
        .is_some_and(|entry| entry.servers().contains(position));
    let fresh = table
        .member(position)
        .is_some_and(|member| member.knowledge == Knowledge::Confirmed);
    !(listed && fresh)
}

/// Reads a short answer so that its kind can be seen; leaves long ones as they are. One that breaks off is no answer: what is
/// left of it would pass for one of another kind.
pub(super) async fn read_short(
    mut answer: ServerAnswer,
    method: &Method,
) -> Result<ServerAnswer, AttemptError> {
    let AnswerBody::Streaming(body, lease) = answer.body else {
        return Ok(answer);
    };
    if body.size_hint().lower() > SHORT as u64 {
        answer.body = AnswerBody::Streaming(body, lease);
        return Ok(answer);
    }
    let mut bytes = BytesMut::new();
    let mut body = body;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(body_error)?;
        if let Some(chunk) = frame.data_ref() {
            bytes.extend_from_slice(chunk);
        }
        if bytes.len() > SHORT {
            answer.body = AnswerBody::Begun(bytes.freeze(), body, lease);
            return Ok(answer);
        }
    }
    // In an answer to HEAD the field is the length of a body that is not there.
    if *method != Method::HEAD {
        answer
            .head
            .headers
            .insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    answer.body = AnswerBody::Whole(bytes.freeze());
    Ok(answer)
}

/// The two shapes with which a kube-apiserver says that it has no such resource type: the plain page of its
/// `notfoundhandler` (group version unknown) and a Status without a name (resource or subresource unknown), the latter in any
/// encoding. A missing object is a Status that names it.
pub(super) fn is_no_such_type(answer: &ServerAnswer) -> bool {
    let AnswerBody::Whole(body) = &answer.body else {
        return false;
    };
    if answer.head.status != StatusCode::NOT_FOUND {
        return false;
    }
    let content_type = answer
        .head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if body.is_empty() {
        // HEAD has no body to look at: it can only mean the type if nobody is known to serve that.
        return matches!(answer.reason, Reason::UnknownKey | Reason::LocalUnknown);
    }
    if content_type.starts_with("text/plain") {
        return body.as_ref() == b"404 page not found\n";
    }
    const NO_SUCH_RESOURCE: &[u8] = b"the server could not find the requested resource";
    body.windows(NO_SUCH_RESOURCE.len())
        .any(|window| window == NO_SUCH_RESOURCE)
}

/// Whether a server only passes requests for this key on, to a workload or to a kubelet, and the answer back. Every release
/// has all of these (`pkg/registry/core/rest/storage_core.go`).
pub(super) fn is_passed_on(key: Key<'_>) -> bool {
    key.group.is_empty()
        && match key.resource {
            "pods" => matches!(
                key.subresource,
                "proxy" | "log" | "exec" | "attach" | "portforward"
            ),
            "services" | "nodes" => key.subresource == "proxy",
            _ => false,
        }
}

/// Types that no server was found to serve, for as long as nothing is learned that could change that.
#[derive(Debug)]
pub struct Unknowns {
    /// How long an answer stands at most: the servers are asked at least so often anyway.
    keep: Duration,
    remembered: Mutex<Remembered>,
}

/// The state of knowledge in which the answers were found; those of another state are worth nothing.
#[derive(Debug, Default)]
struct Remembered {
    state: (u64, u64),
    keys: HashMap<String, Instant>,
}

impl Unknowns {
    /// Keys that nobody serves are remembered for `keep` at most.
    pub fn new(keep: Duration) -> Self {
        Self {
            keep,
            remembered: Mutex::default(),
        }
    }

    /// Whether all servers were queried for `key` and did not have it, and nothing has been learned since.
    pub fn holds(&self, key: Key<'_>, state: (u64, u64), now: Instant) -> bool {
        let remembered = self.lock();
        remembered.state == state
            && remembered
                .keys
                .get(&key.to_string())
                .is_some_and(|at| now.saturating_duration_since(*at) < self.keep)
    }

    /// All servers answered, in this state of knowledge, and none has `key`.
    pub fn remember(&self, key: Key<'_>, state: (u64, u64), now: Instant) {
        let mut remembered = self.lock();
        if remembered.state != state || remembered.keys.len() >= MOST_KEYS {
            remembered.keys.clear();
            remembered.state = state;
        }
        remembered.keys.insert(key.to_string(), now);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Remembered> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::route::testing::{known, member, table};

    fn doubted(path: &str, knowledge: Knowledge) -> bool {
        let asked = known(member("a", true, &["v1 pods", "v1 configmaps"]), knowledge);
        let server = Arc::clone(&asked.server);
        let table = table([asked, member("b", false, &["v1 widgets"])]);
        let info = RequestInfo::parse(&Method::GET, path, None).unwrap();
        may_mean_the_type(&info, &table, &server)
    }

    #[test]
    fn only_a_servers_own_404_about_an_unlisted_type_is_doubted() {
        for (path, doubt) in [
            ("/api/v1/namespaces/d/configmaps/x", false),
            ("/api/v1/namespaces/d/widgets/x", true),
            ("/api/v1/namespaces/d/pods/x/resize", true),
            ("/apis/none/v1/things", true),
            ("/nope", false),
            ("/api/v1/namespaces/d/pods/x/log", false),
            ("/api/v1/namespaces/d/pods/x/exec", false),
            ("/api/v1/namespaces/d/pods/x/attach", false),
            ("/api/v1/namespaces/d/pods/x/portforward", false),
            ("/api/v1/namespaces/d/pods/x/proxy/a/b", false),
            ("/api/v1/namespaces/d/services/x:80/proxy", false),
            ("/api/v1/nodes/n/proxy/metrics", false),
            // In another group these names mean nothing.
            ("/apis/x/v1/namespaces/d/pods/x/log", true),
        ] {
            assert_eq!(doubted(path, Knowledge::Confirmed), doubt, "{path}");
        }
        for knowledge in [Knowledge::Down, Knowledge::Unconfirmed] {
            assert!(doubted("/api/v1/namespaces/d/configmaps/x", knowledge));
            assert!(!doubted("/api/v1/namespaces/d/pods/x/log", knowledge));
        }
    }

    #[test]
    fn a_server_that_left_is_doubted() {
        let table = table([member("a", true, &["v1 pods"])]);
        let gone = member("b", false, &["v1 pods"]).server;
        let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", None).unwrap();
        assert!(may_mean_the_type(&info, &table, &gone));
    }

    #[test]
    fn what_is_unknown_is_remembered_until_something_is_heard() {
        let info = RequestInfo::parse(&Method::GET, "/apis/none/v1/things", None).unwrap();
        let other = RequestInfo::parse(&Method::GET, "/apis/none/v1/others", None).unwrap();
        let (unknowns, now) = (Unknowns::new(Duration::from_secs(1)), Instant::now());
        assert!(!unknowns.holds(info.key(), (1, 0), now));
        unknowns.remember(info.key(), (1, 0), now);
        assert!(unknowns.holds(info.key(), (1, 0), now));
        assert!(!unknowns.holds(other.key(), (1, 0), now));
        assert!(!unknowns.holds(info.key(), (1, 1), now), "an event came");
        assert!(!unknowns.holds(info.key(), (2, 0), now), "a set changed");
        assert!(!unknowns.holds(info.key(), (1, 0), now + Duration::from_secs(1)));
        unknowns.remember(other.key(), (2, 0), now);
        assert!(!unknowns.holds(info.key(), (1, 0), now), "of another state");
        for i in 0..2 * MOST_KEYS {
            let path = format!("/apis/none/v1/things{i}");
            let info = RequestInfo::parse(&Method::GET, &path, None).unwrap();
            unknowns.remember(info.key(), (2, 0), now);
        }
        assert!(unknowns.lock().keys.len() <= MOST_KEYS);
    }
}
