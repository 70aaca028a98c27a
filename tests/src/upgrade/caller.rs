//! One client as client-go makes it, which counts what becomes of its requests.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use serde_json::Value;

use super::outcome::WRITE;
use super::tally::Unanswered;
use super::{Kind, Tally};
use crate::fixtures::Events;
use crate::load::{Answer, Call, Client, Endpoint, Failure, Persistent, Reply, is_lost};
use crate::sim::{NUMBER, THINKS};

/// A client of one kind, whose requests are counted.
pub struct Caller {
    kind: Kind,
    /// A name that no other client has.
    name: String,
    client: Persistent,
    tally: Arc<Tally>,
    next: AtomicU64,
    /// What discovery has said so far.
    known: Mutex<BTreeSet<String>>,
}

const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
/// The type that only the new version serves, as [`types`] names it.
const NEW_TYPE: &str = "admissionregistration.k8s.io/v1/mutatingadmissionpolicies";

impl Caller {
    /// `name` is sent with every request, so that servers can say what they received of it.
    pub fn new(kind: Kind, name: String, endpoint: Endpoint, tally: &Arc<Tally>) -> Self {
        tally.with(kind, |seen| seen.connections += 1);
        Self {
            kind,
            name,
            client: Persistent::new(Client::new(endpoint, None)),
            tally: Arc::clone(tally),
            next: AtomicU64::new(0),
            known: Mutex::default(),
        }
    }

    /// What its requests are named after.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its kind's requests are counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// What kind of client it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the new type is there.
    pub fn has_news(&self) -> bool {
        self.tally.news.are_out()
    }

    /// A GET that is to be answered with 200.
    pub async fn get(&self, path: &str) -> Option<Reply> {
        self.call(Call::get(path)).await
    }

    /// The same, and the server thinks about it for so long.
    pub async fn get_slowly(&self, path: &str, thinks: Duration) -> Option<Reply> {
        let mut call = Call::get(path);
        let millis = HeaderValue::from(thinks.as_millis() as u64);
        call.headers.insert(HeaderName::from_static(THINKS), millis);
        self.call(call).await
    }

    /// Sends what is to be answered with a 2xx; counts all that is not. `None` if it was not.
    pub async fn call(&self, mut call: Call) -> Option<Reply> {
        let number = self.number(&mut call);
        let news = self.has_news();
        self.tally.with(self.kind, |seen| seen.requests += 1);
        let sent = self.client.send(&call).await;
        if sent.deferred > 0 {
            self.tally.with(self.kind, |seen| seen.deferred += 1);
        }
        if sent.lost > 0 {
            let answered_later = sent.outcome.is_ok();
            self.tally.with(self.kind, |seen| {
                seen.unanswered.push(Unanswered {
                    number: number.clone(),
                    answered_later,
                });
            });
        }
        self.judge(&call, &number, news, sent.outcome, sent.lost > 0)
    }

    fn judge(
        &self,
        call: &Call,
        number: &str,
        news: bool,
        result: Result<Reply, Failure>,
        ended: bool,
    ) -> Option<Reply> {
        let what = format!("{} {} {}", number, call.method, call.path);
        match result {
            Ok(reply) => match Answer::classify(reply.status, &reply.body) {
                Answer::Ok => return Some(reply),
                Answer::NoSuchType => self.tally.fail(
                    self.kind,
                    |seen| seen.false_404 += 1,
                    format!("{what}: false 404 (news when sent: {news})"),
                ),
                _ => {
                    let text = String::from_utf8_lossy(&reply.body).into_owned();
                    let what = format!("{what}: {} {text}", reply.status);
                    self.tally.fail(self.kind, |seen| seen.errors += 1, what);
                }
            },
            // It is counted as unanswered already.
            Err(failure) if ended => {
                self.tally
                    .fail(self.kind, |_| {}, format!("{what}: {failure}"));
            }
            Err(failure) => {
                let what = format!("{what}: {failure}");
                self.tally.fail(self.kind, |seen| seen.errors += 1, what);
            }
        }
        None
    }

    /// Reads discovery, and counts a document that has less than it must.
    pub async fn discover(&self) {
        let must_be_new = self.tally.news.are_old();
        let mut call = Call::get("/apis");
        call.headers
            .insert(header::ACCEPT, HeaderValue::from_static(DISCOVERY));
        let Some(reply) = self.call(call).await else {
            return;
        };
        let types = types(&serde_json::from_slice(&reply.body).unwrap_or_default());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = known.difference(&types).next().cloned();
        let lacks = must_be_new && !types.contains(NEW_TYPE);
        if gone.is_some() || lacks {
            let what = format!(
                "{}: discovery has {} types; gone: {gone:?}, lacks the new one: {lacks}",
                self.name,
                types.len()
            );
            self.tally.fail(self.kind, |seen| seen.shrunken += 1, what);
        }
        known.extend(types);
    }

    /// Opens a watch. `None` if it was refused or no connection could be made, which is counted.
    pub async fn watch(&self, target: &str) -> Option<Events> {
        let mut call = Call::get(target);
        let number = self.number(&mut call);
        let news = self.has_news();
        self.tally.with(self.kind, |seen| seen.requests += 1);
        match self.client.transport().open(&call).await {
            Ok(response) if response.status() == 200 => Events::of(response).ok(),
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body = http_body_util::BodyExt::collect(body).await;
                let body = body.map(|body| body.to_bytes()).unwrap_or_default();
                let reply = Reply {
                    status: head.status,
                    headers: head.headers,
                    body,
                };
                self.judge(&call, &number, news, Ok(reply), false);
                None
            }
            // Nothing of a watch is lost that was not open yet: its client opens it again.
            Err(failure) if is_lost(&failure) => {
                self.tally.with(self.kind, |seen| seen.watches_broken += 1);
                None
            }
            Err(failure) => {
                self.judge(&call, &number, news, Err(failure), false);
                None
            }
        }
    }

    fn number(&self, call: &mut Call) -> String {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let write = if call.method == Method::GET {
            ""
        } else {
            WRITE
        };
        let number = format!("{}-{next}{write}", self.name);
        if let Ok(value) = HeaderValue::from_str(&number) {
            call.headers.insert(HeaderName::from_static(NUMBER), value);
        }
        number
    }
}

/// `GROUP/VERSION/RESOURCE` of an aggregated discovery document.
pub(crate) fn types(document: &Value) -> BTreeSet<String> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut types = BTreeSet::new();
    for group in list(document, "items") {
        let name = group["metadata"]["name"].as_str().unwrap_or_default();
        for version in list(&group, "versions") {
            let version_name = version["version"].as_str().unwrap_or_default();
            for resource in list(&version, "resources") {
                let resource = resource["resource"].as_str().unwrap_or_default();
                types.insert(format!("{name}/{version_name}/{resource}"));
            }
        }
    }
    types
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::ONLY_36;

    #[test]
    fn the_new_type_is_named_as_discovery_names_it() {
        assert_eq!(format!("/apis/{NEW_TYPE}"), ONLY_36);
        let document = serde_json::json!({"items": [{"metadata": {"name": "admissionregistration.k8s.io"}, "versions": [
            {"version": "v1", "resources": [{"resource": "mutatingadmissionpolicies"}]},
        ]}]});
        assert!(types(&document).contains(NEW_TYPE));
    }
}
