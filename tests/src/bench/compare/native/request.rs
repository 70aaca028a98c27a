//! One request on its way: authenticated, decided about, forwarded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{Either, Full};
use hyper::body::Incoming;

use super::known::Known;
use super::link::{Body, Link};
use crate::bench::target::SERVER_NAME;

pub(super) const PEER_PROXIED: HeaderName = HeaderName::from_static("x-kubernetes-peer-proxied");
const USER: HeaderName = HeaderName::from_static("x-remote-user");
const GROUP: HeaderName = HeaderName::from_static("x-remote-group");

pub(super) type Answer = Response<Either<Incoming, Full<Bytes>>>;

pub(super) struct Forwarder {
    pub(super) own: Link,
    pub(super) peers: Vec<Link>,
    pub(super) known: Known,
    pub(super) work: Duration,
    pub(super) wait: Duration,
}

/// Who a client is by its certificate.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Caller {
    pub(super) user: String,
    pub(super) groups: Vec<String>,
}

impl Forwarder {
    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        caller: Option<Arc<Caller>>,
    ) -> Answer {
        let second_hop = request.headers().contains_key(PEER_PROXIED);
        let to = match second_hop {
            true => None,
            false => self.other(request.uri().path()),
        };
        if second_hop || to.is_some() {
            spend(self.work);
        }
        if to.is_some() && !self.wait.is_zero() {
            let wait = self.wait;
            // tokio's timer counts in milliseconds.
            let _ = tokio::task::spawn_blocking(move || std::thread::sleep(wait)).await;
        }
        prepare(&mut request, caller.as_deref(), second_hop);
        if to.is_some() {
            let headers = request.headers_mut();
            headers.insert(PEER_PROXIED, HeaderValue::from_static("true"));
        }
        let link = to.and_then(|at| self.peers.get(at)).unwrap_or(&self.own);
        let request: Request<Body> = request.map(Either::Left);
        match link.send(request).await {
            Ok(response) => response.map(Either::Left),
            Err(error) => failed(&error),
        }
    }

    /// Which of the others answers it: one of those that serve it, in turns, if the own server does not.
    fn other(&self, path: &str) -> Option<usize> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let who = self.known.who(&kind(path)?)?;
        if who.is_empty() || who.contains(&0) {
            return None;
        }
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        Some(who[turn % who.len()] - 1)
    }
}

/// `GROUP/VERSION/RESOURCE` that a path is about, if it is in a group.
fn kind(path: &str) -> Option<String> {
    let mut parts = path.strip_prefix("/apis/")?.split('/');
    let (group, version) = (parts.next()?, parts.next()?);
    let resource = match parts.next()? {
        // `namespaces` is a resource in the group without a name alone.
        "namespaces" => parts.nth(1)?,
        resource => resource,
    };
    Some(format!("{group}/{version}/{resource}"))
}

/// Takes the time of this thread, as verifying and parsing do.
fn spend(work: Duration) {
    let until = Instant::now() + work;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// Makes it a request over HTTP/2 to another server, by whom it was sent. What came from another process like this says that already.
fn prepare(request: &mut Request<Incoming>, caller: Option<&Caller>, second_hop: bool) {
    *request.version_mut() = Version::HTTP_2;
    let path = request.uri().path_and_query().cloned();
    let parts = Uri::builder()
        .scheme("https")
        .authority(SERVER_NAME)
        .path_and_query(path.map_or_else(|| "/".into(), |path| path.to_string()));
    if let Ok(uri) = parts.build() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    for name in [CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    if second_hop {
        return;
    }
    headers.remove(USER);
    headers.remove(GROUP);
    let Some(caller) = caller else { return };
    if let Ok(user) = HeaderValue::from_str(&caller.user) {
        headers.insert(USER, user);
    }
    for group in &caller.groups {
        if let Ok(group) = HeaderValue::from_str(group) {
            headers.append(GROUP, group);
        }
    }
}

/// What the native proxy answers when the other server cannot be reached.
fn failed(error: &anyhow::Error) -> Answer {
    let text = format!("Error trying to reach service: {error:#}");
    let mut response = Response::new(Either::Right(Full::new(Bytes::from(text))));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_type() {
        for (path, expected) in [
            ("/apis/apps/v1/deployments", Some("apps/v1/deployments")),
            (
                "/apis/apps/v1/namespaces/a/deployments/b",
                Some("apps/v1/deployments"),
            ),
            (
                "/apis/apps/v1/deployments/b/status",
                Some("apps/v1/deployments"),
            ),
            ("/api/v1/namespaces/default", None),
            ("/apis/apps/v1", None),
            ("/apis", None),
            ("/version", None),
        ] {
            assert_eq!(kind(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn work_takes_its_time() {
        let begun = Instant::now();
        spend(Duration::from_millis(2));
        assert!(begun.elapsed() >= Duration::from_millis(2));
    }
}
