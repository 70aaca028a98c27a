//! The answers of the fast upstream, built once. They have the headers that a kube-apiserver sends.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};

use super::answering::{Answering, GATHERED};

/// Which of the two servers this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The agent's own server: Kubernetes 1.35, without [`GROUP`].
    Local,
    /// Kubernetes 1.36, with [`GROUP`].
    Peer,
}

/// The API group that only the peer serves, with one version `v1` and one resource `widgets`.
pub const GROUP: &str = "bench.mvp.dev";

/// The object that the benchmark reads.
pub const PATH: &str = "/apis/bench.mvp.dev/v1/namespaces/default/widgets/one";

/// A list of [`LARGE_BYTES`], which the peer has.
pub const LARGE: &str = "/apis/bench.mvp.dev/v1/namespaces/large/widgets";
/// The size of the list's body, bytes.
pub const LARGE_BYTES: usize = 5_000_000;

/// A list of [`MEDIUM_BYTES`], which the peer has.
pub const MEDIUM: &str = "/apis/bench.mvp.dev/v1/namespaces/medium/widgets";
/// The size of that list's body, bytes.
pub const MEDIUM_BYTES: usize = 100_000;

/// A watch of everything of the type. What [`super::upstream::Upstream::tell`] tells arrives there.
pub const WATCH: &str = "/apis/bench.mvp.dev/v1/widgets?watch=1";

/// Names the server that answered; only the benchmark's own servers send it.
pub const ANSWERED_BY: &str = "x-bench-answered-by";

const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const ETAGS: [&str; 2] = ["\"BE9C0001\"", "\"BE9C0002\""];

/// Every answer of one server.
pub(crate) struct Answers {
    version: Answer,
    ready: Answer,
    api: Answer,
    apis: Answer,
    /// Of 1 KiB, and of 1.5 KiB, as most objects of a real cluster are larger.
    object: Answer,
    real_object: Answer,
    medium: Option<Answer>,
    large: Option<Answer>,
    watch: Answer,
    absent: Answer,
}

/// A head to copy and a body to share.
pub(crate) struct Answer {
    head: Response<()>,
    pub body: Bytes,
    /// The body has no end: a watch without events.
    pub open: bool,
}

impl Answer {
    pub(crate) fn head(&self) -> Response<()> {
        self.head.clone()
    }
}

impl Answers {
    pub(crate) fn new(role: Role) -> Self {
        let minor = if role == Role::Peer { 36 } else { 35 };
        let version = json!({"major": "1", "minor": minor.to_string(), "gitVersion": format!("v1.{minor}.0"), "platform": "linux/amd64"});
        let (core, groups) = discovery(role);
        let listed = |list: &LazyLock<Bytes>| {
            (role == Role::Peer).then(|| answer(role, "application/json", Bytes::clone(list)))
        };
        let watch = Answer {
            open: true,
            ..answer(role, "application/json", Bytes::new())
        };
        let mut absent = answer(
            role,
            "text/plain; charset=utf-8",
            Bytes::from_static(b"404 page not found\n"),
        );
        *absent.head.status_mut() = StatusCode::NOT_FOUND;
        Self {
            version: answer(role, "application/json", version.to_string().into()),
            ready: answer(role, "text/plain; charset=utf-8", Bytes::from_static(b"ok")),
            api: discovered(role, ETAGS[0], &core),
            apis: discovered(role, ETAGS[1], &groups),
            object: answer(role, "application/json", object(role, OBJECT)),
            real_object: answer(role, "application/json", object(role, REAL_OBJECT)),
            medium: listed(&MEDIUM_LIST),
            large: listed(&LARGE_LIST),
            watch,
            absent,
        }
    }

    /// The answer to any request. Bodies of requests are ignored.
    pub(crate) fn to<B>(
        &self,
        request: &Request<B>,
        answering: Answering,
    ) -> (&Answer, Response<()>) {
        let path = request.uri().path();
        let answer = match path {
            "/version" => &self.version,
            "/readyz" | "/livez" | "/healthz" => &self.ready,
            "/api" if wants_discovery(request.headers()) => &self.api,
            "/apis" if wants_discovery(request.headers()) => &self.apis,
            _ if is_resource(path) && is_watch(request) => &self.watch,
            MEDIUM => self.medium.as_ref().unwrap_or(&self.absent),
            LARGE => self.large.as_ref().unwrap_or(&self.absent),
            _ if is_resource(path) && answering == Answering::Real => &self.real_object,
            _ if is_resource(path) => &self.object,
            _ => &self.absent,
        };
        let mut head = answer.head();
        let etag = answer.head.headers().get(header::ETAG);
        if etag.is_some() && etag == request.headers().get(header::IF_NONE_MATCH) {
            *head.status_mut() = StatusCode::NOT_MODIFIED;
            head.headers_mut().remove(header::CONTENT_LENGTH);
        }
        if answering == Answering::Real && answer.body.len() > GATHERED {
            head.headers_mut().remove(header::CONTENT_LENGTH);
        }
        (answer, head)
    }
}

fn is_resource(path: &str) -> bool {
    // /api/v1/RESOURCE or /apis/GROUP/VERSION/RESOURCE
    path.strip_prefix("/api/")
        .is_some_and(|rest| rest.contains('/'))
        || path
            .strip_prefix("/apis/")
            .is_some_and(|rest| rest.matches('/').count() >= 2)
}

fn is_watch<B>(request: &Request<B>) -> bool {
    request.method() == Method::GET
        && request
            .uri()
            .query()
            .is_some_and(|query| query.contains("watch="))
}

fn wants_discovery(headers: &HeaderMap) -> bool {
    let accepts = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("as=APIGroupDiscoveryList"))
    };
    headers.get_all(header::ACCEPT).iter().any(accepts)
}

fn answer(role: Role, media_type: &'static str, body: Bytes) -> Answer {
    let mut head = Response::new(());
    let headers = head.headers_mut();
    headers.insert(
        "audit-id",
        HeaderValue::from_static("a73d8114-1fee-4460-9823-8edd0db8fffa"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(
        header::DATE,
        HeaderValue::from_static("Tue, 24 Nov 2026 05:24:15 GMT"),
    );
    headers.insert(
        "x-kubernetes-pf-flowschema-uid",
        HeaderValue::from_static("241feb16-ebb3-4eff-9111-57b7a09b3305"),
    );
    headers.insert(
        "x-kubernetes-pf-prioritylevel-uid",
        HeaderValue::from_static("96c1487f-5b77-45e2-b5b4-95fe315d2c43"),
    );
    headers.insert(ANSWERED_BY, HeaderValue::from_static(name(role)));
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Answer {
        head,
        body,
        open: false,
    }
}

fn discovered(role: Role, etag: &'static str, document: &Value) -> Answer {
    let mut answer = answer(role, DISCOVERY, document.to_string().into());
    let headers = answer.head.headers_mut();
    headers.insert(header::ETAG, HeaderValue::from_static(etag));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    answer
}

fn name(role: Role) -> &'static str {
    match role {
        Role::Local => "local",
        Role::Peer => "peer",
    }
}

/// The sizes of the objects, bytes.
const OBJECT: usize = 1024;
const REAL_OBJECT: usize = 1536;

/// A JSON object of so many bytes.
fn object(role: Role, bytes: usize) -> Bytes {
    let build = |padding: usize| {
        json!({
            "kind": "Widget",
            "apiVersion": format!("{GROUP}/v1"),
            "metadata": {"name": "one", "namespace": "default", "uid": "6ee6679a-5fa0-4b6f-9f99-5918289ca723", "resourceVersion": "226",
                "creationTimestamp": "2026-11-24T05:24:15Z", "labels": {"answered-by": name(role)}},
            "spec": {"payload": "x".repeat(padding)},
        })
        .to_string()
    };
    let bare = build(0).len();
    build(bytes.saturating_sub(bare)).into()
}

static MEDIUM_LIST: LazyLock<Bytes> = LazyLock::new(|| list_of(MEDIUM_BYTES));
static LARGE_LIST: LazyLock<Bytes> = LazyLock::new(|| list_of(LARGE_BYTES));

/// Objects of a kibibyte, as many as make so many bytes with the last one's padding.
fn list_of(bytes: usize) -> Bytes {
    let item = object(Role::Peer, OBJECT);
    let (head, tail) = (
        format!(
            "{{\"kind\":\"WidgetList\",\"apiVersion\":\"{GROUP}/v1\",\"metadata\":{{\"resourceVersion\":\"226\"}},\"items\":["
        ),
        "]}",
    );
    let mut list = Vec::with_capacity(bytes);
    list.extend_from_slice(head.as_bytes());
    while list.len() + item.len() + 1 + tail.len() <= bytes {
        if list.len() > head.len() {
            list.push(b',');
        }
        list.extend_from_slice(&item);
    }
    // JSON may have blanks between any two tokens.
    list.resize(bytes - tail.len(), b' ');
    list.extend_from_slice(tail.as_bytes());
    list.into()
}

/// An event of a watch, a line of JSON of about a kibibyte, that says when it was sent.
pub(crate) fn event(sent: u64) -> Bytes {
    let object = String::from_utf8_lossy(&object(Role::Peer, OBJECT)).into_owned();
    format!("{{\"type\":\"MODIFIED\",{SENT}{sent:020}\",\"object\":{object}}}\n").into()
}

/// When an event was sent, by the first bytes of its line; `None`: that is no event.
pub fn sent_at(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line.get(..80)?).ok()?;
    let digits = text.split(SENT).nth(1)?.get(..20)?;
    digits.parse().ok()
}

const SENT: &str = "\"sent\":\"";

/// The aggregated discovery documents of `/api` and `/apis`.
fn discovery(role: Role) -> (Value, Value) {
    let core = [
        ("namespaces", "Namespace", "Cluster"),
        ("pods", "Pod", "Namespaced"),
    ];
    let mut groups = vec![group(
        "apps",
        &[("deployments", "Deployment", "Namespaced")],
    )];
    if role == Role::Peer {
        groups.push(group(GROUP, &[("widgets", "Widget", "Namespaced")]));
    }
    (list(vec![group("", &core)]), list(groups))
}

fn list(items: Vec<Value>) -> Value {
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group(name: &str, resources: &[(&str, &str, &str)]) -> Value {
    let resources: Vec<Value> = resources
        .iter()
        .map(|(plural, kind, scope)| {
            json!({
                "resource": plural,
                "responseKind": {"group": name, "version": "v1", "kind": kind},
                "scope": scope,
                "singularResource": kind.to_lowercase(),
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
            })
        })
        .collect();
    let metadata = if name.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": name, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str) -> Request<()> {
        Request::get(path)
            .header(header::ACCEPT, DISCOVERY)
            .body(())
            .unwrap()
    }

    #[test]
    fn only_the_peer_lists_the_group() {
        for (role, listed) in [(Role::Local, false), (Role::Peer, true)] {
            let answers = Answers::new(role);
            let (answer, head) = answers.to(&get("/apis?profile=nopeer"), Answering::Lean);
            assert_eq!(head.status(), StatusCode::OK);
            assert_eq!(
                String::from_utf8_lossy(&answer.body).contains(GROUP),
                listed
            );
        }
    }

    #[test]
    fn an_unchanged_document_is_not_sent_again() {
        let answers = Answers::new(Role::Peer);
        let mut request = get("/apis");
        let etag = answers.to(&request, Answering::Lean).1.headers()[header::ETAG].clone();
        request.headers_mut().insert(header::IF_NONE_MATCH, etag);
        assert_eq!(
            answers.to(&request, Answering::Lean).1.status(),
            StatusCode::NOT_MODIFIED
        );
    }

    #[test]
    fn the_object_is_a_kibibyte_of_json_from_a_named_server() {
        let answers = Answers::new(Role::Peer);
        let (answer, head) = answers.to(&get(PATH), Answering::Lean);
        assert_eq!(answer.body.len(), 1024);
        assert_eq!(
            serde_json::from_slice::<Value>(&answer.body).unwrap()["metadata"]["labels"]["answered-by"],
            "peer"
        );
        assert_eq!(head.headers()[ANSWERED_BY], "peer");
        assert!(
            answers
                .to(
                    &get("/apis/bench.mvp.dev/v1/widgets?watch=1"),
                    Answering::Lean
                )
                .0
                .open
        );
        assert_eq!(
            answers.to(&get("/openapi/v3"), Answering::Lean).1.status(),
            StatusCode::NOT_FOUND
        );
    }

    #[test]
    fn the_large_list_is_json_of_the_length_that_it_says_and_only_the_peer_has_it() {
        let answers = Answers::new(Role::Peer);
        let (answer, head) = answers.to(&get(LARGE), Answering::Lean);
        assert_eq!(answer.body.len(), LARGE_BYTES);
        assert_eq!(
            head.headers()[header::CONTENT_LENGTH],
            LARGE_BYTES.to_string()
        );
        let list: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(list["items"].as_array().unwrap().len() > 4_800);
        let local = Answers::new(Role::Local);
        assert_eq!(
            local.to(&get(LARGE), Answering::Lean).1.status(),
            StatusCode::NOT_FOUND
        );
    }

    #[test]
    fn a_real_answer_is_larger_and_one_that_is_streamed_says_no_length() {
        let answers = Answers::new(Role::Peer);
        let (answer, head) = answers.to(&get(PATH), Answering::Real);
        assert_eq!(answer.body.len(), 1536);
        assert_eq!(head.headers()[header::CONTENT_LENGTH], "1536");
        for (path, bytes) in [(MEDIUM, MEDIUM_BYTES), (LARGE, LARGE_BYTES)] {
            let (answer, head) = answers.to(&get(path), Answering::Real);
            assert_eq!(answer.body.len(), bytes);
            assert!(!head.headers().contains_key(header::CONTENT_LENGTH));
        }
    }

    #[test]
    fn an_event_says_when_it_was_sent() {
        let event = event(12_345_678);
        assert_eq!(sent_at(&event), Some(12_345_678));
        assert_eq!(sent_at(&event[1..]), Some(12_345_678));
        assert_eq!(sent_at(b"{}"), None);
        let line: Value = serde_json::from_slice(&event).unwrap();
        assert_eq!(line["type"], "MODIFIED");
    }
}
