//! What built-in kinds hold beside their metadata: enough for `kubectl explain` and for clients that look a field up.

use serde_json::{Map, Value, json};

/// A sentence on a kind.
pub(super) fn description(kind: &str) -> String {
    let about = match kind {
        "ConfigMap" => "holds configuration for pods to read",
        "Secret" => "holds secret bytes, base64 in JSON",
        "Pod" => "is a group of containers that run together on a node",
        "Service" => "gives a set of pods one name and address",
        "Namespace" => "is a scope for names",
        "Node" => "is a machine that runs pods",
        "Deployment" => "keeps a set of equal pods and replaces them step by step",
        "ReplicaSet" => "keeps a number of equal pods",
        "StatefulSet" => "keeps pods with names and storage of their own",
        "DaemonSet" => "keeps a pod on every node it selects",
        "Job" => "runs pods until they succeed",
        "CronJob" => "runs a job at given times",
        "Lease" => "says who holds something, and until when",
        "EndpointSlice" => "lists addresses behind a service",
        "CustomResourceDefinition" => "adds a resource to the API",
        _ => return format!("{kind} of the Kubernetes API"),
    };
    format!("{kind} {about}.")
}

/// The fields of a kind beside apiVersion, kind and metadata. Kinds that are not named here have a spec and a status.
pub(super) fn fields(kind: &str) -> Map<String, Value> {
    let text = |about: &str| json!({"type": "string", "description": about});
    let flag = |about: &str| json!({"type": "boolean", "description": about});
    let number = |about: &str| json!({"type": "integer", "format": "int32", "description": about});
    let list =
        |about: &str| json!({"type": "array", "description": about, "items": open("An entry.")});
    let immutable = || {
        (
            "immutable",
            flag("Whether the data can no longer be changed."),
        )
    };
    let pairs = match kind {
        "ConfigMap" => vec![
            ("data", text_by_key("Configuration as text, by key.")),
            (
                "binaryData",
                bytes_by_key("Configuration as bytes, by key."),
            ),
            immutable(),
        ],
        "Secret" => vec![
            ("data", bytes_by_key("Secret bytes, by key.")),
            (
                "stringData",
                text_by_key("Secret text to be written into data, by key."),
            ),
            ("type", text("What programs may expect in the data.")),
            immutable(),
        ],
        "ServiceAccount" => vec![
            (
                "automountServiceAccountToken",
                flag("Whether pods get a token of it."),
            ),
            ("imagePullSecrets", list("Secrets for pulling images.")),
            ("secrets", list("Secrets that pods of it may use.")),
        ],
        "Role" => vec![("rules", list("What is allowed in the namespace."))],
        "ClusterRole" => vec![
            ("rules", list("What is allowed.")),
            ("aggregationRule", open("Which roles make up this one.")),
        ],
        "RoleBinding" | "ClusterRoleBinding" => vec![
            ("roleRef", open("The role that is given.")),
            ("subjects", list("Whom it is given to.")),
        ],
        "Endpoints" => vec![("subsets", list("Addresses and ports."))],
        "EndpointSlice" => vec![
            ("addressType", text("IPv4, IPv6 or FQDN.")),
            ("endpoints", list("Addresses and their conditions.")),
            ("ports", list("Ports of every address.")),
        ],
        "Event" => vec![
            ("type", text("Normal or Warning.")),
            ("reason", text("Why it happened, for programs.")),
            ("message", text("What happened, for humans.")),
            ("note", text("What happened, for humans.")),
            ("involvedObject", open("The object it is about.")),
            ("regarding", open("The object it is about.")),
            ("count", number("How often it happened.")),
        ],
        "PriorityClass" => vec![
            (
                "value",
                number("The priority itself; more is more important."),
            ),
            (
                "globalDefault",
                flag("Whether pods without a class have this one."),
            ),
            ("description", text("When to use the class.")),
            (
                "preemptionPolicy",
                text("Whether its pods may push out others."),
            ),
        ],
        "StorageClass" => vec![
            ("provisioner", text("Who makes the volumes.")),
            ("parameters", text_by_key("What the provisioner is told.")),
            (
                "reclaimPolicy",
                text("What becomes of a volume that is given back."),
            ),
            ("volumeBindingMode", text("When a volume is made.")),
            ("allowVolumeExpansion", flag("Whether volumes may grow.")),
        ],
        "RuntimeClass" => vec![("handler", text("Configuration of the container runtime."))],
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            vec![("webhooks", list("Which webhooks are called for what."))]
        }
        "ControllerRevision" => vec![
            ("data", open("The recorded state.")),
            (
                "revision",
                json!({"type": "integer", "format": "int64", "description": "Number of the state."}),
            ),
        ],
        _ => return spec_and_status(),
    };
    pairs
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect()
}

pub(super) fn spec_and_status() -> Map<String, Value> {
    [
        ("spec", open("What is desired.")),
        ("status", open("What was last observed.")),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect()
}

pub(super) fn text_by_key(about: &str) -> Value {
    json!({"type": "object", "description": about, "additionalProperties": {"type": "string", "default": ""}})
}

fn bytes_by_key(about: &str) -> Value {
    json!({"type": "object", "description": about, "additionalProperties": {"type": "string", "format": "byte"}})
}

/// An object of any fields.
fn open(about: &str) -> Value {
    json!({"type": "object", "description": about, "x-kubernetes-preserve-unknown-fields": true})
}
