//! Discovery and OpenAPI: one server is asked, with the client's own credentials, and may refuse; what it lets pass is answered
//! for the whole control plane. Requests for other paths do not come here. While all servers answer alike their answers pass; only the
//! local server's own document is not sent again where it is known.

mod accept;
mod answer;
mod ask;

pub use ask::{Preferred, Validators};

use std::sync::Arc;

use crate::api::{GroupVersion, Verb};
use crate::discovery::{OPENAPI_V3, View};
use crate::document::Root;
use crate::proxy::Shared;
use crate::proxy::error::ProxyError;
use crate::proxy::exchange::Exchange;
use crate::proxy::forward::{ServerAnswer, forward};
use crate::proxy::outgoing::Outgoing;
use crate::request::{PathClass, RequestInfo, classify};
use crate::route::{Reason, Server};
use ask::{Ask, having};

/// The document that a path names, if it is one that is merged.
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
    /// A document below it, with its path in the index: `apis/apps/v1`.
    OpenApiDocument(Box<str>),
    /// `/openapi/v2`, one document for everything.
    OpenApiV2,
}

/// Forwards a request for a path of discovery or OpenAPI, and answers it from the merged view where that is needed.
pub async fn answer(
    exchange: &mut Exchange<'_>,
    info: &RequestInfo<'_>,
    outgoing: &Outgoing<'_>,
) -> Result<ServerAnswer, ProxyError> {
    let shared = &exchange.thread().shared;
    let Some(question) = question(info, outgoing, shared) else {
        return forward(exchange, info, outgoing).await;
    };
    let view = shared.view.load_full();
    if question.is_of_openapi_v3() && question.differs(&view) {
        shared.discovery.openapi_settled().await;
    }
    let Some(ask) = Ask::new(question, outgoing, &view, shared) else {
        return forward(exchange, info, outgoing).await;
    };
    let answer = forward(exchange, info, &ask.outgoing(outgoing)).await?;
    if let Some(own) = &ask.own {
        return answer::confirmed(own, answer, outgoing, shared).await;
    }
    let view = match ask.is_news(&answer, &view) {
        // The server reports something that the view does not have yet, most likely a new CRD.
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

/// How a plain GET of this path is answered, beyond routing: [`Reason::DiscoveryMerged`] if the answer is replaced,
/// [`Reason::OpenApiNewest`] or [`Reason::OpenApiOnPeer`] with the servers that are tried instead. For `mvp explain`, which
/// knows no headers.
pub fn replaced(
    info: &RequestInfo<'_>,
    query: Option<&str>,
    shared: &Shared,
) -> Option<(Reason, Vec<Arc<Server>>)> {
    let view = shared.view.load_full();
    if info.is_resource || info.verb != Verb::Get {
        return None;
    }
    let question = of_path(&info.path)?;
    if !question.differs(&view) {
        return None;
    }
    match question {
        // What a legacy `/api` lists is not merged.
        Question::Root {
            root: Root::Core, ..
        } => None,
        Question::OpenApiDocument(path) => {
            let (servers, _) = having(&path, query, &shared.discovery);
            is_elsewhere(&servers).then_some((Reason::OpenApiOnPeer, servers))
        }
        Question::OpenApiV2 => {
            is_elsewhere(view.newest()).then(|| (Reason::OpenApiNewest, view.newest().to_vec()))
        }
        _ => Some((Reason::DiscoveryMerged, Vec::new())),
    }
}

impl Question {
    /// True if servers would answer it differently, or some not at all.
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
            Self::OpenApiIndex | Self::OpenApiDocument(_) | Self::OpenApiV2 => view.differs(),
        }
    }

    /// True if it is answered from the servers' OpenAPI indexes.
    fn is_of_openapi_v3(&self) -> bool {
        matches!(self, Self::OpenApiIndex | Self::OpenApiDocument(_))
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
            OPENAPI_V3 => Question::OpenApiIndex,
            "/openapi/v2" => Question::OpenApiV2,
            document => {
                let below = document.strip_prefix(OPENAPI_V3);
                Question::OpenApiDocument(below?.strip_prefix('/')?.into())
            }
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
        let document = |path: &str| Some(Question::OpenApiDocument(path.into()));
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
            ("/openapi/v3/apis/apps/v1", document("apis/apps/v1")),
            ("/openapi/v3/api/v1/", document("api/v1")),
            ("/openapi/v3/version", document("version")),
            ("/openapi/v2/apis", None),
            ("/openapi/v2", Some(Question::OpenApiV2)),
            ("/version", None),
            ("/healthz", None),
            ("/", None),
        ] {
            assert_eq!(of_path(path), want, "{path}");
        }
    }
}
