//! From the table to the surface of one server.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{Group, Resource, Subresource, Surface, Version, table::TABLE};
use crate::sim::discovery::Documents;

/// Which APIs a server has switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Apis {
    /// Those of a server without flags.
    Default,
    /// `--runtime-config=api/all=true`.
    All,
    /// The same with `--feature-gates=AllAlpha=true,AllBeta=true`: what the Kubernetes project publishes for a release.
    AllWithGates,
}

/// What a kube-apiserver of that minor serves without flags, or with `--runtime-config=api/all=true`.
pub fn surface(minor: u8, all_apis: bool) -> Surface {
    surface_of(minor, if all_apis { Apis::All } else { Apis::Default })
}

/// What a kube-apiserver of that minor serves with those APIs. Minors outside 31 to 36 get the lines that fit them and
/// are nobody's surface.
pub fn surface_of(minor: u8, apis: Apis) -> Surface {
    match parse(TABLE, minor, apis) {
        Ok(groups) => Surface {
            minor,
            groups,
            documents: Documents::default(),
        },
        Err(line) => panic!("the surface table has a line that is not in its own format: {line}"),
    }
}

/// `StorageVersionHash` of k8s.io/apiserver/pkg/endpoints/discovery: eight bytes of SHA-256 over the stored kind.
pub(super) fn storage_version_hash(group: &str, version: &str, kind: &str) -> String {
    let digest = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&digest[..8])
}

fn parse(table: &str, minor: u8, apis: Apis) -> Result<Vec<Group>, String> {
    let mut groups: Vec<Group> = Vec::new();
    let mut when = "";
    for line in table.lines().filter(|line| !line.is_empty()) {
        let malformed = || line.to_owned();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["group", name] => groups.push(Group {
                name: if name == "core" { "" } else { name }.to_owned(),
                versions: Vec::new(),
            }),
            ["version", name, ref rest @ ..] => {
                when = rest
                    .first()
                    .and_then(|word| word.strip_prefix('@'))
                    .unwrap_or_default();
                let group = groups.last_mut().ok_or_else(malformed)?;
                group.versions.push(Version {
                    name: name.to_owned(),
                    resources: Vec::new(),
                });
            }
            _ => {
                let group = groups.last_mut().ok_or_else(malformed)?;
                let name = group.name.clone();
                let version = group.versions.last_mut().ok_or_else(malformed)?;
                let own = words.iter().find_map(|word| word.strip_prefix('@'));
                let resource =
                    resource(&words, &name, &version.name, minor, apis).ok_or_else(malformed)?;
                if available(own.unwrap_or(when), minor, apis).ok_or_else(malformed)? {
                    version.resources.push(resource);
                }
            }
        }
    }
    for group in &mut groups {
        group
            .versions
            .retain(|version| !version.resources.is_empty());
    }
    groups.retain(|group| !group.versions.is_empty());
    Ok(groups)
}

fn resource(words: &[&str], group: &str, version: &str, minor: u8, apis: Apis) -> Option<Resource> {
    let [name, kind, scope, letters, options @ ..] = words else {
        return None;
    };
    let mut resource = Resource {
        name: (*name).to_owned(),
        singular: kind.to_lowercase(),
        kind: (*kind).to_owned(),
        kind_group: String::new(),
        kind_version: String::new(),
        namespaced: match *scope {
            "ns" => true,
            "cluster" => false,
            _ => return None,
        },
        verbs: verbs(letters)?,
        short_names: Vec::new(),
        categories: Vec::new(),
        subresources: Vec::new(),
        custom: false,
        storage_version_hash: String::new(),
        schema: None,
    };
    let mut stored = (group, version);
    for option in options {
        if let Some(names) = option.strip_prefix("sn=") {
            resource.short_names = names.split(',').map(str::to_owned).collect();
        } else if let Some(names) = option.strip_prefix("cat=") {
            resource.categories = names.split(',').map(str::to_owned).collect();
        } else if let Some(list) = option.strip_prefix("stored=") {
            for one in list.split(',') {
                let (stored_as, when) = one.split_once('@').unwrap_or((one, ""));
                if available(when, minor, Apis::Default)? {
                    stored = match stored_as.split_once('/') {
                        Some(("core", version)) => ("", version),
                        Some(other) => other,
                        None => (group, stored_as),
                    };
                }
            }
        } else if let Some(subresource) = option.strip_prefix('/') {
            let (subresource, when) = subresource.split_once('@').unwrap_or((subresource, ""));
            if available(when, minor, apis)? {
                resource
                    .subresources
                    .push(self::subresource(subresource, kind)?);
            }
        } else if !option.starts_with('@') {
            return None;
        }
    }
    // Reviews and bindings are answered and forgotten; componentstatuses are asked for when read.
    let is_stored = ["create", "list"]
        .iter()
        .all(|verb| resource.verbs.iter().any(|one| one == verb));
    if is_stored {
        resource.storage_version_hash = storage_version_hash(stored.0, stored.1, kind);
    }
    Some(resource)
}

fn subresource(text: &str, parent: &str) -> Option<Subresource> {
    let (text, letters) = text.split_once(':').unwrap_or((text, "gpu"));
    let (name, kind) = match text.split_once('=') {
        Some(both) => both,
        None if text == "scale" => (text, "autoscaling/v1/Scale"),
        None => (text, parent),
    };
    let mut parts = kind.rsplit('/');
    Some(Subresource {
        name: name.to_owned(),
        kind: parts.next()?.to_owned(),
        kind_version: parts.next().unwrap_or_default().to_owned(),
        kind_group: parts.next().unwrap_or_default().to_owned(),
        verbs: verbs(letters)?,
        accepted_types: Vec::new(),
    })
}

fn verbs(letters: &str) -> Option<Vec<String>> {
    let letters = if letters == "*" { "cdDglpuw" } else { letters };
    letters
        .chars()
        .map(|letter| {
            Some(
                match letter {
                    'c' => "create",
                    'd' => "delete",
                    'D' => "deletecollection",
                    'g' => "get",
                    'l' => "list",
                    'p' => "patch",
                    'u' => "update",
                    'w' => "watch",
                    _ => return None,
                }
                .to_owned(),
            )
        })
        .collect()
}

/// Whether a WHEN holds; nothing for one that is malformed.
fn available(when: &str, minor: u8, apis: Apis) -> Option<bool> {
    let mut found = when.is_empty();
    for part in when.split(',').filter(|part| !part.is_empty()) {
        let (needs, range) = match part.as_bytes().first()? {
            b'a' => (Apis::All, &part[1..]),
            b'g' => (Apis::AllWithGates, &part[1..]),
            _ => (Apis::Default, part),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (bound(from, 0)?, bound(to, u8::MAX)?),
            None if range.is_empty() => (0, u8::MAX),
            None => (range.parse().ok()?, range.parse().ok()?),
        };
        found |= (from..=to).contains(&minor) && apis >= needs;
    }
    Some(found)
}

fn bound(text: &str, open: u8) -> Option<u8> {
    if text.is_empty() {
        Some(open)
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when() {
        let holds = |when, minor, apis| available(when, minor, apis);
        assert_eq!(holds("", 31, Apis::Default), Some(true));
        assert_eq!(holds("33-", 32, Apis::AllWithGates), Some(false));
        assert_eq!(holds("33-", 33, Apis::Default), Some(true));
        assert_eq!(holds("-32", 32, Apis::Default), Some(true));
        assert_eq!(holds("-32", 33, Apis::Default), Some(false));
        assert_eq!(holds("g33-35,a36-", 35, Apis::All), Some(false));
        assert_eq!(holds("g33-35,a36-", 35, Apis::AllWithGates), Some(true));
        assert_eq!(holds("g33-35,a36-", 36, Apis::All), Some(true));
        assert_eq!(holds("a", 36, Apis::Default), Some(false));
        assert_eq!(holds("x33", 33, Apis::Default), None);
    }

    #[test]
    fn malformed_lines_are_named() {
        for line in [
            "pods Pod ns *",
            "group a\npods Pod ns *",
            "group a\nversion v1\npods Pod everywhere *",
            "group a\nversion v1\npods Pod ns xyz",
            "group a\nversion v1\npods Pod ns * short=po",
        ] {
            assert!(parse(line, 36, Apis::Default).is_err(), "{line}");
        }
    }

    #[test]
    fn hash_of_a_stored_version() {
        // Published with every release for core/v1 configmaps.
        assert_eq!(storage_version_hash("", "v1", "ConfigMap"), "qFsyl6wFWjQ=");
    }
}
