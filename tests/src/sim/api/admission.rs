//! What kube-apiserver fills in and refuses before an object is stored: namespace lifecycle, metadata, statuses of the
//! few kinds whose controllers are simulated.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    handler::Request,
    resource::Target,
    status::{self, Failure},
};
use crate::sim::{clock, store::Key};

/// Letters of generated names (apimachinery `util/rand`, which avoids vowels).
const SUFFIX: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Admission plugin NamespaceLifecycle: nothing is created in a namespace that is missing or going away.
pub(super) async fn namespace_allows(
    request: &Request,
    target: &Target,
    name: &str,
) -> Result<(), Failure> {
    let namespace = target.namespace();
    if namespace.is_empty() {
        return Ok(());
    }
    let key = Key::new("", "namespaces", "", namespace);
    let mut path = super::request_info::ResourcePath {
        resource: "namespaces".into(),
        ..Default::default()
    };
    let found = request
        .app
        .store
        .get(&key)
        .await
        .map_err(|error| status::store(error, &path, namespace))?;
    if found["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    path = target.path.clone();
    path.name = name.into();
    let cause = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    Err(status::forbidden(&path, &cause))
}

/// Checks that the body is of the type and in the namespace that the path says, and sets what is missing.
pub(super) fn check_type(
    object: &mut Value,
    target: &Target,
    kind: (&str, &str),
) -> Result<(), Failure> {
    if !object.is_object() {
        return Err(status::bad_request(
            "the object provided is unrecognized (must be of type object)",
        ));
    }
    let (api_version, expected) = kind;
    match object["kind"].as_str() {
        None | Some("") => object["kind"] = json!(expected),
        Some(kind) if kind == expected => {}
        Some(kind) => {
            return Err(status::bad_request(format!(
                "{kind} in version {:?} cannot be handled as a {expected}",
                object["apiVersion"].as_str().unwrap_or_default()
            )));
        }
    }
    match object["apiVersion"].as_str() {
        None | Some("") => object["apiVersion"] = json!(api_version),
        Some(version) if version == api_version => {}
        Some(version) => {
            return Err(status::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({api_version})"
            )));
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let namespace = target.namespace();
    if namespace.is_empty() {
        return Ok(());
    }
    match object["metadata"]["namespace"].as_str() {
        None | Some("") => object["metadata"]["namespace"] = json!(namespace),
        Some(own) if own == namespace => {}
        Some(_) => {
            return Err(status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// Metadata of a new object (apiserver `rest.BeforeCreate`). Returns its name.
pub(super) fn new_metadata(object: &mut Value, target: &Target) -> Result<String, Failure> {
    let kind = &target.resource.kind;
    let metadata = &mut object["metadata"];
    let generate = metadata["generateName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut name = metadata["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() && !generate.is_empty() {
        let random = Uuid::new_v4();
        let suffix = random
            .as_bytes()
            .iter()
            .take(5)
            .map(|byte| SUFFIX[usize::from(*byte) % SUFFIX.len()] as char);
        name = generate + &suffix.collect::<String>();
    }
    if name.is_empty() {
        return Err(status::invalid(
            &target.path,
            kind,
            "",
            "metadata.name: Required value: name or generateName is required",
        ));
    }
    if name.contains(['/', '%']) || name == "." || name == ".." {
        let cause = format!("metadata.name: Invalid value: \"{name}\": may not contain '/'");
        return Err(status::invalid(&target.path, kind, &name, &cause));
    }
    metadata["name"] = json!(name);
    metadata["uid"] = json!(Uuid::new_v4().to_string());
    metadata["creationTimestamp"] = json!(clock::now());
    if let Some(fields) = metadata.as_object_mut() {
        for absent in [
            "resourceVersion",
            "deletionTimestamp",
            "selfLink",
            "managedFields",
        ] {
            fields.remove(absent);
        }
    }
    if object["spec"].is_object() {
        object["metadata"]["generation"] = json!(1);
    }
    Ok(name)
}

/// Defaults, and what controllers would report a moment later.
pub(super) fn defaults(object: &mut Value, target: &Target, name: &str) {
    match (target.path.group.as_str(), target.path.resource.as_str()) {
        ("", "namespaces") => {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"] = json!({"phase": "Active"});
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
        }
        ("", "pods") => object["status"] = json!({"phase": "Pending", "qosClass": "BestEffort"}),
        ("apiextensions.k8s.io", "customresourcedefinitions") => established(object),
        _ => {}
    }
}

/// The conditions that the naming and establishing controllers set. At once: when other servers serve the new resource
/// is their own matter (`ServerSpec::crd_delay`).
pub(super) fn established(object: &mut Value) {
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "lastTransitionTime": clock::now(), "reason": reason, "message": message});
    let stored: Vec<Value> = object["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["storage"] == true)
        .map(|version| version["name"].clone())
        .collect();
    let mut names = object["spec"]["names"].clone();
    if names["singular"].is_null() {
        names["singular"] = json!(names["kind"].as_str().unwrap_or_default().to_lowercase());
    }
    if names["listKind"].is_null() {
        names["listKind"] = json!(format!(
            "{}List",
            names["kind"].as_str().unwrap_or_default()
        ));
    }
    object["spec"]["names"] = names.clone();
    object["status"] = json!({
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "acceptedNames": names,
        "storedVersions": stored,
    });
}
