//! From a parsed request to the head of a server's answer: the servers of its plan are tried in turn, as far as that is safe.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use super::blame::{ClientAnswer, Ending, Retry};
use super::checkout::Lease;
use super::error::{AttemptError, ProxyError};
use super::exchange::Exchange;
use super::first_proof::first_proof;
use super::interpret::{is_no_such_type, may_mean_the_type, read_short};
use super::newer::{self, ask_newer, may_refuse};
use super::one_view::Preferred;
use super::outgoing::{Outgoing, UpstreamRequest};
use super::rides::Asking;
use super::trace::Trace;
use super::upgrade::connect_for_upgrade;
use super::wire_body::WireBody;
use super::{Shared, Worker};
use crate::request::{PathClass, RequestInfo, classify};
use crate::route::{
    Context, Plan, Reason, RouteTable, Server, ServerSet, Tried, UnknownVerdict, plan,
    verdict_unknown,
};

/// The most attempts for one request, over all servers. A control plane has 3 to 7 servers, and one that failed is not tried
/// again.
const ATTEMPTS: u32 = 6;

/// The head of an answer, and who gave it.
pub struct ServerAnswer {
    pub body: AnswerBody,
    pub head: http::response::Parts,
    pub server: Arc<Server>,
    /// The address of the server's end of the connection.
    pub address: SocketAddr,
    pub reason: Reason,
}

pub enum AnswerBody {
    Streaming(WireBody, Lease),
    /// Read already, to see which 404 it is.
    Whole(Bytes),
    /// Read in part, which was more than such a 404 has.
    Begun(Bytes, WireBody, Lease),
}

/// Forwards one request. The trace of its exchange is filled in as attempts are made.
pub(super) async fn forward(
    exchange: &mut Exchange<'_>,
    info: &RequestInfo<'_>,
    outgoing: &Outgoing<'_>,
) -> Result<ServerAnswer, ProxyError> {
    let thread = exchange.thread();
    let shared = &thread.shared;
    let trace = &mut exchange.trace;
    let context = Context {
        hop_marked: outgoing.admitted.is_hop_marked(),
        interoperability: shared.interoperability,
        class: outgoing.admitted.class(),
    };
    let mut tried = Tried::default();
    // Whether all servers answered a refresh for this request; `None`: there was none.
    let mut refreshed = None;
    // Boxed, since most requests have none.
    let mut last_error: Option<Box<ProxyError>> = None;
    loop {
        let table = shared.table.load_full();
        let next = plan_of(info, outgoing, &table, context).next(tried.of(&table));
        let (server, reason) = match next {
            Some(next) => next,
            // A capable server is known and is not available. It may have come back since it was last probed: all are queried
            // before the request fails.
            None if refreshed.is_none() && last_error.is_none() => {
                Box::pin(first_proof(shared, context.class)).await;
                refreshed = Some(refresh(shared).await);
                continue;
            }
            // What happened says more than "nobody is left".
            None => {
                let nobody = || ProxyError::NoCapableServer {
                    key: describe(info),
                };
                return Err(last_error.map_or_else(nobody, |error| *error));
            }
        };
        let answer = match attempt(thread, &server, reason, outgoing, info, trace).await {
            Ok(answer) => answer,
            Err(error) => {
                // A stream that the client's own broken upload ended looks as if the server had; it is not to blame.
                let error = match outgoing.upload.has_failed() {
                    true => AttemptError::bare(Ending::UploadBroken),
                    false => error,
                };
                let verdict = error.ending.verdict();
                if let Some(failure) = verdict.counts {
                    server.failed(failure);
                }
                let again = may_retry(verdict.retry, outgoing) && trace.attempts < ATTEMPTS;
                if again {
                    shared.metrics.retry(verdict.reason);
                }
                // A server that only moves its clients to new connections is tried again. One that keeps refusing is left if
                // there is another.
                let others_than = tried.of(&table).union(table.set_of(&server));
                let another = || plan(info, &table, context).next(others_than).is_some();
                let keeps_refusing = || trace.attempts >= ATTEMPTS / 2 && another();
                if !error.ending.asks_to_come_again() || keeps_refusing() {
                    tried.add(&server);
                }
                let error = proxy_error(&server, info, error, outgoing);
                if !again {
                    return Err(error);
                }
                last_error = Some(Box::new(error));
                continue;
            }
        };
        server.succeeded();
        if !is_no_such_type(&answer) {
            // It was read only to see whether its server is too old for an option of the query.
            if !matches!(answer.body, AnswerBody::Whole(_)) {
                return Ok(answer);
            }
            // Boxed with the answer in it, which would otherwise have room of its own beside an attempt's.
            let mut first = Box::new(answer);
            let asked = (info, outgoing);
            Box::pin(ask_newer(thread, asked, &table, &mut first, trace)).await;
            return Ok(*first);
        }
        // The server does not know the type. All servers are queried once more before a client may conclude anything from it;
        // this is done once for all requests, until something is learned that could change the answer.
        let heard = shared.discovery.state_of_knowledge();
        let remembered = refreshed.is_none()
            && shared.unknowns.holds(info.key(), heard, Instant::now())
            && shared.discovery.all_connected();
        let complete = match refreshed {
            Some(complete) => complete,
            None if remembered => true,
            None => Box::pin(refresh(shared)).await,
        };
        refreshed = Some(complete);
        let before = table;
        let table = shared.table.load_full();
        // Unless it has just come to serve the type: then its own 404 was the last one.
        if lists(&before, &server, info) || !lists(&table, &server, info) {
            tried.add(&server);
        }
        let others = table
            .lookup(info.key())
            .map_or(ServerSet::EMPTY, |entry| entry.servers())
            .union(table.published(info.key()))
            .difference(tried.of(&table));
        if others.is_empty() || trace.attempts >= ATTEMPTS {
            return match verdict_unknown(&table) {
                UnknownVerdict::NotFound if complete => {
                    let now = shared.discovery.state_of_knowledge();
                    // Nothing was learned while the servers were queried, and the verdict follows from their last answers.
                    if !remembered && now == (table.generation(), heard.1) {
                        shared.unknowns.remember(info.key(), now, Instant::now());
                    }
                    Ok(answer)
                }
                // Confirmed a moment ago is not enough: a type may have come since, and this was the time to hear of it.
                UnknownVerdict::NotFound => Err(ProxyError::Unanswered {
                    key: info.key().to_string(),
                }),
                UnknownVerdict::Unavailable { server } => Err(ProxyError::Unconfirmed {
                    key: info.key().to_string(),
                    server: server.to_string(),
                }),
            };
        }
        if !outgoing.upload.is_replayable() {
            return Err(ProxyError::NoCapableServer {
                key: info.key().to_string(),
            });
        }
        last_error = Some(Box::new(ProxyError::NoCapableServer {
            key: info.key().to_string(),
        }));
    }
}

/// Has every server queried; true if all answered in time.
async fn refresh(shared: &Shared) -> bool {
    let complete = Box::pin(shared.discovery.refresh()).await.complete;
    shared.metrics.refresh(match complete {
        true => "complete",
        false => "incomplete",
    });
    complete
}

/// The plan by what is known now.
fn plan_of<'a>(
    info: &'a RequestInfo<'a>,
    outgoing: &Outgoing<'_>,
    table: &'a RouteTable,
    context: Context,
) -> Plan<'a> {
    let plan = plan(info, table, context);
    match outgoing.preferred {
        Some(Preferred { servers, reason }) => plan.preferring(servers, *reason),
        None => plan,
    }
}

pub(super) async fn attempt(
    thread: &Worker,
    server: &Arc<Server>,
    reason: Reason,
    outgoing: &Outgoing<'_>,
    info: &RequestInfo<'_>,
    trace: &mut Trace,
) -> Result<ServerAnswer, AttemptError> {
    trace.ask(server, reason);
    // Whichever server was chosen, and for whatever reason: nothing is sent to one that is not proved.
    if !server.proved(outgoing.admitted.class()) {
        return Err(AttemptError::bare(Ending::Unproved));
    }
    let answer = {
        // Pinned here and lent: an async block that is moved into another is copied with all that it has room for.
        let mut answer = pin!(ask(thread, server, reason, outgoing, info, trace));
        if info.is_long_running() {
            answer.await
        } else {
            tokio::time::timeout(thread.shared.response_timeout.get(), answer.as_mut())
                .await
                .unwrap_or(Err(AttemptError::bare(Ending::NoAnswer)))
        }
    };
    trace.ended();
    answer
}

/// Sends the request to this server, and waits for the head of its answer.
async fn ask(
    thread: &Worker,
    server: &Arc<Server>,
    reason: Reason,
    outgoing: &Outgoing<'_>,
    info: &RequestInfo<'_>,
    trace: &mut Trace,
) -> Result<ServerAnswer, AttemptError> {
    let credentials = outgoing.admitted.credentials();
    let (response, mut lease) = if let Some(protocol) = outgoing.upgrade {
        let tunnels = &thread.shared.tunnels;
        let class = credentials.class();
        let connection =
            Box::pin(connect_for_upgrade(&thread.pool, server, class, tunnels)).await?;
        let request = UpstreamRequest::new(outgoing, server, http::Version::HTTP_11, None)?;
        trace.sent();
        Box::pin(connection.send(request, protocol.clone())).await?
    } else {
        let checkout = thread
            .pool
            .checkout_for(
                server,
                Asking {
                    credentials,
                    address: outgoing.client,
                    fields: outgoing.admitted.headers(),
                    rides: (trace.attempts <= 1).then_some(outgoing.rides),
                },
                !outgoing.upload.is_empty(),
            )
            .await?;
        let (version, upload) = (checkout.version(), checkout.upload());
        let request = UpstreamRequest::new(outgoing, server, version, upload)?;
        trace.sent();
        checkout.send(request).await?
    };
    let status = response.status();
    thread
        .pool
        .answered(server, credentials, status, &mut lease);
    let (head, body) = response.into_parts();
    let answer = ServerAnswer {
        address: lease.address,
        body: AnswerBody::Streaming(body, lease),
        head,
        server: Arc::clone(server),
        reason,
    };
    if !is_doubted(&thread.shared, info, outgoing, &answer) {
        return Ok(answer);
    }
    Box::pin(read_short(answer, outgoing.method)).await
}

/// Whether an answer is to be read before it is passed on: by what is known now, not by what was known when its server was chosen.
fn is_doubted(
    shared: &Shared,
    info: &RequestInfo<'_>,
    outgoing: &Outgoing<'_>,
    answer: &ServerAnswer,
) -> bool {
    if outgoing.admitted.is_hop_marked() || !shared.interoperability {
        return false;
    }
    match answer.head.status {
        StatusCode::NOT_FOUND => {
            info.is_resource && may_mean_the_type(info, &shared.table.load(), &answer.server)
        }
        status => may_refuse(status, newer::options(info, outgoing)),
    }
}

/// Whether another attempt is safe: the table of `blame`, as far as the body can be sent again.
fn may_retry(retry: Retry, outgoing: &Outgoing<'_>) -> bool {
    outgoing.upload.is_replayable() && repeatable(retry, outgoing)
}

/// Whether the request may be sent again, by the agent or by the client: no server acted on it, or it is a read.
fn repeatable(retry: Retry, outgoing: &Outgoing<'_>) -> bool {
    match retry {
        Retry::Never => false,
        Retry::Always => true,
        Retry::Reads => {
            matches!(*outgoing.method, Method::GET | Method::HEAD) && outgoing.upgrade.is_none()
        }
    }
}

fn proxy_error(
    server: &Server,
    info: &RequestInfo<'_>,
    attempt: AttemptError,
    outgoing: &Outgoing<'_>,
) -> ProxyError {
    let repeatable = repeatable(attempt.ending.verdict().retry, outgoing);
    let (local, name) = (server.local, server.name.to_string());
    let probe = !info.is_resource && classify(&info.path) == PathClass::Probe;
    match attempt.ending.verdict().answer {
        ClientAnswer::Timeout => ProxyError::Timeout {
            server: name,
            local,
        },
        ClientAnswer::BadRequest if attempt.ending == Ending::UploadBroken => {
            ProxyError::BadRequest("the request's body broke off")
        }
        ClientAnswer::BadRequest => ProxyError::Rejected {
            server: name,
            attempt,
        },
        ClientAnswer::AgentUnavailable => ProxyError::Agent {
            server: name,
            local,
            attempt,
            repeatable,
        },
        ClientAnswer::Answer | ClientAnswer::Nothing | ClientAnswer::Unavailable
            if local && probe =>
        {
            ProxyError::LocalOnly {
                server: name,
                attempt,
            }
        }
        ClientAnswer::Answer | ClientAnswer::Nothing | ClientAnswer::Unavailable => {
            ProxyError::Upstream {
                server: name,
                local,
                attempt,
                repeatable,
            }
        }
    }
}

fn lists(table: &RouteTable, server: &Arc<Server>, info: &RequestInfo<'_>) -> bool {
    table.lookup(info.key()).is_some_and(|entry| {
        !entry
            .servers()
            .intersection(table.set_of(server))
            .is_empty()
    })
}

fn describe(info: &RequestInfo<'_>) -> String {
    if info.is_resource {
        info.key().to_string()
    } else {
        info.path.to_string()
    }
}

impl ServerAnswer {
    /// The body, as far as it was read.
    pub fn whole(&self) -> &[u8] {
        match &self.body {
            AnswerBody::Whole(bytes) => bytes,
            AnswerBody::Streaming(..) | AnswerBody::Begun(..) => &[],
        }
    }

    /// Whether the answer changes the protocol, and goes to the client as it came.
    pub fn is_upgrade(&self) -> bool {
        self.head.status == StatusCode::SWITCHING_PROTOCOLS
    }

    /// The response as hyper made it, for a tunnel.
    pub fn into_upgrade(self) -> Option<(Response<WireBody>, Lease)> {
        match self.body {
            AnswerBody::Streaming(body, lease) => {
                Some((Response::from_parts(self.head, body), lease))
            }
            AnswerBody::Whole(_) | AnswerBody::Begun(..) => None,
        }
    }
}
