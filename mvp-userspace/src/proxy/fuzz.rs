//! Whole requests as strangers write them, through the very steps of `service::handle` up to the request that leaves, with any
//! names of identity headers. No identity may be gained, and no server may be given a request for which it would end a stream
//! or a connection, since that is counted against it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::attempt::attempt_error;
use super::blame::Blame;
use super::fuzz_wire::{EMPTY_SETTINGS, PREFACE, http1_text, http2_text};
use super::headers::{ensure_audit_id, upstream_target};
use super::watched::{Unseen, Watched};
use crate::config::{Endpoint, RequestHeader};
use crate::h1wire;
use crate::h2wire::REFUSED;
use crate::identity::{Caller, Faces, Hasher, Head, admit, faces, forwarded_for, strip_headers};
use crate::request::RequestInfo;

/// Input: how the client proves itself, the form of the rest, one byte for which usual names are configured, then names that
/// are configured besides, then what the client sends. Panics if a rule is broken.
pub fn fuzz_requests(data: &[u8]) {
    let mut input = Input(data);
    let (face, form) = (input.byte(), input.byte());
    let header = names(&mut input);
    let Some(faces) = faces(&header) else {
        return;
    };
    let wire = match form % 4 {
        0 => input.0.to_vec(),
        1 => [PREFACE, EMPTY_SETTINGS, input.0].concat(),
        2 => http2_text(&fields(&mut input), &fields(&mut input)),
        _ => http1_text(&fields(&mut input), &fields(&mut input)),
    };
    let http2 = matches!(form % 4, 1 | 2);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return;
    };
    let comer = Comer {
        face: face % 3,
        faces,
        left: Mutex::default(),
    };
    let comer = Arc::new(comer);
    runtime.block_on(serve(wire, http2, Arc::clone(&comer)));
    let left = std::mem::take(&mut *comer.left.lock().unwrap_or_else(PoisonError::into_inner));
    for leaving in left {
        leaving.check(&header);
        runtime.block_on(reaches_a_server(leaving));
    }
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// At most 63 bytes, after their number.
    fn text(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte() % 64).min(self.0.len());
        let (text, rest) = self.0.split_at(length);
        self.0 = rest;
        text
    }
}

/// Names that an agent and its servers are configured with.
fn names(input: &mut Input<'_>) -> RequestHeader {
    let which = input.byte();
    let usual = |bit: u8, name: &str, other: &str| {
        let name = if which & bit == 0 { name } else { other };
        vec![name.to_owned()]
    };
    let mut header = RequestHeader {
        client_ca_file: "unused".into(),
        allowed_names: Vec::new(),
        username_headers: usual(1, "X-Remote-User", "X_Corp_Login"),
        uid_headers: usual(2, "X-Remote-Uid", "Remote-Id"),
        group_headers: usual(4, "X-Remote-Group", "X-Custom-Group"),
        extra_header_prefixes: usual(8, "X-Remote-Extra-", "Fact."),
    };
    for _ in 0..input.byte() % 4 {
        let lists = [
            &mut header.username_headers,
            &mut header.uid_headers,
            &mut header.group_headers,
            &mut header.extra_header_prefixes,
        ];
        let index = usize::from(input.byte()) % lists.len();
        let text = String::from_utf8_lossy(input.text()).into_owned();
        let usable = http::HeaderName::from_bytes(text.as_bytes()).is_ok() && !is_taken(&text);
        if let (true, Some(list)) = (usable, lists.into_iter().nth(index)) {
            list.push(text);
        }
    }
    header
}

/// What HTTP or the agent itself uses means no user, and as a prefix neither.
fn is_taken(name: &str) -> bool {
    let name = fold(name);
    let taken = [
        "host",
        "audit-id",
        "x-forwarded-for",
        "te",
        "trailer",
        "connection",
        "transfer-encoding",
        "content-length",
        "expect",
        "upgrade",
        "authorization",
        "keep-alive",
        "proxy-connection",
        "x-kubernetes-peer-proxied",
        "sec-websocket-protocol",
        "impersonate-user",
        "cookie",
    ];
    taken.iter().any(|taken| taken.starts_with(&*name))
}

/// Pairs of name and value; names that are worth trying by number.
fn fields(input: &mut Input<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    const NAMES: [&str; 20] = [
        "X-Remote-User",
        "x-remote-user",
        "X_Remote_User",
        "x-remote-group",
        "x-remote_group",
        "X-Remote-Extra-Scopes",
        "x-remote-uid",
        "X-Remote-Anything",
        "X-Custom-Group",
        "x_custom_group",
        "X_Corp_Login",
        "x-corp-login",
        "Remote-Id",
        "Fact.team",
        "x-kubernetes-peer-proxied",
        "Authorization",
        "Connection",
        "Impersonate-User",
        "TE",
        "X-Forwarded-For",
    ];
    let count = input.byte() % 12;
    let field = |input: &mut Input<'_>| {
        let name = match input.byte() {
            200.. => input.text().to_vec(),
            known => NAMES[usize::from(known) % NAMES.len()].as_bytes().to_vec(),
        };
        (name, input.text().to_vec())
    };
    (0..count).map(|_| field(input)).collect()
}

/// A client that proves itself in one way, and what leaves the agent on its behalf.
struct Comer {
    face: u8,
    faces: Faces,
    left: Mutex<Vec<Leaving>>,
}

struct Leaving {
    request: Request<()>,
    trailers: HeaderMap,
    caller: Caller,
    face: u8,
}

async fn serve(wire: Vec<u8>, http2: bool, comer: Arc<Comer>) {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let limits = h1wire::HeadLimits {
        bytes: 16 << 10,
        count: 90,
    };
    let (io, answered) = match http2 {
        true => {
            let io = Watched::http2(server, limits.bytes, Unseen::default());
            (io, h1wire::Answered::default())
        }
        false => Watched::http1(server, limits),
    };
    let service = service_fn(move |request| {
        let (comer, answered) = (Arc::clone(&comer), answered.clone());
        async move {
            comer.comes(request).await;
            answered.next(false);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let client = async move {
        let _ = client.write_all(&wire).await;
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
    };
    let server = async move {
        let io = TokioIo::new(io);
        // However it ends: a client may send anything.
        let _ = match http2 {
            true => {
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(io, service)
                    .await
            }
            false => http1::Builder::new().serve_connection(io, service).await,
        };
        // For the tasks of streams that are answered already.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(client, server);
}

impl Comer {
    /// The steps of `service::handle`, in its order.
    async fn comes(&self, request: Request<Incoming>) {
        let (mut parts, body) = request.into_parts();
        let trust = &self.faces.trust;
        ensure_audit_id(&mut parts.headers);
        if parts.headers.contains_key(REFUSED) {
            return;
        }
        if parts.method == Method::CONNECT {
            return;
        }
        let certificate = match self.face {
            0 => None,
            1 => Some(&self.faces.user),
            _ => Some(&self.faces.proxy),
        };
        let from = forwarded_for(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        let head = Head {
            headers: &mut parts.headers,
            certificate,
            forwarded_for: &from,
            hasher: &Hasher::default(),
        };
        let Ok(admitted) = admit(head, trust, || None) else {
            return;
        };
        if RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query()).is_err() {
            return;
        }
        let caller = admitted.caller().clone();
        let mut headers = admitted.headers().clone();
        let server = Endpoint {
            name: "cp-a".into(),
            host: "127.0.0.1".into(),
            port: 6443,
        };
        let target = upstream_target(&parts.uri, &mut headers, Version::HTTP_2, &server);
        let Ok(target) = target else {
            return;
        };
        let mut trailers = match body.collect().await {
            Ok(body) => body.trailers().cloned().unwrap_or_default(),
            Err(_) => HeaderMap::new(),
        };
        strip_headers(&mut trailers, trust);
        let mut request = Request::new(());
        *request.method_mut() = parts.method;
        *request.uri_mut() = target;
        *request.version_mut() = Version::HTTP_2;
        // As the request leaves without its body here.
        headers.remove(header::CONTENT_LENGTH);
        *request.headers_mut() = headers;
        let leaving = Leaving {
            request,
            trailers,
            caller,
            face: self.face,
        };
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(leaving);
    }
}

impl Leaving {
    /// No identity was gained.
    fn check(&self, header: &RequestHeader) {
        // A server that folds `_` into `-`, or any other that reads one of these names, sees the agent's own values alone.
        let mut said: Vec<_> = identity(self.request.headers(), header);
        said.sort();
        let expected = match (&self.caller, self.face) {
            (Caller::Token | Caller::Anonymous, _) => Vec::new(),
            (Caller::Asserted(user), 1) => {
                assert_eq!(
                    (user.name(), user.groups()),
                    ("alice", &["dev".to_owned()][..])
                );
                let mut alice = vec![
                    (
                        fold(&header_of(&header.username_headers, "X-Remote-User")),
                        b"alice".to_vec(),
                    ),
                    (
                        fold(&header_of(&header.group_headers, "X-Remote-Group")),
                        b"dev".to_vec(),
                    ),
                ];
                alice.sort();
                alice
            }
            (Caller::FrontProxy(user), 2) => {
                let values = 1
                    + usize::from(!user.uid().is_empty())
                    + user
                        .groups()
                        .iter()
                        .filter(|group| !group.is_empty())
                        .count()
                    + user
                        .extra()
                        .iter()
                        .map(|(_, values)| values.len())
                        .sum::<usize>();
                assert_eq!(said.len(), values, "{said:?} for {user:?}");
                let name = user.name().as_bytes();
                assert!(said.iter().any(|(_, value)| value == name));
                said.clone()
            }
            (caller, face) => panic!("{caller:?} from a client of kind {face}"),
        };
        assert_eq!(said, expected);
        let named = |headers: &HeaderMap| {
            headers
                .keys()
                .any(|name| fold(name.as_str()) == "x-kubernetes-peer-proxied")
        };
        assert!(!named(self.request.headers()) && !named(&self.trailers));
        assert_eq!(identity(&self.trailers, header), [], "identity in trailers");
        let authorization = self.request.headers().contains_key(header::AUTHORIZATION);
        assert!(self.caller.user().is_none() || !authorization);
    }
}

/// The name that is sent: the standard one if it is listed, else the first.
fn header_of(listed: &[String], standard: &str) -> String {
    match listed
        .iter()
        .any(|name| name.eq_ignore_ascii_case(standard))
    {
        true => standard.to_owned(),
        false => listed.first().cloned().unwrap_or_default(),
    }
}

/// Every header from which some server could read a user.
fn identity(headers: &HeaderMap, header: &RequestHeader) -> Vec<(String, Vec<u8>)> {
    let exact = [
        &header.username_headers,
        &header.uid_headers,
        &header.group_headers,
    ];
    let found = headers.iter().filter(|(name, _)| {
        let name = fold(name.as_str());
        name.starts_with("x-remote-")
            || exact
                .iter()
                .copied()
                .flatten()
                .any(|known| fold(known) == name)
            || header
                .extra_header_prefixes
                .iter()
                .any(|prefix| name.starts_with(&fold(prefix)))
    });
    found
        .map(|(name, value)| (fold(name.as_str()), value.as_bytes().to_vec()))
        .collect()
}

fn fold(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// A server takes the request: nothing of it makes the server end the stream or the connection, for which it would be blamed.
async fn reaches_a_server(leaving: Leaving) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let service = service_fn(|_request: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let server = async {
        let _ = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(4 << 20)
            .serve_connection(TokioIo::new(far), service)
            .await;
    };
    let client = async {
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await;
        let Ok((mut sender, connection)) = handshake else {
            return;
        };
        let request = leaving.request.map(|()| Empty::<Bytes>::new());
        let shown = format!("{request:?}");
        let answer = async {
            let answer = sender.send_request(request).await;
            drop(sender);
            answer
        };
        let (answer, _) = tokio::join!(answer, connection);
        if let Err(error) = answer {
            let error = attempt_error(error);
            let verdict = error.ending.verdict();
            assert!(
                verdict.fault != Blame::Server && verdict.counts.is_none(),
                "a server would be blamed: {error}: {shown}"
            );
        }
    };
    tokio::join!(server, client);
}

#[cfg(test)]
#[path = "fuzz_tests.rs"]
mod tests;
