//! Files to a [`Config`]: nothing here binds a port or starts a thread.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::tree::Tree;
use super::{
    Config, ConfigError, Endpoint, ManifestSource, Overrides, build, effective, manifest, own,
    references, rules, words,
};

/// A configuration by its keys, with the tree that it was built from. The files that it names have not been looked at.
pub struct Read {
    /// The values with their types, defaults filled in.
    pub config: Config,
    /// The values as they were written, and where each comes from.
    pub tree: Tree,
}

/// Reads a configuration file, overrides what was asked for, and checks types, ranges and the rules between keys.
///
/// # Errors
/// Whatever is wrong with it, in one line that names the key.
pub fn read_file(path: &Path, overrides: &Overrides) -> Result<Read, ConfigError> {
    read(file_tree(path)?, overrides)
}

/// As [`read_file`], from the manifest of the local kube-apiserver's static pod.
///
/// # Errors
/// As [`read_file`].
pub fn read_manifest(path: &Path, overrides: &Overrides) -> Result<Read, ConfigError> {
    let mut read = read(manifest_tree(path)?, overrides)?;
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    read.config.manifest = Some(ManifestSource::new(path, overrides.clone()));
    Ok(read)
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
    rules::rules(&config, &tree)?;
    Ok(config)
}

/// The tree of a file's text, for tests of what is checked on it.
#[cfg(test)]
pub(super) fn tree(text: &str, base: &Path) -> Tree {
    let document = yaml("file", text).and_then(|document| Tree::from_document(document, base));
    document.unwrap_or_else(|error| panic!("{error}"))
}

impl Read {
    /// Peers that are this node itself are refused, as is an agent that would connect to itself.
    ///
    /// # Errors
    /// In one line that names the key.
    pub fn check_addresses(&self) -> Result<(), ConfigError> {
        own::check(&self.config, &self.tree, &own::System)
    }

    /// The configuration with every default written out.
    ///
    /// # Errors
    /// Never with what [`read_file`] and [`read_manifest`] return.
    pub fn effective(&self) -> Result<Value, ConfigError> {
        effective::document(&self.tree, &self.config)
    }
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

fn read(mut tree: Tree, overrides: &Overrides) -> Result<Read, ConfigError> {
    overrides.apply(&mut tree)?;
    let mut config = build::build(&tree)?;
    rules::rules(&config, &tree)?;
    if let Some(enabled) = overrides.interoperability_proxy {
        config.interoperability_proxy = enabled;
    }
    Ok(Read { config, tree })
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
