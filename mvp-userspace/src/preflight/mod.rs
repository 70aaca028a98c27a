//! What stands before a start: a configuration is read, and so is every file that it names. Nothing here binds a port or starts a
//! thread.
//!
//! The configuration itself knows no certificates; it is checked here that the agent could load what it names.

mod files;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde_json::Value;

use crate::config::{self, Config, ConfigError, ManifestSource, Overrides, Read};

/// Reads, overrides and checks a configuration file, and the files that it names.
///
/// # Errors
/// Whatever is wrong with it, in one line that names the key.
pub fn from_file(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    checked(config::read_file(path, overrides)?).map(|read| read.config)
}

/// Takes everything from the manifest of the local kube-apiserver's static pod.
///
/// # Errors
/// As [`from_file`].
pub fn from_manifest(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
    checked(config::read_manifest(path, overrides)?).map(|read| read.config)
}

/// Reads a manifest again, and every file that it names.
///
/// # Errors
/// Whatever would stop a start.
pub fn again(source: &ManifestSource) -> Result<Config, ConfigError> {
    from_manifest(source.path(), source.overrides())
}

/// What [`from_file`] reads, with every default written out.
///
/// # Errors
/// As [`from_file`].
pub fn effective_file(path: &Path, overrides: &Overrides) -> Result<Value, ConfigError> {
    checked(config::read_file(path, overrides)?)?.effective()
}

/// What [`from_manifest`] reads, as a configuration file that says the same.
///
/// # Errors
/// As [`from_file`].
pub fn effective_manifest(path: &Path, overrides: &Overrides) -> Result<Value, ConfigError> {
    checked(config::read_manifest(path, overrides)?)?.effective()
}

fn checked(read: Read) -> Result<Read, ConfigError> {
    files::check(&read.config, &read.tree)?;
    read.check_addresses()?;
    Ok(read)
}
