//! The request as the server receives it, so that its answer is short and has a form that can be replaced.

use std::sync::Arc;

use http::header::{ACCEPT, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Method};

use crate::discovery::{DiscoveryHandle, OwnDocument, View, find};
use crate::document::{Form, Layout, Media, Root};
use crate::identity::{Admitted, Wish};
use crate::proxy::Shared;
use crate::proxy::forward::ServerAnswer;
use crate::proxy::one_view::accept::{Choice, negotiate};
use crate::proxy::one_view::answer::layout;
use crate::proxy::one_view::{Question, is_elsewhere};
use crate::proxy::outgoing::Outgoing;
use crate::route::{Reason, Server};

/// A request that is answered from the knowledge of more than one server.
pub(super) struct Ask {
    pub question: Question,
    /// `None` for OpenAPI, which has its own media types.
    pub choice: Option<Choice>,
    admitted: Admitted<'static>,
    validators: Option<Validators>,
    preferred: Option<Preferred>,
    /// Set where all servers answer alike: what the server is asked to confirm instead of sending it.
    pub own: Option<Arc<OwnDocument>>,
}

/// By which ETag each server's own document was last known. It is sent to the server instead of the ETag of the merged
/// document, which the client has.
#[derive(Clone)]
pub struct Validators {
    view: Arc<View>,
    root: Root,
    form: Form,
}

/// Servers that are tried before others, for a reason other than that they serve a resource.
#[derive(Clone)]
pub struct Preferred {
    /// In the order in which they are tried.
    pub servers: Vec<Arc<Server>>,
    /// What the metrics and the log say about a request that goes there.
    pub reason: Reason,
}

impl Ask {
    /// `None`: the server's own answer is the right one.
    pub(super) fn new(
        question: Question,
        outgoing: &Outgoing<'_>,
        view: &Arc<View>,
        shared: &Shared,
    ) -> Option<Self> {
        let differs = question.differs(view);
        let client = outgoing.admitted;
        let (mut choice, mut validators, mut preferred) = (None, None, None);
        let wishes: Vec<(Wish, Option<HeaderValue>)> = match &question {
            Question::Root { root, aggregated } => {
                // The aggregator serves `/apis` itself.
                let routed = *root == Root::Core;
                let chosen = negotiate(client.headers(), *aggregated, routed);
                if chosen.is_some_and(|choice| choice.nopeer) {
                    shared.metrics.nopeer_request();
                    return None;
                }
                let chosen = chosen?;
                if !differs {
                    let own = view.root(*root).own.clone()?;
                    return can_be_confirmed(outgoing, chosen).then(|| Self {
                        admitted: client.wishing(&[(Wish::IfNoneMatch, Some(own.etag.clone()))]),
                        question,
                        choice: Some(chosen),
                        validators: None,
                        preferred: None,
                        own: Some(own),
                    });
                }
                // What a legacy `/api` lists, versions of the core group, is `v1` on every server of every release.
                if *root == Root::Core && chosen.form == Form::Legacy {
                    return None;
                }
                choice = Some(chosen);
                validators = Some(Validators {
                    view: Arc::clone(view),
                    root: *root,
                    form: chosen.form,
                });
                let mut wishes = vec![(Wish::IfNoneMatch, None)];
                if let Some(accept) = alone(chosen, client.headers()) {
                    wishes.push((Wish::Accept, Some(accept)));
                }
                wishes
            }
            _ if !differs => return None,
            Question::Group(_) | Question::GroupVersion(_) => {
                // The aggregator serves groups, go-restful their versions.
                let routed = matches!(question, Question::GroupVersion(_));
                let chosen = negotiate(client.headers(), false, routed)?;
                choice = Some(chosen);
                // YAML documents are written and not read.
                let media = match chosen.media {
                    Media::Protobuf => Media::Protobuf,
                    Media::Json | Media::Yaml => Media::Json,
                };
                let accept = HeaderValue::from_static(media.name());
                vec![(Wish::AcceptEncoding, None), (Wish::Accept, Some(accept))]
            }
            // The whole index, as it is now and as it can be read.
            Question::OpenApiIndex => [
                Wish::IfNoneMatch,
                Wish::IfModifiedSince,
                Wish::Range,
                Wish::AcceptEncoding,
            ]
            .map(|wish| (wish, None))
            .into(),
            Question::OpenApiDocument(path) => {
                let (servers, found) = having(path, outgoing.uri.query(), &shared.discovery);
                if !found {
                    shared.discovery.openapi_mismatch();
                }
                preferred = Some(prefer(servers, Reason::OpenApiOnPeer)?);
                Vec::new()
            }
            Question::OpenApiV2 => {
                preferred = Some(prefer(view.newest().to_vec(), Reason::OpenApiNewest)?);
                Vec::new()
            }
        };
        Some(Self {
            admitted: client.wishing(&wishes),
            question,
            choice,
            validators,
            preferred,
            own: None,
        })
    }

    /// The request for a server.
    pub(super) fn outgoing<'a>(&'a self, client: &Outgoing<'a>) -> Outgoing<'a> {
        Outgoing {
            // A HEAD has nothing that could be merged; its answer is that to a GET without the body.
            method: &Method::GET,
            admitted: &self.admitted,
            validators: self.validators.as_ref(),
            preferred: self.preferred.as_ref(),
            ..*client
        }
    }

    /// True if the server's document differs from the one that the view was made from.
    pub(super) fn is_news(&self, answer: &ServerAnswer, view: &View) -> bool {
        let (Question::Root { root, .. }, Some(source)) = (
            &self.question,
            self.choice.and_then(|choice| choice.form.source()),
        ) else {
            return false;
        };
        let told = answer.head.headers.get(http::header::ETAG);
        let known = view.root(*root).etag_of(&answer.server, source);
        answer.head.status == http::StatusCode::OK
            && known.is_some()
            && told.is_some()
            && told != known
    }

    /// True if a root is not merged any more.
    pub(super) fn is_settled(&self, view: &View) -> bool {
        matches!(&self.question, Question::Root { root, .. } if view.root(*root).merged.is_none())
    }

    /// True if the server's answer is passed on unchanged.
    pub(super) fn passes(&self) -> bool {
        matches!(
            self.question,
            Question::OpenApiDocument(_) | Question::OpenApiV2
        )
    }
}

impl Validators {
    /// Replaces the client's `If-None-Match` by the ETag of the server's own document; removes it if that is not known.
    pub fn apply(&self, server: &Arc<Server>, headers: &mut HeaderMap) {
        headers.remove(IF_NONE_MATCH);
        let source = self.form.source();
        let root = self.view.root(self.root);
        if let Some(etag) = source.and_then(|source| root.etag_of(server, source)) {
            headers.insert(IF_NONE_MATCH, etag.clone());
        }
    }
}

/// Whether this is the request that a kept document answers: it asks for the whole of it, and in its form. A client that has a document is
/// answered by the server, which sends as little as there is to say.
fn can_be_confirmed(client: &Outgoing<'_>, chosen: Choice) -> bool {
    *client.method == Method::GET
        && (chosen.form, chosen.media) == (Form::V2, Media::Json)
        && !client.admitted.headers().contains_key(IF_NONE_MATCH)
        && layout(client) == Layout::Compact
}

/// `None`: no server is preferred, or the local server may answer anyway.
fn prefer(servers: Vec<Arc<Server>>, reason: Reason) -> Option<Preferred> {
    is_elsewhere(&servers).then_some(Preferred { servers, reason })
}

/// The available servers that have the document whose hash the client's URL names. Without a hash, or with an outdated one,
/// those that serve most of what the document describes: such a server redirects to its own. The flag says whether the hash was
/// found.
pub(super) fn having(
    path: &str,
    query: Option<&str>,
    discovery: &DiscoveryHandle,
) -> (Vec<Arc<Server>>, bool) {
    let mut pairs = query
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='));
    let hash = pairs
        .find(|(name, _)| *name == "hash")
        .map(|(_, hash)| hash)
        .filter(|hash| !hash.is_empty());
    let Some(hash) = hash else {
        return (discovery.openapi_described(path), true);
    };
    let indexes = discovery.openapi();
    let mut servers: Vec<_> = find(&indexes, path, hash).into_iter().cloned().collect();
    let found = !servers.is_empty();
    servers.retain(|server| server.available());
    match servers.is_empty() {
        true => (discovery.openapi_described(path), found),
        false => (servers, found),
    }
}

/// The client's Accept header, preceded by the form that one server alone should answer with: a server with the native feature
/// would otherwise merge as well, and know its answer by another validator. Servers that do not know the profile ignore it.
fn alone(choice: Choice, client: &HeaderMap) -> Option<HeaderValue> {
    let own = super::accept::content_type(choice.form, choice.media);
    let own = own.to_str().ok()?;
    let profile = match choice.form {
        Form::Legacy => return None,
        Form::V2 | Form::V2beta1 => ";profile=nopeer",
    };
    let rest = client.get(ACCEPT)?.to_str().ok()?;
    HeaderValue::try_from(format!("{own}{profile},{own},{rest}")).ok()
}
