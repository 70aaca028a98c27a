//! What a request asks for. Written from the description of apiserver `request.RequestInfo`, on purpose apart from the
//! agent's own parser: the two check each other in the end-to-end tests.

use http::Method;

use super::query::{Query, decode};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// Decoded path.
    pub path: String,
    /// Kubernetes verb, or the lower-case method for paths that are no resources.
    pub verb: String,
    pub resource: Option<ResourcePath>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourcePath {
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub resource: String,
    pub name: String,
    pub subresource: String,
    /// Path segments behind the subresource.
    pub rest: Vec<String>,
    /// The name was in the path, not taken from a field selector.
    pub named: bool,
    /// Deprecated `/watch/` prefix.
    pub watch_prefix: bool,
}

/// The path cannot be understood; kube-apiserver answers 500 with this text.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

impl RequestInfo {
    pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<Self, Malformed> {
        let path =
            decode(raw_path, false).ok_or_else(|| Malformed("the path is not UTF-8".into()))?;
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let plain = || Self {
            path: path.clone(),
            verb: method.as_str().to_ascii_lowercase(),
            resource: None,
        };
        let (group, rest) = match parts.as_slice() {
            ["api", rest @ ..] if parts.len() >= 3 => ("", rest),
            ["apis", group, rest @ ..] if parts.len() >= 4 => (*group, rest),
            _ => return Ok(plain()),
        };
        let [version, rest @ ..] = rest else {
            return Ok(plain());
        };
        let mut rest = rest;
        let mut info = ResourcePath {
            group: group.into(),
            version: (*version).into(),
            ..Default::default()
        };
        let mut verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        if let ["watch" | "proxy", tail @ ..] = rest {
            info.watch_prefix = rest[0] == "watch";
            verb = if info.watch_prefix { "watch" } else { "proxy" };
            if tail.is_empty() {
                return Err(Malformed(format!(
                    "unable to determine kind and namespace from url, {path}"
                )));
            }
            rest = tail;
        }
        if let ["namespaces", namespace, tail @ ..] = rest {
            info.namespace = (*namespace).into();
            if !tail.is_empty() && !matches!(tail[0], "status" | "finalize") {
                rest = tail;
            }
        }
        let segment = |index: usize| {
            rest.get(index)
                .map(|part| (*part).to_owned())
                .unwrap_or_default()
        };
        info.resource = segment(0);
        info.name = segment(1);
        info.named = !info.name.is_empty();
        if verb != "proxy" {
            info.subresource = segment(2);
        }
        info.rest = rest.iter().skip(3).map(|part| (*part).to_owned()).collect();
        if !info.named && verb == "get" {
            verb = if query.flag("watch") { "watch" } else { "list" };
        }
        if !info.named
            && matches!(verb, "list" | "watch")
            && let Some(name) = query.get("fieldSelector").and_then(single_name)
        {
            info.name = name;
        }
        if !info.named && verb == "delete" {
            verb = "deletecollection";
        }
        Ok(Self {
            verb: verb.into(),
            resource: Some(info),
            path,
        })
    }
}

/// `metadata.name=x` names one object.
fn single_name(selector: &str) -> Option<String> {
    let name = selector
        .split(',')
        .find_map(|term| term.strip_prefix("metadata.name="))?;
    let name = name.strip_prefix('=').unwrap_or(name);
    let valid = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '%']);
    valid.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, path: &str, query: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().unwrap(), path, &Query::parse(query)).unwrap()
    }

    #[test]
    fn resources_and_paths() {
        let pod = parse("GET", "/api/v1/namespaces/n/pods/p/log", "");
        let resource = pod.resource.unwrap();
        assert_eq!(
            (
                pod.verb.as_str(),
                resource.namespace.as_str(),
                resource.name.as_str()
            ),
            ("get", "n", "p")
        );
        assert_eq!(
            (resource.resource.as_str(), resource.subresource.as_str()),
            ("pods", "log")
        );
        assert!(parse("GET", "/apis/apps/v1", "").resource.is_none());
        assert!(parse("GET", "/api/v1", "").resource.is_none());
        assert_eq!(
            parse("GET", "/apis/apps/v1/deployments", "watch=1").verb,
            "watch"
        );
        assert_eq!(
            parse("DELETE", "/api/v1/namespaces/n/pods", "").verb,
            "deletecollection"
        );
    }

    #[test]
    fn namespaces_are_resources_too() {
        for (path, subresource) in [
            ("/api/v1/namespaces/n", ""),
            ("/api/v1/namespaces/n/status", "status"),
        ] {
            let resource = parse("GET", path, "").resource.unwrap();
            assert_eq!(
                (resource.resource.as_str(), resource.name.as_str()),
                ("namespaces", "n")
            );
            assert_eq!(resource.subresource, subresource);
        }
        let selected = parse(
            "GET",
            "/api/v1/namespaces/n/pods",
            "fieldSelector=metadata.name%3Dx",
        );
        assert_eq!(
            (
                selected.verb.as_str(),
                selected.resource.unwrap().name.as_str()
            ),
            ("list", "x")
        );
    }
}
