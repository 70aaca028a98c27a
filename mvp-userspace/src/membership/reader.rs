//! By which way the objects that say who is a member are read, and the agents' Lease is read and written: as `system:mvp` over the front-proxy pair, with the rights in
//! `deploy/rbac.yaml` and no others. An administrator's kubeconfig, or a pod's service account, is the fallback, and the status says
//! when it is used.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kube::Client;
use kube::client::Body as KubeBody;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};

use crate::config::Endpoint;
use crate::discovery::{Dialer, DiscoveryConnection, FetchError};
use crate::route::Departures;

type Error = Box<dyn std::error::Error + Send + Sync>;
type AnyBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Error>;

/// A quiet watch is ended by the server sooner (see `kubernetes.rs`); what is silent for longer is dead.
const SILENT: Duration = Duration::from_secs(40);

/// Problems that are logged between two successes; there are more only if they have something in them that changes.
const MAX_PROBLEMS: usize = 16;

/// By which way something was read last, in one line for the status. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReadBy {
    /// `None`: the log says nothing of it.
    what: Option<&'static str>,
    lines: Arc<Mutex<Lines>>,
}

#[derive(Debug, Default)]
struct Lines {
    now: String,
    /// Problems logged since it was last read. Several objects are read, each with a problem of its own, again and again.
    logged: BTreeSet<String>,
}

/// Everything that a request may go by.
#[derive(Clone)]
pub struct Reader {
    /// `None`: there is no front-proxy pair.
    pub dialer: Option<Dialer>,
    /// The kube-apiserver of this node, which is asked first.
    pub local: Endpoint,
    /// The servers that are asked when the local one does not answer. A sender, so that its writer still notices when nobody reads it.
    pub members: watch::Sender<Arc<Vec<Endpoint>>>,
    /// What it is, for the status, and a client with it.
    pub fallback: Option<(String, Client)>,
    /// Where it is noted which way worked.
    pub read_by: ReadBy,
    /// Which servers are about to stop: they would wait for the watches of this reader.
    pub departures: Departures,
}

impl ReadBy {
    /// The facts about `what`, which is its name in the log.
    pub fn of(what: &'static str) -> Self {
        Self {
            what: Some(what),
            lines: Arc::default(),
        }
    }

    /// For facts that are logged by their user, and not here.
    fn silent() -> Self {
        Self {
            what: None,
            lines: Arc::default(),
        }
    }

    /// An empty text means that nothing was read yet.
    pub fn get(&self) -> String {
        self.lock().now.clone()
    }

    /// It was read.
    fn read(&self, line: String) {
        let mut lines = self.lock();
        lines.logged.clear();
        if lines.now != line {
            self.log(&line);
            lines.now = line;
        }
    }

    /// It could not be read.
    fn unread(&self, line: String) {
        let mut lines = self.lock();
        if lines.logged.len() < MAX_PROBLEMS && lines.logged.insert(line.clone()) {
            self.log(&line);
        }
        lines.now = line;
    }

    fn log(&self, line: &str) {
        if let Some(what) = self.what {
            tracing::info!("{what} is read {line}");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, which may be sent to several servers in turn.
struct Asked {
    method: Method,
    path: String,
    /// The type of the body that is sent; `None`: there is no body.
    content_type: Option<HeaderValue>,
    body: Bytes,
}

impl Asked {
    /// Over a new connection to this server. The answer's head is here when it returns.
    async fn of(
        &self,
        dialer: &Dialer,
        endpoint: &Endpoint,
    ) -> Result<(DiscoveryConnection, Response<Incoming>), FetchError> {
        let connection = DiscoveryConnection::open(dialer, endpoint).await?;
        let response = match &self.content_type {
            None => connection.stream(&self.path, "application/json").await?,
            Some(media_type) => {
                let (method, body) = (self.method.clone(), self.body.clone());
                let media_type = media_type.clone();
                connection
                    .send(method, &self.path, media_type, body)
                    .await?
            }
        };
        Ok((connection, response))
    }
}

impl Reader {
    /// The same way for something that nothing depends on: as `system:mvp` or not at all, and without a word in status and log.
    pub fn apart(&self) -> Self {
        Self {
            fallback: None,
            read_by: ReadBy::silent(),
            ..self.clone()
        }
    }

    /// For kube's watchers, and for what may be sent twice: merge patches, and objects that have a name already.
    pub fn client(self) -> Client {
        Client::new(self, "default")
    }

    async fn answer(self, request: Request<KubeBody>) -> Result<Response<AnyBody>, Error> {
        let (head, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let path = head.uri.path_and_query().map(|path| path.as_str());
        let asked = Asked {
            method: head.method.clone(),
            path: path.unwrap_or_default().to_owned(),
            content_type: match head.method {
                Method::GET => None,
                _ => head.headers.get(CONTENT_TYPE).cloned(),
            },
            body: body.clone(),
        };
        let why = match self.by_front_proxy(&asked).await {
            Ok(response) => return Ok(response),
            Err(why) => why,
        };
        let Some((name, client)) = self.fallback else {
            self.read_by.unread(format!("by no way: {}", why.text()));
            return match why {
                Refusal::Answer(response, _) => Ok(response),
                Refusal::None(text) => Err(text.into()),
            };
        };
        let request = Request::from_parts(head, KubeBody::from(body));
        let (head, body) = client.send(request).await?.into_parts();
        self.read_by
            .read(format!("with {name}, since {}", why.text()));
        Ok(Response::from_parts(
            head,
            body.map_err(Into::into).boxed_unsync(),
        ))
    }

    /// The first server that answers, the local one before the others, and those that are about to stop after all.
    async fn by_front_proxy(&self, asked: &Asked) -> Result<Response<AnyBody>, Refusal> {
        let Some(dialer) = &self.dialer else {
            return Err(Refusal::None(
                "there is no front-proxy pair (upstream.clientCertFile)".into(),
            ));
        };
        let others = self.members.borrow().clone();
        let others = others
            .iter()
            .filter(|other| !other.same_address(&self.local));
        let mut problem = String::new();
        let mut refused = None;
        let leaving = |endpoint: &&Endpoint| self.departures.of(endpoint).is_leaving();
        let (last, first): (Vec<_>, Vec<_>) =
            [&self.local].into_iter().chain(others).partition(leaving);
        for endpoint in first.into_iter().chain(last) {
            let name = &endpoint.name;
            let stops = self.departures.of(endpoint).next();
            match asked.of(dialer, endpoint).await {
                Ok((connection, response)) => {
                    let status = response.status();
                    let (head, body) = response.into_parts();
                    let body = Held::new(body, connection, stops).boxed_unsync();
                    let response = Response::from_parts(head, body);
                    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                        let what = asked.path.split('?').next().unwrap_or_default();
                        let why = format!(
                            "{name} answered {} for {} {what} to system:mvp (deploy/rbac.yaml grants it)",
                            status.as_u16(),
                            asked.method
                        );
                        let refusal = Refusal::Answer(response, why);
                        // A server that does not accept the pair speaks for itself only; rights are those of the cluster.
                        if status == StatusCode::FORBIDDEN {
                            return Err(refusal);
                        }
                        refused.get_or_insert(refusal);
                        continue;
                    }
                    self.read_by.read(format!("as system:mvp through {name}"));
                    return Ok(response);
                }
                Err(error) => problem = format!("{name}: {error}"),
            }
        }
        Err(refused.unwrap_or(Refusal::None(problem)))
    }
}

/// Why the front-proxy pair was of no use.
enum Refusal {
    Answer(Response<AnyBody>, String),
    None(String),
}

impl Refusal {
    fn text(&self) -> &str {
        match self {
            Self::Answer(_, why) | Self::None(why) => why,
        }
    }
}

impl tower_service::Service<Request<KubeBody>> for Reader {
    type Response = Response<AnyBody>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

/// A body that keeps its connection. It ends when its server begins to stop, as if the server had ended the watch, and with an error
/// when nothing has come for too long.
struct Held {
    body: Incoming,
    silence: Pin<Box<Sleep>>,
    stops: Pin<Box<dyn Future<Output = ()> + Send>>,
    _connection: DiscoveryConnection,
}

impl Held {
    fn new(
        body: Incoming,
        connection: DiscoveryConnection,
        stops: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self {
            body,
            silence: Box::pin(sleep(SILENT)),
            stops: Box::pin(stops),
            _connection: connection,
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.silence.as_mut().reset(Instant::now() + SILENT);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if self.stops.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match self.silence.as_mut().poll(cx) {
            Poll::Ready(()) => {
                let error = format!("nothing came for {SILENT:?}");
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}
