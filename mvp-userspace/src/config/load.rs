//! Files to a [`Config`]: nothing here binds a port or starts a thread.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tree::Tree;
use super::{
    Config, ConfigError, Endpoint, ManifestSource, Overrides, build, check, effective, manifest,
    own, references, words,
};

/// Reads, overrides and checks a configuration file, and the files it names.
pub fn from_file(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    finish(file_tree(path)?, overrides).map(|(config, _)| config)
}

/// What [`from_file`] reads, with every default written out.
pub fn effective_file(path: &Path, overrides: &Overrides) -> Result<Value, ConfigError> {
    let (config, tree) = finish(file_tree(path)?, overrides)?;
    effective::document(&tree, &config)
}

/// What [`from_manifest`] reads, as a configuration file that says the same.
pub fn effective_manifest(path: &Path, overrides: &Overrides) -> Result<Value, ConfigError> {
    let (config, tree) = finish(manifest_tree(path)?, overrides)?;
    effective::document(&tree, &config)
}

/// Takes everything from the manifest of the local kube-apiserver's static pod.
pub fn from_manifest(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    let (mut config, _) = finish(manifest_tree(path)?, overrides)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    config.manifest = Some(ManifestSource::new(path, overrides.clone()));
    Ok(config)
}

/// With which chance the kube-apiserver of this manifest answers a request over HTTP/2 with GOAWAY, so that its client connects anew
/// (`--goaway-chance`); 0 where it does not.
///
/// # Errors
/// The manifest cannot be read, or is no kube-apiserver's.
pub fn goaway_chance(path: &Path) -> Result<f64, ConfigError> {
    manifest::goaway_chance(&read_yaml(path)?, path, &references::System)
}

/// The text of a file whose relative paths are relative to `base`. Pure: no file is opened.
pub fn parse(text: &str, base: &Path) -> Result<Config, ConfigError> {
    let tree = Tree::from_document(yaml("file", text)?, base)?;
    let config = build::build(&tree)?;
    check::rules(&config, &tree)?;
    Ok(config)
}

/// The tree of a file's text, for tests of what is checked on it.
#[cfg(test)]
pub(super) fn tree(text: &str, base: &Path) -> Tree {
    let document = yaml("file", text).and_then(|document| Tree::from_document(document, base));
    document.unwrap_or_else(|error| panic!("{error}"))
}

impl Config {
    /// Sixteen hexadecimal digits that differ when any value does that all nodes should have in common: two nodes can be
    /// compared at a glance. Names and addresses of servers and of the agent itself, which are each node's own, and contents
    /// of files are not part of it.
    pub fn digest(&self) -> String {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut common = self.clone();
        common.node.clear();
        common.listen = nowhere;
        common.admin.listen = nowhere;
        common.local = Endpoint {
            name: String::new(),
            host: String::new(),
            port: 0,
        };
        common.advertise = None;
        common.peers.fixed.clear();
        common.manifest = None;
        let hash = Sha256::digest(format!("{common:?}"));
        hash.iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn file_tree(path: &Path) -> Result<Tree, ConfigError> {
    let whole = |error: ConfigError| match error.key.as_str() {
        "file" => ConfigError::new(path.display().to_string(), error.problem),
        _ => error,
    };
    Tree::from_document(read_yaml(path)?, &folder(path)?).map_err(whole)
}

fn manifest_tree(path: &Path) -> Result<Tree, ConfigError> {
    let pod = read_yaml(path)?;
    manifest::to_tree(&pod, path, &folder(path)?, &references::System)
}

fn finish(mut tree: Tree, overrides: &Overrides) -> Result<(Config, Tree), ConfigError> {
    overrides.apply(&mut tree)?;
    let mut config = build::build(&tree)?;
    check::rules(&config, &tree)?;
    check::files(&config, &tree)?;
    own::check(&config, &tree, &own::System)?;
    if let Some(enabled) = overrides.interoperability_proxy {
        config.interoperability_proxy = enabled;
    }
    Ok((config, tree))
}

fn read_yaml(path: &Path) -> Result<Value, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(&shown, error.to_string()))?;
    yaml(&shown, &text)
}

fn yaml(name: &str, text: &str) -> Result<Value, ConfigError> {
    // Without strict booleans `steering: off` would arrive as `false`.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        ConfigError::new(name, format!("is no valid YAML: {}", words::yaml(&error)))
    })
}

fn folder(path: &Path) -> Result<std::path::PathBuf, ConfigError> {
    let absolute = std::path::absolute(path)
        .map_err(|error| ConfigError::new(path.display().to_string(), error.to_string()))?;
    Ok(absolute.parent().unwrap_or(Path::new("/")).to_owned())
}
