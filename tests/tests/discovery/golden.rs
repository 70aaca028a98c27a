//! What real servers answered, read, merged and written again. Needs the folder of saved answers beside the workspace.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mvp::api::GroupVersion;
use mvp::document::{
    AggregatedVersion, ApiResourceList, Document, Input, Layout, Priorities, aggregated_json,
    aggregated_yaml, api_group, api_group_list, api_resource_list, compare_versions, etag, merge,
    merge_resource_list, to_json,
};
use mvp::document::{Root, group_versions};
use serde_json::Value;
use sha2::{Digest, Sha512};

/// The folder of saved answers, or a note why the test ends here.
fn saved() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/discovery");
    let found = folder.canonicalize().ok();
    if found.is_none() {
        eprintln!(
            "skipped: no saved discovery documents at {}",
            folder.display()
        );
    }
    found
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// What routing has of a document.
fn keys(document: &Document) -> BTreeSet<String> {
    let set = document.api_set();
    let entries = set.entries().iter();
    entries.map(|entry| format!("{:?}", entry.key())).collect()
}

/// The same, read without the product's code.
fn keys_of(document: &Value) -> BTreeSet<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut keys = BTreeSet::new();
    for group in list(&document["items"]) {
        for version in list(&group["versions"]) {
            for resource in list(&version["resources"]) {
                let mut add = |subresource: String| {
                    let group = name(&group["metadata"]["name"]);
                    let (version, resource) =
                        (name(&version["version"]), name(&resource["resource"]));
                    keys.insert(format!("{:?}", (group, version, resource, subresource)));
                };
                if !name(&resource["responseKind"]["kind"]).is_empty() {
                    add(String::new());
                }
                for subresource in list(&resource["subresources"]) {
                    add(name(&subresource["subresource"]));
                }
            }
        }
    }
    keys
}

fn root_of(path: &Path) -> Root {
    if path.to_string_lossy().ends_with("apis.json") {
        Root::Groups
    } else {
        Root::Core
    }
}

fn document(path: &Path) -> Document {
    Document::aggregated(&read(path), root_of(path)).unwrap()
}

fn running(folder: &Path) -> Vec<PathBuf> {
    let running = folder.join("running");
    [files(&running, "-apis.json"), files(&running, "-api.json")].concat()
}

fn etag_of(path: &Path) -> String {
    let headers = String::from_utf8(read(&path.with_extension("headers"))).unwrap();
    let line = headers
        .lines()
        .find(|line| line.starts_with("etag: "))
        .unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

/// Removes what servers up to 1.33 write into the metadata of each group.
fn without_timestamps(text: &str) -> String {
    text.replace(",\n        \"creationTimestamp\": null\n", "\n")
        .replace("{\n        \"creationTimestamp\": null\n      }", "{}")
}

#[test]
fn running_servers_bytes_and_etags() {
    let Some(saved) = saved() else { return };
    let mut with_etag = 0;
    for path in running(&saved) {
        let text = String::from_utf8(read(&path)).unwrap();
        let document = document(&path);
        let pretty = aggregated_json(&document, AggregatedVersion::V2, Layout::Pretty);
        assert_eq!(
            String::from_utf8(pretty).unwrap(),
            without_timestamps(&text),
            "{}",
            path.display()
        );
        if !text.contains("creationTimestamp") {
            assert_eq!(etag(&document), etag_of(&path), "{}", path.display());
            with_etag += 1;
        }
        // The one-line form is the same document.
        let compact = aggregated_json(&document, AggregatedVersion::V2, Layout::Compact);
        assert!(compact.ends_with(b"}\n") && compact.iter().filter(|b| **b == b'\n').count() == 1);
        assert_eq!(
            Document::aggregated(&compact, root_of(&path)).unwrap(),
            document
        );
        let yaml = aggregated_yaml(&document, AggregatedVersion::V2).unwrap();
        let back: Value = serde_saphyr::from_slice(&yaml).unwrap();
        assert_eq!(back, serde_json::from_slice::<Value>(&compact).unwrap());
        assert_eq!(
            keys(&document),
            keys_of(&serde_json::from_str(&text).unwrap())
        );
    }
    assert_eq!(with_etag, 6);
}

#[test]
fn unaggregated_roots_of_running_servers() {
    let Some(saved) = saved() else { return };
    for path in files(&saved.join("running"), "-apis.json") {
        let whole = document(&path);
        let legacy = path
            .to_string_lossy()
            .replace("-apis.json", "-apis-unaggregated.json");
        let text = read(Path::new(&legacy));
        let ours = to_json(&api_group_list(&whole), Layout::Pretty);
        if legacy.contains("v1.33.13") {
            // Its /apis lists the APIServices that a newer server had registered, and with them a group that it does not serve.
            let groups =
                |json: &[u8]| serde_json::from_slice::<Value>(json).unwrap()["groups"].clone();
            let mut theirs = groups(&text).as_array().unwrap().clone();
            theirs.retain(|group| group["name"] != "resource.k8s.io");
            assert_eq!(groups(&ours), Value::Array(theirs));
        } else {
            assert_eq!(
                String::from_utf8(ours).unwrap(),
                String::from_utf8(text).unwrap(),
                "{legacy}"
            );
        }
    }
}

#[test]
fn published_documents_of_both_versions_and_shapes() {
    let Some(saved) = saved() else { return };
    let published = saved.join("published");
    for path in files(&published, "-all-apis.json") {
        let text = read(&path);
        let whole = Document::aggregated(&text, Root::Groups).unwrap();
        assert_eq!(whole.groups.len(), 22, "{}", path.display());
        // The same fields under either version's name.
        for version in [AggregatedVersion::V2, AggregatedVersion::V2beta1] {
            let json = aggregated_json(&whole, version, Layout::Compact);
            assert_eq!(Document::aggregated(&json, Root::Groups).unwrap(), whole);
        }
        let mut theirs: Value = serde_json::from_slice(&text).unwrap();
        let version = match path.to_string_lossy().contains("v2beta1") {
            true => AggregatedVersion::V2beta1,
            false => AggregatedVersion::V2,
        };
        let ours: Value =
            serde_json::from_slice(&aggregated_json(&whole, version, Layout::Compact)).unwrap();
        for item in theirs["items"].as_array_mut().unwrap() {
            item["metadata"]
                .as_object_mut()
                .unwrap()
                .remove("creationTimestamp");
        }
        assert_eq!(ours["items"], theirs["items"], "{}", path.display());
        assert_eq!(ours["apiVersion"], theirs["apiVersion"]);
    }
}

/// The legacy documents of one release: by file name.
fn legacy(folder: &Path) -> Vec<(GroupVersion, Vec<u8>)> {
    let listed = group_versions(&read(&folder.join("apis.json")), Root::Groups).unwrap();
    let path = |gv: &GroupVersion| folder.join(format!("apis__{}__{}.json", gv.group, gv.version));
    listed
        .into_iter()
        .map(|gv| (gv.clone(), read(&path(&gv))))
        .collect()
}

fn without_hash(mut list: Value) -> Value {
    for resource in list["resources"].as_array_mut().unwrap() {
        resource
            .as_object_mut()
            .unwrap()
            .remove("storageVersionHash");
    }
    list
}

#[test]
fn legacy_shapes_of_a_published_release() {
    let Some(saved) = saved() else { return };
    for (aggregated, folder) in [
        ("aggregated_v2-v1.36.2-all-apis.json", "legacy-v1.36.2"),
        (
            "aggregated_v2beta1-v1.31.13-all-apis.json",
            "legacy-v1.31.13",
        ),
    ] {
        let folder = saved.join("published").join(folder);
        let whole = document(&saved.join("published").join(aggregated));
        let json = |value: Vec<u8>| serde_json::from_slice::<Value>(&value).unwrap();

        let roots = json(to_json(&api_group_list(&whole), Layout::Compact));
        assert_eq!(roots, json(read(&folder.join("apis.json"))));
        let legacy = legacy(&folder);
        for (gv, list) in &legacy {
            let group = api_group(&whole, &gv.group).unwrap();
            let theirs = read(&folder.join(format!("apis__{}.json", gv.group)));
            assert_eq!(json(to_json(&group, Layout::Compact)), json(theirs), "{gv}");

            let ours = api_resource_list(&whole, &gv.group, &gv.version).unwrap();
            let ours = json(to_json(&ours, Layout::Compact));
            assert_eq!(ours, without_hash(json(list.clone())), "{gv}");

            // A local answer that lacks nothing stays as it is, with its hashes.
            let local = ApiResourceList::from_json(list).unwrap();
            assert_eq!(json(to_json(&local, Layout::Compact)), json(list.clone()));
            let same = merge_resource_list(local.clone(), &whole, &gv.group, &gv.version);
            assert_eq!(same, local);
        }
        let lists = files(&folder, ".json").len() - whole.groups.len() - 3;
        assert_eq!(legacy.len(), lists, "{}", folder.display());

        // The other way: what the server would give out aggregated. The lists do not say acceptedTypes; no release uses them.
        let bytes: Vec<(GroupVersion, &[u8])> = legacy
            .iter()
            .map(|(gv, list)| (gv.clone(), list.as_slice()))
            .collect();
        assert_eq!(Document::from_legacy(&bytes).unwrap(), whole);
    }
}

#[test]
fn core_of_a_published_release() {
    let Some(saved) = saved() else { return };
    let list = read(&saved.join("published/legacy-v1.36.2/api__v1.json"));
    let v1 = GroupVersion {
        group: "".into(),
        version: "v1".into(),
    };
    let core = Document::from_legacy(&[(v1, list.as_slice())]).unwrap();
    assert_eq!(core, document(&saved.join("running/v1.36.3-api.json")));
    let ours = api_resource_list(&core, "", "v1").unwrap();
    let ours: Value = serde_json::from_slice(&to_json(&ours, Layout::Compact)).unwrap();
    assert_eq!(ours, without_hash(serde_json::from_slice(&list).unwrap()));
}

#[test]
fn merging_releases_loses_nothing() {
    let Some(saved) = saved() else { return };
    let all: Vec<Document> = [
        files(&saved.join("running"), "-apis.json"),
        files(&saved.join("published"), "-all-apis.json"),
    ]
    .concat()
    .iter()
    .map(|path| document(path))
    .collect();
    let priorities = Priorities::default();
    let live = |document| Input {
        document,
        alive: true,
    };
    let oldest = &document(&saved.join("published/aggregated_v2beta1-v1.31.13-all-apis.json"));
    let (mut differing, mut disagreeing) = (0, 0);
    for a in &all {
        for b in &all {
            let both = merge(&[live(a), live(b)], &priorities);
            assert_eq!(both, merge(&[live(b), live(a)], &priorities));
            differing += usize::from(both != *a && both != *b);
            let set = both.api_set();
            for part in [a, b] {
                for entry in part.api_set().entries() {
                    let found = set
                        .entries()
                        .iter()
                        .find(|e| e.key() == entry.key())
                        .unwrap();
                    assert_eq!(found.verbs.union(entry.verbs), found.verbs);
                }
            }
            let names = |d: &Document| d.groups.iter().map(|g| g.name.clone()).collect::<Vec<_>>();
            let shared = |d: &Document, of: &Document| {
                names(d)
                    .into_iter()
                    .filter(|name| of.group(name).is_some())
                    .collect::<Vec<_>>()
            };
            if shared(a, b) == shared(b, a) {
                assert!(is_subsequence(names(a), names(&both)));
                assert!(is_subsequence(names(b), names(&both)));
            } else {
                // 1.31 has resource.k8s.io behind flowcontrol and internal, newer releases before them: by priority.
                disagreeing += 1;
                let newer = if a == oldest { b } else { a };
                assert!(a == oldest || b == oldest);
                assert_eq!(shared(&both, newer), names(newer));
            }
            for group in &both.groups {
                // Servers of 1.31 to 1.36 list GA before beta before alpha, and so must the merge.
                let finished = |v: &str| {
                    if v.contains("alpha") {
                        2
                    } else {
                        u8::from(v.contains("beta"))
                    }
                };
                assert!(
                    group.versions.is_sorted_by_key(|v| finished(&v.version)),
                    "{}",
                    group.name
                );
                // All of them also agree with Kubernetes' order within a group.
                let mut sorted: Vec<_> = group.versions.iter().map(|v| &*v.version).collect();
                sorted.sort_by(|x, y| compare_versions(x, y));
                let listed: Vec<_> = group.versions.iter().map(|v| &*v.version).collect();
                assert_eq!(listed, sorted, "{}", group.name);
            }
            assert_eq!(etag(&both), etag_by_hand(&both));
        }
    }
    assert!(
        differing > 20 && disagreeing == 12,
        "{differing} {disagreeing}"
    );
}

fn is_subsequence<T: PartialEq>(part: Vec<T>, whole: Vec<T>) -> bool {
    let mut whole = whole.into_iter();
    part.into_iter()
        .all(|item| whole.any(|found| found == item))
}

/// The ETag's rule, with a writer of this test's own.
fn etag_by_hand(document: &Document) -> String {
    let text = |text: &str| Value::from(text).to_string();
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let texts = |items: &[mvp::document::Text]| list(items.iter().map(|item| text(item)).collect());
    let kind = |kind: &mvp::document::GroupVersionKind| {
        format!(
            r#"{{"group":{},"version":{},"kind":{}}}"#,
            text(&kind.group),
            text(&kind.version),
            text(&kind.kind)
        )
    };
    let groups = document.groups.iter().map(|group| {
        let versions = group.versions.iter().map(|version| {
            let resources = version.resources.iter().map(|resource| {
                let mut json = format!(r#"{{"resource":{}"#, text(&resource.resource));
                if let Some(response_kind) = &resource.response_kind {
                    json += &format!(r#","responseKind":{}"#, kind(response_kind));
                }
                json += &format!(r#","scope":"{:?}""#, resource.scope);
                json += &format!(r#","singularResource":{}"#, text(&resource.singular));
                json += &format!(r#","verbs":{}"#, texts(&resource.verbs));
                for (name, items) in [
                    ("shortNames", &resource.short_names),
                    ("categories", &resource.categories),
                ] {
                    if !items.is_empty() {
                        json += &format!(r#","{name}":{}"#, texts(items));
                    }
                }
                let subresources: Vec<String> = resource
                    .subresources
                    .iter()
                    .map(|s| {
                        assert!(s.accepted_types.is_empty());
                        format!(
                            r#"{{"subresource":{},"responseKind":{},"verbs":{}}}"#,
                            text(&s.subresource),
                            kind(s.response_kind.as_ref().unwrap()),
                            texts(&s.verbs)
                        )
                    })
                    .collect();
                if !subresources.is_empty() {
                    json += &format!(r#","subresources":{}"#, list(subresources));
                }
                json + "}"
            });
            format!(
                r#"{{"version":{},"resources":{},"freshness":"{:?}"}}"#,
                text(&version.version),
                list(resources.collect()),
                version.freshness
            )
        });
        format!(
            r#"{{"metadata":{{"name":{}}},"versions":{}}}"#,
            text(&group.name),
            list(versions.collect())
        )
    });
    let json = format!(r#"{{"metadata":{{}},"items":{}}}"#, list(groups.collect()));
    Sha512::digest(json)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect()
}
