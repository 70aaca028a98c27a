//! Short ways to write servers, tables and requests in this module's tests.

use std::sync::Arc;

use http::Method;

use super::{Context, Knowledge, Member, RouteTable, Server};
use crate::api::{ApiEntry, ApiSet, VerbSet};
use crate::config::Endpoint;
use crate::request::RequestInfo;
use crate::tls::IdentityClass;

pub(super) const CONTEXT: Context = Context {
    hop_marked: false,
    interoperability: true,
    class: IdentityClass::FrontProxy,
};

pub(crate) fn server(name: &str, local: bool) -> Arc<Server> {
    let endpoint = Endpoint {
        name: name.into(),
        host: "127.0.0.1".into(),
        port: 6443,
    };
    Arc::new(Server::new(endpoint, local))
}

/// A confirmed member. Keys as `Key` displays them, then verbs: `apps/v1 deployments/scale get,update`.
pub(crate) fn member(name: &str, local: bool, keys: &[&str]) -> Member {
    Member {
        server: server(name, local),
        apis: Some(Arc::new(ApiSet::new(
            keys.iter().map(|key| api(key)).collect(),
        ))),
        knowledge: Knowledge::Confirmed,
        published: None,
    }
}

pub(crate) fn known(mut member: Member, knowledge: Knowledge) -> Member {
    member.knowledge = knowledge;
    if matches!(knowledge, Knowledge::Never | Knowledge::Absent) {
        member.apis = None;
    }
    member
}

pub(crate) fn table(members: impl IntoIterator<Item = Member>) -> RouteTable {
    RouteTable::build(1, members.into_iter().collect())
}

pub(super) fn request(method: Method, target: &str) -> RequestInfo<'static> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    RequestInfo::parse(&method, path, query)
        .unwrap()
        .into_owned()
}

pub(super) fn get(target: &str) -> RequestInfo<'static> {
    request(Method::GET, target)
}

fn api(text: &str) -> ApiEntry {
    let mut words = text.split(' ');
    let group_version = words.next().unwrap();
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    let resource = words.next().unwrap();
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let verbs = words
        .next()
        .unwrap_or("get,list,watch,create,update,patch,delete");
    ApiEntry {
        group: group.into(),
        version: version.into(),
        resource: resource.into(),
        subresource: subresource.into(),
        verbs: VerbSet::from_names(verbs.split(',')),
    }
}
