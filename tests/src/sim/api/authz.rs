//! A small RBAC: what every cluster grants by default, and rules that tests add.

use serde::{Deserialize, Serialize};

use super::{
    authn::{AUTHENTICATED, MASTERS, Tokens, User},
    request_info::{RequestInfo, ResourcePath},
    status::{self, Failure},
};

/// Grants a user or a group verbs on resources or paths. `*` stands for all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Rule {
    /// User name or group name.
    pub subject: String,
    /// Verbs as RBAC names them.
    pub verbs: Vec<String>,
    /// The empty text is the core group.
    pub api_groups: Vec<String>,
    /// Resources, or `resource/subresource`.
    pub resources: Vec<String>,
    /// Only in this namespace; empty: everywhere.
    pub namespace: String,
    /// Paths that are no resources; a trailing `*` matches any end.
    pub paths: Vec<String>,
    /// Only objects of these names; empty: all.
    #[serde(default)]
    pub names: Vec<String>,
}

const MONITORING: &str = "system:monitoring";

/// What a control plane accepts and grants; all its servers share it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Policy {
    /// The bearer tokens, with their users.
    pub tokens: Tokens,
    /// What is granted beyond the built-in rules.
    pub rules: Vec<Rule>,
    /// Names of users to whom system:discovery is not bound.
    #[serde(default)]
    pub without_discovery: Vec<String>,
}

impl Policy {
    /// `admin-token` and `alice-token`, and beyond the built-in rules only what `deploy/rbac.yaml` grants the agent as the role
    /// extension-apiserver-authentication-reader.
    pub fn standard() -> Self {
        let user = |name: &str, uid: &str, group: &str| User {
            name: name.into(),
            uid: uid.into(),
            groups: vec![group.into()],
            ..User::default()
        };
        let tokens = [
            ("admin-token".into(), user("admin", "admin-uid", MASTERS)),
            ("alice-token".into(), user("alice", "alice-uid", "devs")),
        ];
        Self {
            tokens: tokens.into(),
            rules: vec![Rule::authentication_reader("system:mvp")],
            without_discovery: Vec::new(),
        }
    }

    /// Whether the user may send the request.
    ///
    /// # Errors
    /// 403, with kube-apiserver's text.
    pub fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), Failure> {
        if self.allows(user, info) {
            return Ok(());
        }
        Err(denied(user, info))
    }

    /// Whether any rule grants the request.
    pub fn allows(&self, user: &User, info: &RequestInfo) -> bool {
        let member = |group: &str| user.groups.iter().any(|own| own == group);
        if member(MASTERS) {
            return true;
        }
        let discovers = !self.without_discovery.contains(&user.name);
        if built_in(member(AUTHENTICATED), discovers, info)
            || member(MONITORING) && monitoring(info)
        {
            return true;
        }
        self.rules
            .iter()
            .filter(|rule| rule.subject == user.name || member(&rule.subject))
            .any(|rule| rule.allows(info))
    }
}

/// The answer to a user who may not.
pub(super) fn denied(user: &User, info: &RequestInfo) -> Failure {
    let Some(path) = &info.resource else {
        return status::forbidden_path(&format!(
            "User \"{}\" cannot {} path \"{}\"",
            user.name, info.verb, info.path
        ));
    };
    let place = match path.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let cause = format!(
        "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
        user.name,
        info.verb,
        with_subresource(path),
        path.group
    );
    status::forbidden(path, &cause)
}

impl Rule {
    /// Everything on these resources of these groups, everywhere.
    pub fn resources(
        subject: &str,
        verbs: &[&str],
        api_groups: &[&str],
        resources: &[&str],
    ) -> Self {
        let own = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Self {
            subject: subject.into(),
            verbs: own(verbs),
            api_groups: own(api_groups),
            resources: own(resources),
            ..Self::default()
        }
    }

    /// The Role extension-apiserver-authentication-reader that every cluster has in kube-system.
    pub fn authentication_reader(subject: &str) -> Self {
        Self {
            namespace: "kube-system".into(),
            names: vec!["extension-apiserver-authentication".into()],
            ..Self::resources(subject, &["get", "list", "watch"], &[""], &["configmaps"])
        }
    }

    fn allows(&self, info: &RequestInfo) -> bool {
        if !holds(&self.verbs, &info.verb) {
            return false;
        }
        match &info.resource {
            Some(path) => {
                (self.namespace.is_empty() || self.namespace == path.namespace)
                    && (self.names.is_empty() || self.names.contains(&path.name))
                    && holds(&self.api_groups, &path.group)
                    && holds(&self.resources, &with_subresource(path))
            }
            None => self.paths.iter().any(|path| matches(path, &info.path)),
        }
    }
}

/// ClusterRole system:monitoring, bound to the group of that name (what it adds to the public paths).
fn monitoring(info: &RequestInfo) -> bool {
    info.resource.is_none()
        && info.verb == "get"
        && ["/metrics", "/metrics/slis", "/healthz/*"]
            .iter()
            .any(|path| matches(path, &info.path))
}

/// ClusterRoles system:discovery, system:public-info-viewer and system:basic-user.
fn built_in(authenticated: bool, discovers: bool, info: &RequestInfo) -> bool {
    const PUBLIC: [&str; 6] = [
        "/healthz",
        "/livez",
        "/livez/*",
        "/readyz",
        "/readyz/*",
        "/version*",
    ];
    const DISCOVERY: [&str; 6] = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/openapi",
        "/openapi/*",
    ];
    match &info.resource {
        None if matches!(info.verb.as_str(), "get" | "head") => {
            PUBLIC.iter().any(|path| matches(path, &info.path))
                || authenticated
                    && discovers
                    && DISCOVERY.iter().any(|path| matches(path, &info.path))
        }
        None => false,
        Some(path) => {
            authenticated
                && info.verb == "create"
                && matches!(
                    (path.group.as_str(), path.resource.as_str()),
                    ("authentication.k8s.io", "selfsubjectreviews")
                        | (
                            "authorization.k8s.io",
                            "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
                        )
                )
        }
    }
}

fn with_subresource(path: &ResourcePath) -> String {
    if path.subresource.is_empty() {
        path.resource.clone()
    } else {
        format!("{}/{}", path.resource, path.subresource)
    }
}

fn holds(all: &[String], one: &str) -> bool {
    all.iter().any(|item| item == "*" || item == one)
}

fn matches(pattern: &str, path: &str) -> bool {
    pattern
        .strip_suffix('*')
        .map_or(pattern == path, |prefix| path.starts_with(prefix))
}
