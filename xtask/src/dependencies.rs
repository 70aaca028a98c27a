//! The dependencies: the lock files fit the manifests, and everything that is compiled obeys `deny.toml`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::run::{cargo, cargo_on, find, output, root, run};

/// The folders that have a `Cargo.lock` of their own.
const LOCKED: [&str; 3] = ["", "mvp-ebpf", "tests/fuzz"];

/// The targets that the agent is built for.
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// # Errors
/// If a lock file is out of date or a dependency is not allowed; all such dependencies are named.
pub(crate) fn check() -> Result<()> {
    for folder in LOCKED {
        // Changes nothing: the command that would write the lock file fails because of --locked.
        run(cargo_on("update", folder).args(["--quiet", "--workspace"]))?;
    }
    let policy = Policy::read(&root().join("deny.toml"))?;
    let mut tree = cargo("tree");
    tree.args(["--workspace", "--edges", "normal,build,dev"]);
    tree.args(["--prefix", "none", "--format", "{p}|{l}"]);
    for target in TARGETS {
        tree.args(["--target", target]);
    }
    let tree = output(&mut tree).context("cargo tree fails; run it to see why")?;
    let faults = policy.faults(&packages(&tree));
    if !faults.is_empty() {
        bail!(
            "dependencies that deny.toml does not allow:\n{}",
            faults.join("\n")
        );
    }
    // It takes minutes to build, so that nobody has to have it.
    if find("cargo-deny").is_some() {
        run(cargo("deny").args(["--offline", "check", "licenses", "bans", "sources"]))?;
    }
    Ok(())
}

/// The lists of `deny.toml`.
#[derive(Debug, Default)]
struct Policy {
    /// Licences, as SPDX names them.
    licences: Vec<String>,
    /// Names of crates.
    banned: Vec<String>,
    /// `name@version`: the older one of two that are compiled.
    duplicates: Vec<String>,
}

/// What cargo compiles.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Package {
    name: String,
    version: String,
    licence: String,
}

impl Policy {
    fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Ok(Self {
            licences: list(&text, "licenses", "allow"),
            banned: list(&text, "bans", "deny"),
            duplicates: list(&text, "bans", "skip"),
        })
    }

    fn faults(&self, packages: &[Package]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for package in packages {
            versions
                .entry(&package.name)
                .or_default()
                .push(&package.version);
            if self.banned.contains(&package.name) {
                faults.push(format!("{} is banned", package.name));
            }
            if !is_allowed(&package.licence, &self.licences) {
                faults.push(format!("{}: licence {:?}", package.name, package.licence));
            }
        }
        for (name, versions) in &versions {
            let known = |version: &&&str| self.duplicates.contains(&format!("{name}@{version}"));
            let left = versions.iter().filter(|version| !known(version)).count();
            if left > 1 {
                faults.push(format!(
                    "{name} in several versions: {}",
                    versions.join(", ")
                ));
            }
        }
        for duplicate in &self.duplicates {
            let (name, version) = duplicate.split_once('@').unwrap_or((duplicate, ""));
            let still = versions
                .get(name)
                .is_some_and(|all| all.len() > 1 && all.contains(&version));
            if !still {
                faults.push(format!("{duplicate} is listed as a duplicate and is none"));
            }
        }
        faults
    }
}

/// The packages that `cargo tree` prints as `name v1.2.3 (more)|licence`, each once.
fn packages(tree: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = tree
        .lines()
        .filter_map(|line| {
            let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
            let (name, rest) = package.split_once(" v")?;
            Some(Package {
                name: name.to_owned(),
                version: rest.split(' ').next()?.to_owned(),
                licence: licence.to_owned(),
            })
        })
        .collect();
    packages.sort();
    packages.dedup();
    packages
}

/// The first string of each line of a list in a TOML file whose lists have one entry per line.
fn list(text: &str, section: &str, key: &str) -> Vec<String> {
    let (section, key) = (format!("[{section}]"), format!("{key} = ["));
    text.lines()
        .skip_while(|line| *line != section)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .skip_while(|line| *line != key)
        .skip(1)
        .take_while(|line| *line != "]")
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

/// Whether an SPDX expression can be fulfilled with these licences alone. The old form `A/B` means either.
fn is_allowed(expression: &str, licences: &[String]) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let allowed = any_of(&mut rest, licences);
    !words.is_empty() && rest.is_empty() && allowed
}

fn any_of(words: &mut &[&str], licences: &[String]) -> bool {
    let mut allowed = all_of(words, licences);
    while let ["OR", rest @ ..] = *words {
        *words = rest;
        allowed |= all_of(words, licences);
    }
    allowed
}

fn all_of(words: &mut &[&str], licences: &[String]) -> bool {
    let mut allowed = one_of(words, licences);
    while let ["AND", rest @ ..] = *words {
        *words = rest;
        allowed &= one_of(words, licences);
    }
    allowed
}

fn one_of(words: &mut &[&str], licences: &[String]) -> bool {
    match *words {
        ["(", rest @ ..] => {
            *words = rest;
            let allowed = any_of(words, licences);
            let [")", rest @ ..] = *words else {
                return false;
            };
            *words = rest;
            allowed
        }
        [licence, "WITH", exception, rest @ ..] => {
            *words = rest;
            licences.contains(&format!("{licence} WITH {exception}"))
        }
        [licence, rest @ ..] => {
            *words = rest;
            licences.iter().any(|allowed| allowed == licence)
        }
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn deny_toml_can_be_read_and_gives_a_reason_for_each_crate() {
        let file = root().join("deny.toml");
        let policy = Policy::read(&file).unwrap();
        assert!(
            policy.licences.contains(&"Apache-2.0".to_owned()),
            "{policy:?}"
        );
        assert!(policy.banned.contains(&"ring".to_owned()), "{policy:?}");
        let text = fs::read_to_string(file).unwrap();
        let crates = text.lines().filter(|line| line.contains("{ crate = "));
        assert_eq!(
            crates.clone().count(),
            policy.banned.len() + policy.duplicates.len()
        );
        for line in crates {
            assert!(line.contains("reason = \""), "{line}");
        }
    }

    #[test]
    fn licences_are_read_as_spdx_has_them() {
        let allowed = of(&["MIT", "Apache-2.0", "ISC", "Apache-2.0 WITH LLVM-exception"]);
        for expression in [
            "MIT",
            "Unlicense OR MIT",
            "Unlicense/MIT",
            "ISC AND (Apache-2.0 OR OpenSSL)",
            "(GPL-2.0 AND MIT) OR ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(is_allowed(expression, &allowed), "{expression}");
        }
        for expression in [
            "",
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT WITH other",
            "(MIT",
            "MIT MIT",
        ] {
            assert!(!is_allowed(expression, &allowed), "{expression}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_named() {
        let policy = Policy {
            licences: of(&["MIT"]),
            banned: of(&["ring"]),
            duplicates: of(&["twice@1.0.0", "once@2.0.0"]),
        };
        let tree = "\
mvp v0.1.0 (/somewhere)|MIT
ring v0.17.14|MIT
twice v1.0.0|MIT
twice v2.0.0|MIT (*)
thrice v1.0.0 (proc-macro)|MIT
thrice v2.0.0|MIT
once v2.0.0|MIT
free v1.0.0|GPL-3.0
free v1.0.0|GPL-3.0 (*)";
        let faults = policy.faults(&packages(tree));
        assert_eq!(
            faults,
            [
                "free: licence \"GPL-3.0\"",
                "ring is banned",
                "thrice in several versions: 1.0.0, 2.0.0",
                "once@2.0.0 is listed as a duplicate and is none",
            ]
        );
    }
}
