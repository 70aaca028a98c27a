//! Finds the resource that a path names on this server, and hands the request to the right verb.

use http::StatusCode;

use super::{
    delete,
    encode::{self, Include, TypeMeta},
    handler::{Answer, Request, reply},
    read,
    request_info::ResourcePath,
    reviews,
    status::{self, Failure},
    streams, watch, write,
};
use crate::sim::{
    store::{Key, Object, Scope},
    surface::{Resource, Subresource, Surface},
};

/// What a path resolved to, by value: the surface may change while the request runs.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub path: ResourcePath,
    pub resource: Resource,
    pub api_version: String,
}

pub(super) async fn answer(mut request: Request) -> Answer {
    let Some(path) = request.info.resource.clone() else {
        return Err(status::page_not_found());
    };
    let surface = request.app.surface.load_full();
    let target = find(&surface, path)?;
    let verb = request.info.verb.clone();
    if target.path.subresource.is_empty() {
        let collection = matches!(
            verb.as_str(),
            "create" | "list" | "watch" | "deletecollection"
        );
        let fits = collection != target.path.named || target.path.watch_prefix;
        if !target.resource.verbs.contains(&verb) || !fits {
            return Err(status::method_not_allowed());
        }
        if !target.resource.namespaced
            || !target.path.namespace.is_empty()
            || verb == "list"
            || verb == "watch"
        {
            return main_resource(request, target, &verb).await;
        }
        // Without a namespace only the collection exists, and it can only be listed.
        return Err(if target.path.named {
            status::no_such_resource()
        } else {
            status::method_not_allowed()
        });
    }
    let Some(subresource) = target.subresource().cloned() else {
        return Err(status::no_such_resource());
    };
    if streams::serves(&target.path) {
        return streams::answer(request, target).await;
    }
    if !subresource.verbs.contains(&verb) {
        return Err(status::method_not_allowed());
    }
    let output = request.output()?;
    match (subresource.name.as_str(), verb.as_str()) {
        ("scale", _) => write::scale(&mut request, &target, &verb, output).await,
        (_, "create") => reviews::subresource(request, &target, output).await,
        (_, "get") => read::get(&request, &target, output).await,
        (_, "update") => write::update(request, target, output).await,
        (_, "patch") => write::patch(request, target, output).await,
        _ => Err(status::method_not_allowed()),
    }
}

async fn main_resource(request: Request, target: Target, verb: &str) -> Answer {
    let output = request.output()?;
    match verb {
        "get" => read::get(&request, &target, output).await,
        "list" => read::list(&request, &target, output).await,
        "watch" => watch::answer(request, target, output).await,
        "create" if reviews::serves(&target.path) => {
            reviews::answer(request, &target, output).await
        }
        "create" => write::create(request, target, output).await,
        "update" => write::update(request, target, output).await,
        "patch" => write::patch(request, target, output).await,
        "delete" => delete::delete(request, target, output).await,
        "deletecollection" => delete::collection(request, target, output).await,
        _ => Err(status::method_not_allowed()),
    }
}

/// The two shapes of "not here": a group version that is unknown (or that only custom resources make) ends at the end of
/// the handler chain, a resource unknown in a built-in group version gets a Status.
fn find(surface: &Surface, path: ResourcePath) -> Result<Target, Failure> {
    let version = surface
        .version(&path.group, &path.version)
        .ok_or_else(status::page_not_found)?;
    let custom =
        !version.resources.is_empty() && version.resources.iter().all(|resource| resource.custom);
    let missing = || {
        if custom {
            status::page_not_found()
        } else {
            status::no_such_resource()
        }
    };
    let resource = version
        .resources
        .iter()
        .find(|resource| resource.name == path.resource)
        .ok_or_else(missing)?;
    // Namespaces are cluster-scoped, yet RequestInfo gives them themselves as namespace.
    let own = path.group.is_empty() && path.resource == "namespaces";
    if !resource.namespaced && !path.namespace.is_empty() && !own {
        return Err(missing());
    }
    let api_version = if path.group.is_empty() {
        path.version.clone()
    } else {
        format!("{}/{}", path.group, path.version)
    };
    Ok(Target {
        path,
        resource: resource.clone(),
        api_version,
    })
}

impl Target {
    pub(super) fn meta(&self) -> TypeMeta<'_> {
        TypeMeta {
            api_version: &self.api_version,
            kind: &self.resource.kind,
        }
    }

    /// Where objects live: cluster-scoped ones have no namespace.
    pub(super) fn namespace(&self) -> &str {
        if self.resource.namespaced {
            &self.path.namespace
        } else {
            ""
        }
    }

    pub(super) fn key(&self, name: &str) -> Key {
        Key::new(
            &self.path.group,
            &self.path.resource,
            self.namespace(),
            name,
        )
    }

    pub(super) fn scope(&self) -> Scope {
        Scope::new(&self.path.group, &self.path.resource, self.namespace())
    }

    pub(super) fn has_status(&self) -> bool {
        self.resource
            .subresources
            .iter()
            .any(|subresource| subresource.name == "status")
    }

    fn subresource(&self) -> Option<&Subresource> {
        self.resource
            .subresources
            .iter()
            .find(|subresource| subresource.name == self.path.subresource)
    }
}

pub(super) fn reply_object(
    request: &Request,
    target: &Target,
    code: StatusCode,
    object: &Object,
    output: super::negotiate::Output,
) -> Answer {
    let include = Include::parse(request.query.get("includeObject"));
    Ok(reply(
        code,
        output,
        encode::object(object, target.meta(), output, include)?,
    ))
}
