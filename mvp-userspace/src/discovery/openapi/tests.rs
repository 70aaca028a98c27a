use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::VerbSet;
use crate::config::Endpoint;

fn body(paths: &[(&str, &str)]) -> Bytes {
    let paths: serde_json::Map<_, _> = paths
        .iter()
        .map(|(path, hash)| {
            (
                (*path).to_owned(),
                json!({"serverRelativeURL": url(path, hash)}),
            )
        })
        .collect();
    json!({ "paths": paths }).to_string().into()
}

fn url(path: &str, hash: &str) -> String {
    format!("/openapi/v3/{path}?hash={hash}")
}

fn index(paths: &[(&str, &str)]) -> OpenApiIndex {
    OpenApiIndex::read(&body(paths)).unwrap()
}

/// `apps/v1 deployments get,list`
fn set(keys: &[&str]) -> ApiSet {
    let entry = |key: &&str| {
        let [gv, resource, verbs] = key.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{key}")
        };
        let (group, version) = gv.split_once('/').unwrap_or(("", gv));
        ApiEntry {
            group: group.into(),
            version: version.into(),
            resource: resource.into(),
            subresource: "".into(),
            verbs: VerbSet::from_names(verbs.split(',')),
        }
    };
    ApiSet::new(keys.iter().map(entry).collect())
}

fn version(minor: u32) -> GitVersion {
    GitVersion::parse(&format!("v1.{minor}.0")).unwrap()
}

fn hashes(body: &Bytes) -> Vec<(String, String)> {
    let index = OpenApiIndex::read(body).unwrap();
    let paths = index.paths();
    paths
        .map(|(path, url)| (path.to_owned(), hash(url).unwrap_or_default().to_owned()))
        .collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(path, hash): &(&str, &str)| ((*path).to_owned(), (*hash).to_owned());
    expected.iter().map(own).collect()
}

#[test]
fn an_index_is_read() {
    let read = index(&[("api/v1", "AB"), ("apis/apps/v1", "CD")]);
    assert_eq!(read.hash("api/v1"), Some("AB"));
    assert_eq!(
        read.url("apis/apps/v1"),
        Some("/openapi/v3/apis/apps/v1?hash=CD")
    );
    assert_eq!((read.url("apis/apps/v2"), read.len()), (None, 2));
    for empty in ["{}", r#"{"paths":null}"#, r#"{"paths":{},"x":[1]}"#] {
        assert!(
            OpenApiIndex::read(empty.as_bytes()).unwrap().is_empty(),
            "{empty}"
        );
    }
    for bad in ["", "{", "1", r#"{"paths":[]}"#, r#"{"paths":{"a":1}}"#] {
        assert!(OpenApiIndex::read(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(matches!(
        OpenApiIndex::read(b"{\"\xff\":1}"),
        Err(DecodeError::NotUtf8(_))
    ));
}

#[test]
fn urls_that_lead_elsewhere_are_left_out() {
    for bad in [
        "",
        "https://evil/openapi/v3/x",
        "//evil/openapi/v3/x",
        "/openapi/v3",
        "/openapi/v3x/y",
        "/api/v1/secrets",
        "/openapi/v3/../../api/v1/secrets",
        "/openapi/v3/./x",
        "/openapi/v3/a b",
        "/openapi/v3/a#b",
        "/openapi/v3/a\\b",
        "/openapi/v3/é",
        &format!("/openapi/v3/{}", "x".repeat(MAX_URL)),
    ] {
        let document = json!({"paths": {"apis/a/v1": {"serverRelativeURL": bad}}}).to_string();
        assert!(
            OpenApiIndex::read(document.as_bytes()).unwrap().is_empty(),
            "{bad}"
        );
    }
}

#[test]
fn an_index_is_bounded() {
    let many = |count: usize| {
        let paths: Vec<_> = (0..count).map(|i| format!("apis/g{i}/v1")).collect();
        let paths: Vec<_> = paths.iter().map(|path| (path.as_str(), "A")).collect();
        OpenApiIndex::read(&body(&paths))
    };
    assert_eq!(many(MAX_PATHS).unwrap().len(), MAX_PATHS);
    assert_eq!(many(MAX_PATHS + 1), Err(too_many("paths", MAX_PATHS)));
    let long = vec![b' '; MAX_INDEX + 1];
    assert_eq!(OpenApiIndex::read(&long), Err(too_many("bytes", MAX_INDEX)));
}

#[test]
fn servers_are_found_by_hash() {
    let server = |name: &str, paths: &[(&str, &str)]| ServerOpenApi {
        server: Arc::new(Server::new(
            Endpoint {
                name: name.into(),
                host: "127.0.0.1".into(),
                port: 6443,
            },
            false,
        )),
        index: Arc::new(index(paths)),
    };
    let servers = [
        server("a", &[("api/v1", "1")]),
        server("b", &[("api/v1", "2"), ("apis/g/v1", "1")]),
        server("c", &[("api/v1", "1")]),
    ];
    let names = |path: &str, hash: &str| -> Vec<String> {
        let found = find(&servers, path, hash);
        found.iter().map(|server| server.name.to_string()).collect()
    };
    assert_eq!(names("api/v1", "1"), ["a", "c"]);
    assert_eq!(names("apis/g/v1", "1"), ["b"]);
    assert!(names("api/v1", "3").is_empty() && names("api/v2", "1").is_empty());
}

#[test]
fn what_the_local_server_lacks_is_added_and_the_larger_description_wins() {
    let local = [
        ("api/v1", "l"),
        ("apis/apps/v1", "l"),
        ("apis/less/v1", "l"),
        ("apis/same/v1", "l"),
        ("version", "l"),
    ];
    let local_set = set(&[
        "v1 pods get,list",
        "apps/v1 deployments get",
        "less/v1 things get,list",
        "same/v1 things get",
    ]);
    let other = index(&[
        ("api/v1", "o"),
        ("apis/apps/v1", "o"),
        ("apis/less/v1", "o"),
        ("apis/same/v1", "o"),
        ("apis/new", "o"),
        ("apis/new/v1", "o"),
        ("version", "o"),
        (".well-known/x", "o"),
    ]);
    let other_set = set(&[
        "v1 pods get,list",
        "v1 pods2 get",
        "apps/v1 deployments get,list",
        // Neither holds all that the other does; this one has more.
        "less/v1 things get",
        "less/v1 other get",
        "same/v1 things get",
        "new/v1 things get",
    ]);
    let (old, new) = (version(35), version(36));
    let other = |version| OtherIndex {
        index: &other,
        apis: &other_set,
        version,
    };
    let merged = |mine, theirs| {
        hashes(&merge_indexes(
            &body(&local),
            &local_set,
            mine,
            &[other(theirs)],
        ))
    };
    let mut expected = [
        ("api/v1", "o"),
        ("apis/apps/v1", "o"),
        ("apis/less/v1", "o"),
        ("apis/new", "o"),
        ("apis/new/v1", "o"),
        ("apis/same/v1", "l"),
        ("version", "l"),
    ];
    assert_eq!(merged(Some(&new), Some(&old)), pairs(&expected));
    assert_eq!(merged(Some(&new), Some(&new)), pairs(&expected));
    assert_eq!(merged(None, None), pairs(&expected));
    // The newer of two that serve the same describes more.
    expected[5] = ("apis/same/v1", "o");
    assert_eq!(merged(Some(&old), Some(&new)), pairs(&expected));
}

#[test]
fn among_others_the_larger_then_the_newer_then_the_first() {
    let (old, new) = (version(35), version(36));
    let (small, large) = (set(&["g/v1 a get"]), set(&["g/v1 a get", "g/v1 b get"]));
    let indexes: Vec<_> = ["1", "2", "3"]
        .iter()
        .map(|h| index(&[("apis/g/v1", h)]))
        .collect();
    let pick = |others: [(&ApiSet, &GitVersion); 3]| {
        let others: Vec<_> = others
            .iter()
            .zip(&indexes)
            .map(|((apis, version), index)| OtherIndex {
                index,
                apis,
                version: Some(*version),
            })
            .collect();
        let merged = merge_indexes(&body(&[]), &ApiSet::default(), None, &others);
        hashes(&merged).remove(0).1
    };
    assert_eq!(pick([(&small, &new), (&large, &old), (&large, &new)]), "3");
    assert_eq!(pick([(&small, &new), (&large, &old), (&small, &new)]), "2");
    assert_eq!(pick([(&small, &new), (&small, &new), (&small, &old)]), "1");
}

#[test]
fn without_a_hash_whoever_serves_most_describes_it_whether_its_index_is_known_or_not() {
    let (old, new) = (version(35), version(36));
    let (small, large) = (set(&["g/v1 a get"]), set(&["g/v1 a get", "g/v1 b get"]));
    let nothing = ApiSet::default();
    let chosen = |path: &str, servers: &[(&ApiSet, &GitVersion, Option<&str>)]| {
        let servers: Vec<_> = servers
            .iter()
            .map(|(apis, version, url)| Describes {
                apis,
                version: Some(*version),
                url: *url,
            })
            .collect();
        let chosen = describing(path, &servers).into_iter().enumerate();
        chosen
            .filter_map(|(at, chosen)| chosen.then_some(at))
            .collect::<Vec<_>>()
    };
    for path in ["apis/g/v1", "apis/g"] {
        let of = |servers: &[(&ApiSet, &GitVersion, Option<&str>)]| chosen(path, servers);
        assert_eq!(of(&[(&small, &new, Some("1")), (&large, &old, None)]), [1]);
        assert_eq!(of(&[(&small, &old, Some("1")), (&small, &new, None)]), [1]);
        assert_eq!(of(&[(&small, &new, None), (&small, &new, None)]), [0, 1]);
        // Among equals it is the one that the index names.
        let equal = (&small, &new);
        let of_equals = |urls: [Option<&str>; 3]| of(&urls.map(|url| (equal.0, equal.1, url)));
        assert_eq!(of_equals([Some("2"), Some("1"), None]), [1]);
        assert_eq!(of_equals([Some("1"), None, Some("1")]), [0, 2]);
        // Only a description tells of what discovery does not list.
        assert_eq!(
            of(&[(&nothing, &new, None), (&nothing, &old, Some("1"))]),
            [1]
        );
        assert!(of(&[(&nothing, &new, None), (&nothing, &old, None)]).is_empty());
    }
    for path in ["version", ".well-known/openid-configuration", "apisx", ""] {
        let said = [(&small, &old, Some("1")), (&large, &new, Some("2"))];
        assert!(chosen(path, &said).is_empty(), "{path}: each for itself");
    }
}

#[test]
fn what_needs_no_change_is_left_alone_to_the_byte() {
    let spaced = Bytes::from_static(b"{ \"paths\": {\"api/v1\" : {\"serverRelativeURL\":\"/openapi/v3/api/v1?hash=A\"}}, \"x\": 1.50 }\n");
    let one = index(&[("api/v1", "A")]);
    let apis = set(&["v1 pods get"]);
    let same = OtherIndex {
        index: &one,
        apis: &apis,
        version: None,
    };
    for others in [&[][..], &[same]] {
        assert_eq!(merge_indexes(&spaced, &apis, None, others), spaced);
    }
    let more = index(&[("apis/g/v1", "B")]);
    let more = OtherIndex {
        index: &more,
        ..same
    };
    for no_index in ["", "no", "[]", "{}", r#"{"paths":1}"#] {
        let no_index = Bytes::from(no_index);
        assert_eq!(merge_indexes(&no_index, &apis, None, &[more]), no_index);
    }
    // What stands beside is kept as it was written.
    let merged = merge_indexes(&spaced, &apis, None, &[more]);
    assert_eq!(
        merged,
        r#"{"paths":{"api/v1":{"serverRelativeURL":"/openapi/v3/api/v1?hash=A"},"apis/g/v1":{"serverRelativeURL":"/openapi/v3/apis/g/v1?hash=B"}},"x":1.50}"#
    );
}

const PATHS: [&str; 6] = [
    "api/v1",
    "apis/a",
    "apis/a/v1",
    "apis/b/v1",
    "apis/b/v2",
    "version",
];

type Side = (Vec<(usize, u8)>, Vec<(usize, u8)>, u32);

fn side() -> impl Strategy<Value = Side> {
    let paths = proptest::collection::btree_map(0..PATHS.len(), 0u8..3, 0..=PATHS.len());
    let keys = proptest::collection::btree_map(0usize..8, 1u8..8, 0..8);
    (paths, keys, 34u32..37).prop_map(|(paths, keys, minor)| {
        (
            paths.into_iter().collect(),
            keys.into_iter().collect(),
            minor,
        )
    })
}

fn made((paths, keys, minor): &Side) -> (Bytes, ApiSet, GitVersion) {
    let hashes = ["h0", "h1", "h2"];
    let paths: Vec<_> = paths
        .iter()
        .map(|(p, h)| (PATHS[*p], hashes[usize::from(*h)]))
        .collect();
    let gvs = ["v1", "a/v1", "b/v1", "b/v2"];
    let key = |(at, bits): &(usize, u8)| {
        let verbs = ["get", "list", "watch"].into_iter().enumerate();
        let verbs: Vec<_> = verbs
            .filter(|(i, _)| bits & (1 << i) != 0)
            .map(|(_, v)| v)
            .collect();
        format!("{} r{} {}", gvs[at % 4], at / 4, verbs.join(","))
    };
    let keys: Vec<_> = keys.iter().map(key).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    (body(&paths), set(&keys), version(*minor))
}

proptest! {
    /// Nothing the local server said is lost, all that is missing comes, every URL is one that some server gave for that path,
    /// and merging once more changes nothing.
    #[test]
    fn merging_loses_nothing_and_invents_nothing(local in side(), others in proptest::collection::vec(side(), 0..4)) {
        let (body, apis, mine) = made(&local);
        let others: Vec<_> = others.iter().map(made).collect();
        let indexes: Vec<_> = others.iter().map(|(body, ..)| OpenApiIndex::read(body).unwrap()).collect();
        let others: Vec<_> = others.iter().zip(&indexes)
            .map(|((_, apis, version), index)| OtherIndex { index, apis, version: Some(version) })
            .collect();
        let before = OpenApiIndex::read(&body).unwrap();
        let merged = merge_indexes(&body, &apis, Some(&mine), &others);
        let after = OpenApiIndex::read(&merged).unwrap();
        for path in PATHS {
            let given: Vec<_> = std::iter::once(&before).chain(&indexes).filter_map(|i| i.url(path)).collect();
            match after.url(path) {
                Some(url) => prop_assert!(given.contains(&url), "{}", path),
                None => prop_assert!(before.url(path).is_none() && (path == "version" || given.is_empty()), "{}", path),
            }
            if path == "version" {
                prop_assert_eq!(after.url(path), before.url(path));
            }
        }
        prop_assert_eq!(merge_indexes(&merged, &apis, Some(&mine), &others), merged);
    }

    #[test]
    fn hostile_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = OpenApiIndex::read(&bytes);
        let bytes = Bytes::from(bytes);
        let other = index(&[("apis/g/v1", "B")]);
        let apis = ApiSet::default();
        let other = OtherIndex { index: &other, apis: &apis, version: None };
        let _ = merge_indexes(&bytes, &apis, None, &[other]);
    }

    #[test]
    fn hostile_entries_do_no_harm(path in "\\PC{0,40}", url in "(/openapi/v3/)?\\PC{0,40}") {
        let document = json!({"paths": {path.clone(): {"serverRelativeURL": url, "x": [1]}}}).to_string();
        let index = OpenApiIndex::read(document.as_bytes()).unwrap();
        for (_, url) in index.paths() {
            prop_assert!(url.starts_with("/openapi/v3/") && url.bytes().all(|b| b.is_ascii_graphic()));
        }
        let other = OtherIndex { index: &index, apis: &ApiSet::default(), version: None };
        let merged = merge_indexes(&body(&[("api/v1", "A")]), &ApiSet::default(), None, &[other]);
        let merged: Value = serde_json::from_slice(&merged).unwrap();
        prop_assert_eq!(&merged["paths"]["api/v1"]["serverRelativeURL"], "/openapi/v3/api/v1?hash=A");
    }
}
