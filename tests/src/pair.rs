//! The pair runner: one request sent straight to a simulated server and once more through an agent, and what each of both gave.
//! What a client could see of either is compared whole: status, header fields, body, trailers, whether the connection goes on,
//! and what the servers received of it and how often.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};

use crate::agent::TestAgent;
use crate::client::{Answer, Client, TestBody};
use crate::sim::api::authn::User;
use crate::sim::pki::ClientAuth;
use crate::sim::store::Scope;
use crate::sim::{ControlPlane, Server};

/// Answer fields that differ between any two answers of one server, by time and place; and the one that marks an answer as the
/// agent's own.
const ANSWER_DIFFERS: [&str; 3] = ["date", "audit-id", "x-mvp-error"];
/// Request fields that a proxy must add or take away: identity, hop by hop, and who was asked for.
const REQUEST_DIFFERS: [&str; 10] = [
    "audit-id",
    "connection",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "x-forwarded-for",
    "x-kubernetes-peer-proxied",
    "expect",
];

/// How often a read is made for which nothing else was written meanwhile.
const TRIES: usize = 10;

/// The two protocols of kube-apiserver's clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2, chosen by ALPN.
    Http2,
}

/// One request of the table.
#[derive(Clone, Debug)]
pub struct Case {
    /// The request's method.
    pub method: Method,
    /// Path and query, sent exactly so.
    pub target: String,
    /// Header fields in this order, beside those that the protocol needs.
    pub headers: Vec<(String, String)>,
    /// The whole body; empty: the request has none.
    pub body: Bytes,
    /// Fields behind the body; `None`: there are none.
    pub trailers: Option<HeaderMap>,
    /// What the client shows in the TLS handshake.
    pub auth: ClientAuth,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The HTTP status.
    pub status: u16,
    /// By name in lower case, the values in their order.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The whole body; bytes that are no UTF-8 are replaced.
    pub body: String,
    /// By name in lower case, the values in their order.
    pub trailers: BTreeMap<String, Vec<String>>,
    /// Whether the next request on the same connection was answered.
    pub goes_on: bool,
    /// In the order of the servers, and of each the oldest first.
    pub received: Vec<Received>,
}

impl Outcome {
    /// Leaves the connection's fate out where the caller is not authenticated: a kube-apiserver ends such HTTP/2 connections, which
    /// the simulated one does only where a test asks for it, and the agent ends HTTP/1.1 ones after a 401 as well.
    fn unless_told_to_leave(&mut self, case: &Case) {
        let token = case
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let anonymous = matches!(case.auth, ClientAuth::None) && !token;
        if self.status == 401 || anonymous {
            self.headers.remove("connection");
            self.goes_on = true;
        }
    }
}

/// A request as a server received it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The method as it arrived.
    pub method: Method,
    /// Path and query as they arrived.
    pub target: String,
    /// By name in lower case, the values in their order.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Who the server took the caller for; `None`: nobody.
    pub user: Option<User>,
}

/// Servers, and where the two ways begin.
pub struct Pairs<'a> {
    /// All servers, for their logs of requests.
    pub plane: &'a ControlPlane,
    /// Where the direct way begins.
    pub server: &'a Server,
    /// Where the other way begins.
    pub agent: &'a TestAgent,
}

impl Protocol {
    /// Both, for tests that try each.
    pub const BOTH: [Self; 2] = [Self::Http1, Self::Http2];
}

impl Case {
    /// Without header fields and body.
    pub fn new(auth: &ClientAuth, method: Method, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
            trailers: None,
            auth: auth.clone(),
        }
    }

    /// A GET without header fields and body.
    pub fn get(auth: &ClientAuth, target: &str) -> Self {
        Self::new(auth, Method::GET, target)
    }

    /// Adds a field behind the others.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body and its `Content-Type`.
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    /// Sets the fields behind the body.
    pub fn trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target: String = self.target.chars().take(120).collect();
        write!(f, "{} {target} {:?}", self.method, self.headers)
    }
}

impl Pairs<'_> {
    /// The outcomes straight and through the agent. A list and the end of a watch name the store's revision, which goes on with what
    /// servers and agents write for themselves: a read during which that happened is made again.
    ///
    /// # Errors
    /// No connection, or no whole answer.
    pub async fn run(&self, case: &Case, protocol: Protocol) -> anyhow::Result<(Outcome, Outcome)> {
        let revision = || async {
            let scope = Scope::new("", "namespaces", "");
            let listed = self.plane.store().list(&scope).await;
            listed
                .map(|(_, now)| now)
                .map_err(|error| anyhow::anyhow!("{error:?}"))
        };
        let reads = matches!(case.method, Method::GET | Method::HEAD);
        for _ in 1..TRIES {
            let before = revision().await?;
            let outcomes = self.once(case, protocol).await?;
            if !reads || revision().await? == before {
                return Ok(outcomes);
            }
        }
        self.once(case, protocol).await
    }

    async fn once(&self, case: &Case, protocol: Protocol) -> anyhow::Result<(Outcome, Outcome)> {
        let straight = self.outcome(case, protocol, self.server.addr()).await;
        let straight = straight.with_context(|| format!("{case} straight over {protocol:?}"))?;
        let mut through = self.through(case, protocol).await?;
        // A server ends an HTTP/1.1 connection whose upload it did not read to its end. Whether that had come by then is chance.
        through.goes_on &= straight.goes_on;
        Ok((straight, through))
    }

    /// The outcome through the agent alone, for what no server can answer.
    ///
    /// # Errors
    /// No connection, or no whole answer.
    pub async fn through(&self, case: &Case, protocol: Protocol) -> anyhow::Result<Outcome> {
        let outcome = self.outcome(case, protocol, self.agent.address).await;
        outcome.with_context(|| format!("{case} through over {protocol:?}"))
    }

    /// Runs the case over both protocols.
    ///
    /// # Panics
    /// If the two ways differ, or if the server received it another number of times than `received`.
    pub async fn same(&self, case: &Case, status: u16, received: usize) {
        for protocol in Protocol::BOTH {
            let (mut straight, mut through) = self.run(case, protocol).await.unwrap();
            assert_eq!(straight.status, status, "{case} straight over {protocol:?}");
            straight.unless_told_to_leave(case);
            through.unless_told_to_leave(case);
            assert_eq!(through, straight, "{case} over {protocol:?}");
            assert_eq!(through.received.len(), received, "{case} over {protocol:?}");
        }
    }

    /// Runs a case that the agent refuses in the server's stead.
    ///
    /// # Panics
    /// If the client sees another answer than the server's, or if a server received the request through the agent.
    pub async fn refused(&self, case: &Case, status: u16) {
        for protocol in Protocol::BOTH {
            let (mut straight, mut through) = self.run(case, protocol).await.unwrap();
            assert_eq!(straight.status, status, "{case} straight over {protocol:?}");
            straight.unless_told_to_leave(case);
            through.unless_told_to_leave(case);
            straight.received.clear();
            assert_eq!(through, straight, "{case} over {protocol:?}");
        }
    }

    async fn outcome(
        &self,
        case: &Case,
        protocol: Protocol,
        address: SocketAddr,
    ) -> anyhow::Result<Outcome> {
        // The id that kube-apiserver keeps tells this request from the polls of the agent and from all others.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = format!("pair-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let tls = self.plane.pki().client_config(case.auth.clone(), &[])?;
        let client = match protocol {
            Protocol::Http1 => Client::http1(address, &tls.into()).await?,
            Protocol::Http2 => Client::http2(address, &tls.into()).await?,
        };
        let mut headers: Vec<(&str, &str)> = vec![("audit-id", &id)];
        headers.extend(case.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        let request = client.request(case.method.clone(), &case.target, &headers, body(case))?;
        let answer = Answer::read(client.send(request).await?).await?;
        let goes_on = client.get("/readyz", &[]).await.is_ok();
        let mut received = Vec::new();
        for server in self.plane.servers() {
            for request in server.requests() {
                if request
                    .headers
                    .get("audit-id")
                    .is_some_and(|v| v == id.as_str())
                {
                    received.push(Received {
                        method: request.method.clone(),
                        target: request.target.clone(),
                        headers: fields(&request.headers, |name| {
                            REQUEST_DIFFERS.contains(&name) || name.starts_with("x-remote-")
                        }),
                        user: request.user.clone(),
                    });
                }
            }
        }
        Ok(Outcome {
            status: answer.status.as_u16(),
            headers: fields(&answer.headers, |name| ANSWER_DIFFERS.contains(&name)),
            body: answer.text(),
            trailers: fields(&answer.trailers.unwrap_or_default(), |_| false),
            goes_on,
            received,
        })
    }
}

fn body(case: &Case) -> TestBody {
    match &case.trailers {
        None => crate::client::full(case.body.clone()),
        Some(trailers) => {
            let frames = [
                Ok(Frame::data(case.body.clone())),
                Ok(Frame::trailers(trailers.clone())),
            ];
            StreamBody::new(futures_util::stream::iter(frames)).boxed()
        }
    }
}

fn fields(headers: &HeaderMap, leave_out: impl Fn(&str) -> bool) -> BTreeMap<String, Vec<String>> {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| !leave_out(name.as_str())) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        fields.entry(name.to_string()).or_default().push(value);
    }
    fields
}
