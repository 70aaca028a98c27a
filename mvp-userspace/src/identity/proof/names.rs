//! The names of the headers that kube-apiservers believe from a front proxy, as they publish them: ConfigMap
//! `kube-system/extension-apiserver-authentication`, into which each server writes the union of what is there and of its own flags
//! (`clusterauthenticationtrust/cluster_authentication_trust_controller.go`).

use std::collections::BTreeMap;

use http::HeaderName;
use serde::Deserialize;

/// The object's own path, for a server to be asked for it.
pub const AUTHENTICATION: &str =
    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
/// The list that holds it alone, to be watched.
pub const AUTHENTICATION_LIST: &str = "/api/v1/namespaces/kube-system/configmaps?fieldSelector=metadata.name%3Dextension-apiserver-authentication";

/// Names that are believed beyond this in one object are refused: kubeadm has five, and nobody has hundreds.
const MAX_NAMES: usize = 256;

/// What one server publishes. Lower case, without duplicates.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PublishedNames {
    usernames: Vec<HeaderName>,
    uids: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    extra_prefixes: Vec<String>,
}

/// What is deleted from requests of clients beside the configured names and the defaults.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Learned {
    names: PublishedNames,
    /// What some server believes cannot be read: then only headers that are known to be harmless pass, see [`is_harmless`].
    unreadable: bool,
}

/// Which kind of header a learned name is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LearnedKind {
    Username,
    Uid,
    Group,
    Extra,
    /// Nobody published it, and it is not known to be harmless either.
    Unlisted,
}

impl PublishedNames {
    /// Reads the object. A server started without a request-header CA publishes no names: then there are none.
    ///
    /// # Errors
    /// What is wrong with it, for the operator. Names that cannot be header names are left out: no request can hold one.
    pub fn read(body: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct ConfigMap {
            #[serde(default)]
            kind: String,
            #[serde(default)]
            data: Option<BTreeMap<String, String>>,
        }
        let object: ConfigMap =
            serde_json::from_slice(body).map_err(|error| format!("it is no ConfigMap: {error}"))?;
        if object.kind != "ConfigMap" {
            return Err(format!("it is no ConfigMap but {:?}", object.kind));
        }
        let data = object.data.unwrap_or_default();
        let field = |name: &str| -> Result<Vec<HeaderName>, String> {
            let Some(text) = data.get(name) else {
                return Ok(Vec::new());
            };
            let listed: Vec<String> = serde_json::from_str(text)
                .map_err(|error| format!("{name} is no list of names: {error}"))?;
            if listed.len() > MAX_NAMES {
                return Err(format!("{name} holds more than {MAX_NAMES} names"));
            }
            let mut names = Vec::new();
            for name in listed {
                if let Ok(name) = HeaderName::from_bytes(name.trim().as_bytes())
                    && !names.contains(&name)
                {
                    names.push(name);
                }
            }
            Ok(names)
        };
        let prefixes = field("requestheader-extra-headers-prefix")?;
        Ok(Self {
            usernames: field("requestheader-username-headers")?,
            uids: field("requestheader-uid-headers")?,
            groups: field("requestheader-group-headers")?,
            extra_prefixes: prefixes
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect(),
        })
    }

    fn add(&mut self, other: &Self) {
        fn union<T: Clone + PartialEq>(own: &mut Vec<T>, other: &[T]) {
            for one in other {
                if !own.contains(one) {
                    own.push(one.clone());
                }
            }
        }
        union(&mut self.usernames, &other.usernames);
        union(&mut self.uids, &other.uids);
        union(&mut self.groups, &other.groups);
        union(&mut self.extra_prefixes, &other.extra_prefixes);
    }
}

impl Learned {
    /// The union of what servers publish; `None` for one whose names cannot be read.
    pub fn union<'a>(servers: impl IntoIterator<Item = Option<&'a PublishedNames>>) -> Self {
        let mut learned = Self::default();
        for server in servers {
            match server {
                Some(names) => learned.names.add(names),
                None => learned.unreadable = true,
            }
        }
        learned
    }

    /// What was learned before stays: a server that still runs may have been started with it.
    pub fn with(mut self, before: &Self) -> Self {
        self.names.add(&before.names);
        self
    }

    /// What `name` is to some server. Names are compared by the given functions.
    pub(in crate::identity) fn kind(
        &self,
        name: &HeaderName,
        equal: impl Fn(&str, &str) -> bool,
        prefix: impl Fn(&str, &str) -> bool,
    ) -> Option<LearnedKind> {
        let text = name.as_str();
        let any = |names: &[HeaderName]| names.iter().any(|one| equal(one.as_str(), text));
        if any(&self.names.usernames) {
            Some(LearnedKind::Username)
        } else if any(&self.names.uids) {
            Some(LearnedKind::Uid)
        } else if any(&self.names.groups) {
            Some(LearnedKind::Group)
        } else if self
            .names
            .extra_prefixes
            .iter()
            .any(|one| prefix(one, text))
        {
            Some(LearnedKind::Extra)
        } else if self.unreadable && !is_harmless(text) {
            Some(LearnedKind::Unlisted)
        } else {
            None
        }
    }
}

/// Headers that HTTP or Kubernetes gives a meaning of its own, so that nobody configures them as a front proxy's. All that clients of
/// kube-apiserver (client-go, kubectl, browsers, the WebSocket and SPDY clients) send is among them.
fn is_harmless(name: &str) -> bool {
    const NAMES: [&str; 33] = [
        "accept",
        "audit-id",
        "authorization",
        "baggage",
        "cache-control",
        "connection",
        "cookie",
        "date",
        "dnt",
        "expect",
        "forwarded",
        "from",
        "host",
        "keep-alive",
        "kubectl-command",
        "kubectl-session",
        "last-event-id",
        "max-forwards",
        "origin",
        "pragma",
        "prefer",
        "priority",
        "range",
        "referer",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "user-agent",
        "via",
    ];
    const PREFIXES: [&str; 9] = [
        "accept-",
        "access-control-request-",
        "content-",
        "if-",
        "impersonate-",
        "proxy-",
        "sec-",
        "x-forwarded-",
        "x-stream-",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn published(groups: &[&str]) -> PublishedNames {
        let groups = serde_json::to_string(groups).unwrap();
        let object = json!({"kind": "ConfigMap", "data": {
            "client-ca-file": "-----BEGIN",
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": groups,
            "requestheader-extra-headers-prefix": "[\"X-Corp-Extra-\"]",
        }});
        PublishedNames::read(object.to_string().as_bytes()).unwrap()
    }

    fn kind(learned: &Learned, name: &str) -> Option<LearnedKind> {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        learned.kind(
            &name,
            |a, b| a == b,
            |prefix, name| name.starts_with(prefix),
        )
    }

    #[test]
    fn the_union_of_all_servers_is_learned_and_nothing_is_forgotten() {
        let (one, two) = (
            published(&["X-Remote-Group"]),
            published(&["X-Custom-Group", "not a name", "X-Custom-Group"]),
        );
        let learned = Learned::union([Some(&one), Some(&two)]);
        assert_eq!(kind(&learned, "x-remote-group"), Some(LearnedKind::Group));
        assert_eq!(kind(&learned, "x-custom-group"), Some(LearnedKind::Group));
        assert_eq!(kind(&learned, "x-corp-extra-a"), Some(LearnedKind::Extra));
        assert_eq!(kind(&learned, "x-remote-user"), Some(LearnedKind::Username));
        assert_eq!(kind(&learned, "x-other"), None);
        let later = Learned::union([Some(&one)]).with(&learned);
        assert_eq!(kind(&later, "x-custom-group"), Some(LearnedKind::Group));
    }

    #[test]
    fn while_a_servers_names_cannot_be_read_only_harmless_headers_pass() {
        let learned = Learned::union([Some(&published(&["X-Remote-Group"])), None]);
        assert_eq!(
            kind(&learned, "x-custom-group"),
            Some(LearnedKind::Unlisted)
        );
        assert_eq!(kind(&learned, "anything"), Some(LearnedKind::Unlisted));
        for name in [
            "accept",
            "content-type",
            "impersonate-user",
            "sec-websocket-protocol",
            "x-stream-protocol-version",
        ] {
            assert_eq!(kind(&learned, name), None, "{name}");
        }
        // It ends when the names can be read.
        let known = Learned::union([Some(&published(&["X-Remote-Group"]))]).with(&learned);
        assert_eq!(kind(&known, "anything"), None);
    }

    #[test]
    fn what_is_no_list_of_names_is_an_error() {
        assert_eq!(
            PublishedNames::read(b"{\"kind\":\"ConfigMap\",\"data\":null}"),
            Ok(PublishedNames::default())
        );
        for bad in [
            "",
            "[]",
            "{\"data\":{}}",
            "{\"kind\":\"ConfigMap\",\"data\":[]}",
            "{\"kind\":\"ConfigMap\",\"data\":{\"requestheader-group-headers\":\"X\"}}",
        ] {
            assert!(PublishedNames::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let many = vec!["x"; MAX_NAMES + 1];
        let many = json!({"kind": "ConfigMap", "data": {"requestheader-uid-headers": serde_json::to_string(&many).unwrap()}});
        assert!(PublishedNames::read(many.to_string().as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_object_is_too_odd(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = PublishedNames::read(&body);
        }

        /// Every name that a server publishes is deleted, however it is written.
        #[test]
        fn every_published_name_is_deleted(names in proptest::collection::vec("[A-Za-z][A-Za-z0-9-]{0,20}", 1..8)) {
            let listed: Vec<&str> = names.iter().map(String::as_str).collect();
            let learned = Learned::union([Some(&published(&listed))]);
            for name in &names {
                prop_assert!(kind(&learned, &name.to_ascii_lowercase()).is_some());
            }
        }
    }
}
