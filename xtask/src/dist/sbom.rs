//! A software bill of materials in CycloneDX's form (1.5), from what cargo resolved and Cargo.lock pinned.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::run::{cargo_on, root};

/// What is in the agent: the libraries of `mvp` for `target`, and those of the BPF programs that are inside it. What only builds or tests it
/// is left out.
///
/// # Errors
/// cargo does not resolve the packages as they are locked.
pub(super) fn document(target: &str, epoch: u64) -> Result<String> {
    let agent = Packages::read("", &["--filter-platform", target])?;
    let programs = Packages::read("mvp-ebpf", &[])?;
    let sums = [
        sums(&root().join("Cargo.lock"))?,
        sums(&root().join("mvp-ebpf/Cargo.lock"))?,
    ];

    let mut components = BTreeMap::new();
    let mut links: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (packages, name, sums) in [(&agent, "mvp", &sums[0]), (&programs, "mvp-ebpf", &sums[1])] {
        for id in packages.below(name)? {
            let package = packages.package(&id)?;
            let reference = reference(package);
            let children = packages.children(&id).into_iter();
            let children: Vec<_> = children
                .filter_map(|id| packages.package(id).ok())
                .collect();
            let links = links.entry(reference.clone()).or_default();
            links.extend(children.into_iter().map(self::reference));
            components.insert(reference, component(package, sums));
        }
    }
    let main = reference(agent.named("mvp")?);
    // The programs are bytes inside the agent, which cargo does not know.
    let inside = reference(programs.named("mvp-ebpf")?);
    links.entry(main.clone()).or_default().insert(inside);
    let component = components.remove(&main).context("no package mvp")?;
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": timestamp(epoch)?,
            "component": with(component, "type", "application"),
            "properties": [{"name": "mvp:target", "value": target}],
        },
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": links
            .into_iter()
            .map(|(from, to)| json!({"ref": from, "dependsOn": to}))
            .collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// What `cargo metadata` says.
struct Packages(Value);

impl Packages {
    fn read(folder: &str, more: &[&str]) -> Result<Self> {
        let mut cargo = cargo_on("metadata", folder);
        cargo.args(["--format-version", "1"]).args(more);
        let told = cargo.output().context("cargo metadata")?;
        if !told.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&told.stderr));
        }
        Ok(Self(serde_json::from_slice(&told.stdout)?))
    }

    fn package(&self, id: &str) -> Result<&Value> {
        let found = list(&self.0["packages"]).iter().find(|p| p["id"] == id);
        found.with_context(|| format!("cargo metadata has no package {id}"))
    }

    fn named(&self, name: &str) -> Result<&Value> {
        let mut local = list(&self.0["packages"])
            .iter()
            .filter(|p| p["source"].is_null());
        let found = local.find(|p| p["name"] == name);
        found.with_context(|| format!("no package {name}"))
    }

    /// What is linked with a package, directly.
    fn children(&self, id: &str) -> Vec<&str> {
        let nodes = list(&self.0["resolve"]["nodes"]);
        let Some(node) = nodes.iter().find(|node| node["id"] == id) else {
            return Vec::new();
        };
        let linked = |dep: &&Value| {
            list(&dep["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"].is_null())
        };
        let linked = list(&node["deps"]).iter().filter(linked);
        linked.filter_map(|dep| dep["pkg"].as_str()).collect()
    }

    /// A package and all that it is linked with.
    fn below(&self, name: &str) -> Result<BTreeSet<String>> {
        let start = self.named(name)?["id"].as_str().unwrap_or_default();
        let mut found = BTreeSet::from([start.to_owned()]);
        let mut next = vec![start];
        while let Some(id) = next.pop() {
            for child in self.children(id) {
                if found.insert(child.to_owned()) {
                    next.push(child);
                }
            }
        }
        Ok(found)
    }
}

fn component(package: &Value, sums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let mut component = json!({
        "type": "library",
        "bom-ref": reference(package),
        "name": name,
        "version": version,
        "purl": reference(package),
    });
    // Cargo's older way to write "or".
    if let Some(license) = package["license"].as_str() {
        let license = license.replace('/', " OR ");
        component["licenses"] = json!([{"expression": license}]);
    }
    if let Some(sum) = sums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{"alg": "SHA-256", "content": sum}]);
    }
    if let Some(repository) = package["repository"].as_str() {
        component["externalReferences"] = json!([{"type": "vcs", "url": repository}]);
    }
    component
}

/// As package URLs name a crate.
fn reference(package: &Value) -> String {
    format!(
        "pkg:cargo/{}@{}",
        text(&package["name"]),
        text(&package["version"])
    )
}

/// The checksums of a Cargo.lock by name and version. Its form is fixed: one `key = "value"` a line in each `[[package]]`.
fn sums(lock: &Path) -> Result<BTreeMap<(String, String), String>> {
    let lock = fs::read_to_string(lock).with_context(|| format!("{}", lock.display()))?;
    let mut sums = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| {
            let start = format!("{key} = \"");
            let value = package.lines().find_map(|line| line.strip_prefix(&start));
            value.map(|value| value.trim_end_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(sum)) =
            (value("name"), value("version"), value("checksum"))
        {
            sums.insert((name, version), sum);
        }
    }
    Ok(sums)
}

/// RFC 3339, in UTC.
fn timestamp(epoch: u64) -> Result<String> {
    let date = Command::new("date")
        .args(["--utc", "+%Y-%m-%dT%H:%M:%SZ"])
        .arg(format!("--date=@{epoch}"))
        .output()
        .context("date")?;
    Ok(String::from_utf8(date.stdout)?.trim().to_owned())
}

fn with(mut value: Value, key: &str, new: &str) -> Value {
    value[key] = new.into();
    value
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
