//! What libraries find wrong, in the words of a configuration's author.

use std::path::Path;

use kube::config::{Kubeconfig, KubeconfigError};
use serde_saphyr::{Error, UserMessageFormatter};

/// Why a text is no valid YAML, and where.
pub(super) fn yaml(error: &Error) -> String {
    let error = error.without_snippet();
    let problem = match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key {key} is there twice")
        }
        Error::DuplicateMappingKey { .. } => "a key is there twice".to_owned(),
        Error::MultipleDocuments { .. } => "there is more than one document in it (---)".to_owned(),
        Error::Budget { .. } => "it is too large, or too deeply nested".to_owned(),
        // It tells the place itself.
        other => return other.render_with_formatter(&UserMessageFormatter),
    };
    match error.location() {
        Some(place) => format!(
            "{problem} at line {}, column {}",
            place.line(),
            place.column()
        ),
        None => problem,
    }
}

/// # Errors
/// Why the file is no kubeconfig by which a server could be asked. What it names is not tried.
pub(crate) fn kubeconfig(path: &Path) -> Result<(), String> {
    let file = Kubeconfig::read_from(path).map_err(|error| match error {
        KubeconfigError::ReadConfig(error, _) => error.to_string(),
        KubeconfigError::Parse(error) => format!("is no valid YAML: {}", yaml(&error)),
        _ => "is no kubeconfig".to_owned(),
    })?;
    let current = file.current_context.unwrap_or_default();
    if current.is_empty() {
        return Err("has no current-context".to_owned());
    }
    let context = file.contexts.iter().find(|named| named.name == current);
    let context = context
        .and_then(|named| named.context.as_ref())
        .ok_or_else(|| format!("has no context {current:?}, which is its current-context"))?;
    let cluster = &context.cluster;
    if !file.clusters.iter().any(|named| named.name == *cluster) {
        return Err(format!(
            "has no cluster {cluster:?}, which its context names"
        ));
    }
    let user = context.user.clone().unwrap_or_default();
    if !file.auth_infos.iter().any(|named| named.name == user) {
        return Err(format!("has no user {user:?}, which its context names"));
    }
    Ok(())
}
