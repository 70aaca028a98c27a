//! `$(NAME)` in a container's command and arguments, as kubelet replaces it (`third_party/forked/golang/expansion/expand.go`):
//! by the values of the container's `env`. What cannot be known here stays as it stands, as it does there.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

/// What the downward API of a static pod reports, as far as it can be known outside of the pod.
pub(super) trait Host {
    /// The address of the interface that leads to the other nodes. A static pod of the control plane has the host's network,
    /// so that it is the pod's too.
    fn address(&self) -> Option<IpAddr>;
    /// The name of the Node, which is the host's in lower case.
    fn name(&self) -> Option<String>;
}

/// The host as the system reports it.
pub(super) struct System;

impl Host for System {
    fn address(&self) -> Option<IpAddr> {
        crate::net::outward_address()
    }

    fn name(&self) -> Option<String> {
        super::build::host_name().map(|name| name.to_ascii_lowercase())
    }
}

/// The values of a container's `env`.
#[derive(Debug, Default)]
pub(super) struct Environment(HashMap<String, String>);

impl Environment {
    /// The environment of `container` in `pod`. A variable whose value comes from elsewhere (a Secret, a resource) is left out.
    pub(super) fn of(container: &Value, pod: &Value, host: &dyn Host) -> Self {
        let mut environment = Self::default();
        let variables = container["env"].as_array().map(Vec::as_slice);
        for variable in variables.unwrap_or_default() {
            let Some(name) = variable["name"].as_str() else {
                continue;
            };
            let field = variable.pointer("/valueFrom/fieldRef/fieldPath");
            let field = field.and_then(Value::as_str);
            let value = match (variable["value"].as_str(), field) {
                // A variable may be made of those before it.
                (Some(value), _) => Some(environment.expand(value)),
                (None, Some(field)) => downward(field, pod, host),
                (None, None) if variable["valueFrom"].is_null() => Some(String::new()),
                (None, None) => None,
            };
            match value {
                Some(value) => environment.0.insert(name.to_owned(), value),
                None => environment.0.remove(name),
            };
        }
        environment
    }

    /// `$(NAME)` is the variable's value, `$$` is one `$`, and everything else is itself.
    pub(super) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            rest = after;
            if let Some(escaped) = after.strip_prefix('$') {
                out.push('$');
                rest = escaped;
            } else if let Some((name, tail)) =
                after.strip_prefix('(').and_then(|r| r.split_once(')'))
            {
                match self.0.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.push_str(&format!("$({name})")),
                }
                rest = tail;
            } else {
                out.push('$');
            }
        }
        out.push_str(rest);
        out
    }
}

/// Whether a reference is left that could not be replaced.
pub(super) fn is_unresolved(text: &str) -> bool {
    text.split_once("$(")
        .is_some_and(|(_, rest)| rest.contains(')'))
}

fn downward(field: &str, pod: &Value, host: &dyn Host) -> Option<String> {
    let metadata = |key: &str| pod["metadata"].get(key)?.as_str().map(str::to_owned);
    match field {
        "status.hostIP" | "status.hostIPs" | "status.podIP" | "status.podIPs" => {
            host.address().map(|address| address.to_string())
        }
        "spec.nodeName" => host.name(),
        "metadata.namespace" => metadata("namespace").or_else(|| Some("default".into())),
        // kubelet adds the Node's name to a static pod's.
        "metadata.name" => Some(format!("{}-{}", metadata("name")?, host.name()?)),
        _ => {
            let (map, key) = field.strip_suffix("']")?.split_once("['")?;
            let map = map.strip_prefix("metadata.")?;
            let found = || pod["metadata"].get(map)?.get(key)?.as_str();
            matches!(map, "labels" | "annotations").then(|| found().unwrap_or_default().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Fake(Option<IpAddr>);

    impl Host for Fake {
        fn address(&self) -> Option<IpAddr> {
            self.0
        }

        fn name(&self) -> Option<String> {
            Some("cp-a".into())
        }
    }

    fn environment(address: Option<&str>) -> Environment {
        let from = |field: &str| json!({"fieldRef": {"fieldPath": field}});
        let container = json!({"env": [
            {"name": "HOST_IP", "valueFrom": from("status.hostIP")},
            {"name": "POD_IP", "valueFrom": from("status.podIP")},
            {"name": "NODE", "valueFrom": from("spec.nodeName")},
            {"name": "POD", "valueFrom": from("metadata.name")},
            {"name": "NS", "valueFrom": from("metadata.namespace")},
            {"name": "TIER", "valueFrom": from("metadata.labels['tier']")},
            {"name": "PORT", "value": "7443"},
            {"name": "BOTH", "value": "$(HOST_IP):$(PORT)"},
            {"name": "EMPTY"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"no": "name"},
        ]});
        let pod = json!({"metadata": {"name": "kube-apiserver", "namespace": "kube-system", "labels": {"tier": "control-plane"}}});
        Environment::of(&container, &pod, &Fake(address.map(|a| a.parse().unwrap())))
    }

    #[test]
    fn references_are_replaced_as_kubelet_does() {
        let known = environment(Some("10.0.0.1"));
        for (text, expected) in [
            ("$(HOST_IP)", "10.0.0.1"),
            ("x$(POD_IP)y$(PORT)z", "x10.0.0.1y7443z"),
            ("$(BOTH)", "10.0.0.1:7443"),
            (
                "$(NODE) $(POD) $(NS) $(TIER)",
                "cp-a kube-apiserver-cp-a kube-system control-plane",
            ),
            ("[$(EMPTY)]", "[]"),
            ("$(SECRET) $(UNKNOWN)", "$(SECRET) $(UNKNOWN)"),
            ("$$(HOST_IP) $$$(PORT)", "$(HOST_IP) $7443"),
            ("$ $x $( $(HOST_IP", "$ $x $( $(HOST_IP"),
            ("", ""),
        ] {
            assert_eq!(known.expand(text), expected, "{text}");
        }
        assert_eq!(environment(None).expand("$(HOST_IP)"), "$(HOST_IP)");
        assert!(is_unresolved("$(HOST_IP)"));
        assert!(!is_unresolved("$(HOST_IP"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "[$()A-Za-z_ ]{0,40}") {
            let out = environment(None).expand(&text);
            // Nothing but `$$` and known names is ever changed.
            proptest::prop_assert!(text.contains('$') || out == text);
        }
    }
}
