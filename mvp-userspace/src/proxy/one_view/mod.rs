//! Discovery and OpenAPI: one server is asked, with the client's own credentials, and may refuse; what it lets pass is answered
//! for the whole control plane. Requests for other paths do not come here, and nothing is done while all servers answer alike.

mod accept;
mod answer;
mod ask;

pub use ask::{Preferred, Validators};

use std::sync::Arc;

use crate::api::{GroupVersion, Verb};
use crate::discovery::View;
use crate::document::Root;
use crate::proxy::Shared;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{Answer, forward};
use crate::proxy::outgoing::Outgoing;
use crate::request::{PathClass, RequestInfo, classify};
use crate::route::{Reason, Server};
use ask::Ask;

/// What a path asks for, of what is merged.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Question {
    /// `/api` or `/apis`. Only without a slash at the end they have an aggregated form.
    Root {
        root: Root,
        aggregated: bool,
    },
    Group(Box<str>),
    GroupVersion(GroupVersion),
    /// `/openapi/v3`.
    OpenApiIndex,
    /// A document below it.
    OpenApiDocument,
    /// `/openapi/v2`, one document for everything.
    OpenApiV2,
}

/// Forwards a request for a path of discovery or OpenAPI, and answers it from the merged view where that is needed.
pub async fn answer(
    exchange: &mut Exchange<'_>,
    info: &RequestInfo<'_>,
    outgoing: &Outgoing<'_>,
) -> Result<Answer, ProxyError> {
    let shared = &exchange.thread().shared;
    let Some(question) = question(info, outgoing, shared) else {
        return forward(exchange, info, outgoing).await;
    };
    let view = shared.view.load_full();
    let Some(ask) = Ask::new(question, outgoing, &view, shared) else {
        return forward(exchange, info, outgoing).await;
    };
    let answer = forward(exchange, info, &ask.outgoing(outgoing)).await?;
    let view = match ask.is_news(&answer, &view) {
        // The server tells something that the view does not have yet: a new CRD, most likely.
        true => {
            shared.discovery.refresh().await;
            shared.discovery.view_settled().await;
            shared.view.load_full()
        }
        false => view,
    };
    if ask.is_settled(&view) {
        // Servers have come to agree since it was asked, and it was not asked with what the client has.
        return forward(exchange, info, outgoing).await;
    }
    answer::from_view(&ask, answer, &view, outgoing, shared).await
}

/// What becomes of a plain GET of this path, beyond routing: [`Reason::DiscoveryMerged`] if the answer is replaced,
/// [`Reason::OpenApiNewest`] with the servers that are asked instead. For `mvp explain`, which knows no headers.
pub fn replaced(info: &RequestInfo<'_>, view: &View) -> Option<(Reason, Vec<Arc<Server>>)> {
    if info.is_resource || info.verb != Verb::Get {
        return None;
    }
    let question = of_path(&info.path)?;
    if !question.differs(view) {
        return None;
    }
    match question {
        // What a legacy `/api` lists is not merged, and what a document's hash names is not known here.
        Question::Root {
            root: Root::Core, ..
        }
        | Question::OpenApiDocument => None,
        Question::OpenApiV2 => {
            is_elsewhere(view.newest()).then(|| (Reason::OpenApiNewest, view.newest().to_vec()))
        }
        _ => Some((Reason::DiscoveryMerged, Vec::new())),
    }
}

impl Question {
    /// True if servers would answer it differently, or not all of them at all.
    fn differs(&self, view: &View) -> bool {
        let merged = |group: &str| view.root_of(group).merged.as_ref();
        match self {
            Self::Root { root, .. } => view.root(*root).merged.is_some(),
            Self::Group(group) => {
                merged(group).is_some_and(|merged| merged.differs_in_group(group))
            }
            Self::GroupVersion(GroupVersion { group, version }) => {
                merged(group).is_some_and(|merged| merged.differs_in(group, version))
            }
            Self::OpenApiIndex | Self::OpenApiDocument | Self::OpenApiV2 => view.differs(),
        }
    }
}

/// True if there are such servers, and none of them is a local one that may answer anyway.
fn is_elsewhere(servers: &[Arc<Server>]) -> bool {
    !servers.is_empty()
        && !servers
            .iter()
            .any(|server| server.local && server.available())
}

fn question(
    info: &RequestInfo<'_>,
    outgoing: &Outgoing<'_>,
    shared: &Arc<Shared>,
) -> Option<Question> {
    let reads = matches!(*outgoing.method, http::Method::GET | http::Method::HEAD);
    let alone = outgoing.admitted.is_hop_marked() || !shared.interoperability;
    if info.is_resource || !reads || alone || outgoing.upgrade.is_some() {
        return None;
    }
    of_path(&info.path)
}

fn of_path(path: &str) -> Option<Question> {
    let slash = path.ends_with('/');
    Some(match classify(path) {
        PathClass::Discovery {
            group: "",
            version: "",
        } => Question::Root {
            root: match path.starts_with("/apis") {
                true => Root::Groups,
                false => Root::Core,
            },
            aggregated: !slash,
        },
        PathClass::Discovery { group, version: "" } => Question::Group(group.into()),
        PathClass::Discovery { group, version } => Question::GroupVersion(GroupVersion {
            group: group.into(),
            version: version.into(),
        }),
        PathClass::OpenApi { .. } => match path.trim_end_matches('/') {
            "/openapi/v3" => Question::OpenApiIndex,
            "/openapi/v2" => Question::OpenApiV2,
            _ => Question::OpenApiDocument,
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_are_merged() {
        let root = |root, aggregated| Some(Question::Root { root, aggregated });
        let version = |group: &str, version: &str| {
            Some(Question::GroupVersion(GroupVersion {
                group: group.into(),
                version: version.into(),
            }))
        };
        for (path, want) in [
            ("/api", root(Root::Core, true)),
            ("/api/", root(Root::Core, false)),
            ("/apis", root(Root::Groups, true)),
            ("/apis/", root(Root::Groups, false)),
            ("/apis/apps", Some(Question::Group("apps".into()))),
            ("/apis/apps/", Some(Question::Group("apps".into()))),
            ("/apis/apps/v1", version("apps", "v1")),
            ("/api/v1/", version("", "v1")),
            ("/openapi/v3", Some(Question::OpenApiIndex)),
            ("/openapi/v3/", Some(Question::OpenApiIndex)),
            ("/openapi/v3/apis/apps/v1", Some(Question::OpenApiDocument)),
            ("/openapi/v2", Some(Question::OpenApiV2)),
            ("/version", None),
            ("/healthz", None),
            ("/", None),
        ] {
            assert_eq!(of_path(path), want, "{path}");
        }
    }
}
