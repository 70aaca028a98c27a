use http::Method;
use proptest::prelude::*;

use super::*;
use crate::request::{PathClass, classify};

fn parse<'a>(method: Method, target: &'a str) -> Result<RequestInfo<'a>, RequestError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    RequestInfo::parse(&method, path, query)
}

/// `verb group/version resource/subresource namespace name`, with `-` for what is empty.
fn shown(method: Method, target: &str) -> String {
    let info = parse(method, target).unwrap();
    if !info.is_resource {
        assert_eq!(info.key().to_string(), " ");
        return "non-resource".into();
    }
    let dash = |s: &str| {
        if s.is_empty() {
            "-".into()
        } else {
            s.to_owned()
        }
    };
    format!(
        "{} {}/{} {}/{} {} {}",
        dash(info.verb.as_str()),
        dash(&info.group),
        dash(&info.version),
        dash(&info.resource),
        dash(&info.subresource),
        dash(&info.namespace),
        dash(&info.name)
    )
}

#[test]
fn resource_paths() {
    use http::Method as M;
    for (method, target, expected) in [
        (M::GET, "/api/v1/pods", "list -/v1 pods/- - -"),
        (M::HEAD, "/api/v1/pods/p", "get -/v1 pods/- - p"),
        (M::GET, "/api/v1/namespaces", "list -/v1 namespaces/- - -"),
        (M::GET, "/api/v1/namespaces/n", "get -/v1 namespaces/- n n"),
        (M::GET, "/api/v1/namespaces/n/", "get -/v1 namespaces/- n n"),
        (
            M::PUT,
            "/api/v1/namespaces/n/finalize",
            "update -/v1 namespaces/finalize n n",
        ),
        (
            M::PATCH,
            "/api/v1/namespaces/n/status",
            "patch -/v1 namespaces/status n n",
        ),
        // Only the first part after the namespace decides; the rest is ignored.
        (
            M::GET,
            "/api/v1/namespaces/n/status/x",
            "get -/v1 namespaces/status n n",
        ),
        (M::GET, "/api/v1/namespaces/n/pods", "list -/v1 pods/- n -"),
        (
            M::POST,
            "/api/v1/namespaces/n/pods",
            "create -/v1 pods/- n -",
        ),
        (
            M::POST,
            "/api/v1/namespaces/n/pods/p/exec",
            "create -/v1 pods/exec n p",
        ),
        (
            M::GET,
            "/api/v1/namespaces/n/pods/p/proxy/a/b",
            "get -/v1 pods/proxy n p",
        ),
        (
            M::DELETE,
            "/apis/apps/v1/namespaces/n/deployments",
            "deletecollection apps/v1 deployments/- n -",
        ),
        (
            M::DELETE,
            "/apis/apps/v1/namespaces/n/deployments/d",
            "delete apps/v1 deployments/- n d",
        ),
        (
            M::GET,
            "/apis/apps/v1/deployments?watch=true",
            "watch apps/v1 deployments/- - -",
        ),
        (
            M::GET,
            "/apis/apps/v1/deployments?watch=0",
            "list apps/v1 deployments/- - -",
        ),
        (
            M::GET,
            "/api/v1/secrets?fieldSelector=metadata.name%3Dx&watch=1",
            "watch -/v1 secrets/- - x",
        ),
        // A named object is read, whatever the query says.
        (M::GET, "/api/v1/pods/p?watch=1", "get -/v1 pods/- - p"),
        (M::POST, "/api/v1/pods?watch=1", "create -/v1 pods/- - -"),
        (M::GET, "/api/v1/watch/pods", "watch -/v1 pods/- - -"),
        (M::POST, "/api/v1/watch/pods", "watch -/v1 pods/- - -"),
        (
            M::GET,
            "/api/v1/watch/namespaces/n/pods/p",
            "watch -/v1 pods/- n p",
        ),
        (
            M::GET,
            "/apis/apps/v1/watch/namespaces/n/deployments/d/status",
            "watch apps/v1 deployments/status n d",
        ),
        (
            M::GET,
            "/api/v1/proxy/nodes/n/a/b",
            "proxy -/v1 nodes/- - n",
        ),
        (
            M::GET,
            "/api/v1/proxy/namespaces/n/services/s/a",
            "proxy -/v1 services/- n s",
        ),
        (M::OPTIONS, "/api/v1/pods", "- -/v1 pods/- - -"),
        // As the rules have it: the resource after the namespace may be called anything.
        (
            M::GET,
            "/api/v1/namespaces/n/watch",
            "list -/v1 watch/- n -",
        ),
    ] {
        assert_eq!(shown(method, target), expected, "{target}");
    }
}

#[test]
fn odd_paths_as_go_reads_them() {
    use http::Method as M;
    for (target, expected) in [
        ("//api/v1/pods", "list -/v1 pods/- - -"),
        ("/api/v1/pods///", "list -/v1 pods/- - -"),
        ("/api//pods", "list -/- pods/- - -"),
        ("/api/v1//pods", "get -/v1 -/- - pods"),
        ("/api/v1/pods//status", "list -/v1 pods/status - -"),
        ("/api/v1/namespaces//pods", "list -/v1 pods/- - -"),
        ("/api/v1/./pods", "get -/v1 ./- - pods"),
        ("/api/v1/../apis", "get -/v1 ../- - apis"),
        ("/./api/v1/pods", "non-resource"),
        (
            "/apis%2Fapps%2Fv1/deployments",
            "list apps/v1 deployments/- - -",
        ),
        ("/api/v1/pods%2Fp%2flog", "get -/v1 pods/log - p"),
        ("/api/v1/pods/a%252Fb", "get -/v1 pods/- - a%2Fb"),
        ("/%61pi/v1/pods", "list -/v1 pods/- - -"),
        ("/api/v1/pods/%ff", "get -/v1 pods/- - \u{fffd}"),
        ("/api/v1/pods/a+b", "get -/v1 pods/- - a+b"),
        ("/API/v1/pods", "non-resource"),
    ] {
        assert_eq!(shown(M::GET, target), expected, "{target}");
    }
}

#[test]
fn non_resource_paths() {
    for target in [
        "/",
        "",
        "*",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/healthz",
        "/openapi/v3/apis/apps/v1",
        "/version",
        "/foo/bar/baz/qux",
    ] {
        assert_eq!(shown(Method::GET, target), "non-resource", "{target}");
    }
}

#[test]
fn errors_and_their_status() {
    for (target, status) in [
        ("/api/v1/pods/%zz", 400),
        ("/%", 400),
        ("/healthz%2", 400),
        ("api/v1/pods", 400),
        ("%2Fapi/v1/pods", 400),
        ("/api/v1/pods/\u{7f}", 400),
        ("/api/v1/pods?a=\n", 400),
    ] {
        let error = parse(Method::GET, target).unwrap_err();
        assert_eq!(error.status().as_u16(), status, "{target}: {error}");
    }
    // These name no resource; what to say to them is the server's business.
    for target in ["/api/v1/watch", "/api/v1/proxy/", "/apis/apps/v1/watch"] {
        let info = parse(Method::GET, target).unwrap();
        assert!(
            !info.is_resource && info.group.is_empty() && info.version.is_empty(),
            "{target}"
        );
    }
    // A bad escape in the query only loses that pair.
    assert_eq!(
        shown(Method::GET, "/api/v1/pods?a=%zz&watch=1"),
        "watch -/v1 pods/- - -"
    );
}

#[test]
fn long_running() {
    for (target, expected) in [
        ("/api/v1/pods?watch=1", true),
        ("/api/v1/watch/pods", true),
        ("/api/v1/proxy/nodes/n", true),
        ("/api/v1/namespaces/n/pods/p/exec", true),
        ("/api/v1/namespaces/n/pods/p/attach", true),
        ("/api/v1/namespaces/n/pods/p/portforward", true),
        ("/api/v1/namespaces/n/pods/p/log", true),
        ("/api/v1/namespaces/n/services/s/proxy", true),
        ("/debug/pprof/profile", true),
        ("/api/v1/pods", false),
        ("/api/v1/namespaces/n/pods/exec", false),
        ("/api/v1/namespaces/n/pods/p/status", false),
        ("/healthz", false),
    ] {
        let info = parse(Method::GET, target).unwrap();
        assert_eq!(info.is_long_running(), expected, "{target}");
    }
}

#[test]
fn ordinary_paths_are_borrowed() {
    let info = parse(
        Method::GET,
        "/apis/apps/v1/namespaces/n/deployments/d/scale",
    )
    .unwrap();
    for part in [
        &info.path,
        &info.group,
        &info.version,
        &info.resource,
        &info.subresource,
        &info.namespace,
        &info.name,
    ] {
        assert!(matches!(part, Cow::Borrowed(_)), "{part}");
    }
}

/// A part that is no word of the grammar, encoded as a client may encode it.
fn part() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9.-]{0,12}".prop_filter("reserved", |s| {
        !matches!(
            s.as_str(),
            "watch" | "proxy" | "namespaces" | "status" | "finalize"
        )
    })
}

fn escaped(text: &str, every: usize) -> String {
    text.bytes()
        .enumerate()
        .map(|(i, b)| match b {
            b'/' => "/".into(),
            _ if every != 0 && i % every == 0 => format!("%{b:02x}"),
            _ => char::from(b).to_string(),
        })
        .collect()
}

proptest! {
    #[test]
    fn never_panics_and_agrees_with_classify(
        method in "[A-Z]{1,8}",
        path in "(/?(api|apis|watch|proxy|namespaces|%2F|%2|[a-z%./]{0,6}|.{0,4})){0,12}",
        query in proptest::option::of("(watch=|fieldSelector=metadata.name|limit=|&|;|=|%3D|%|.{0,4}){0,8}"),
    ) {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        if let Ok(info) = RequestInfo::parse(&method, &path, query.as_deref()) {
            prop_assert_eq!(info.is_resource, classify(&info.path) == PathClass::Resource);
            if !info.is_resource {
                prop_assert!(info.resource.is_empty() && info.version.is_empty());
            }
            if info.verb == Verb::Proxy {
                prop_assert!(info.subresource.is_empty());
            }
        }
    }

    #[test]
    fn gives_the_parts_back(
        group in proptest::option::of(part()),
        version in part(),
        namespace in proptest::option::of(part()),
        resource in part(),
        name in proptest::option::of(part()),
        subresource in proptest::option::of(part()),
        prefix in proptest::sample::select(vec!["", "/watch", "/proxy"]),
        every in 0usize..5,
    ) {
        let mut path = match &group {
            Some(group) => format!("/apis/{group}/{version}{prefix}"),
            None => format!("/api/{version}{prefix}"),
        };
        if let Some(namespace) = &namespace {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{resource}");
        let subresource = subresource.filter(|_| name.is_some());
        for part in [&name, &subresource].into_iter().flatten() {
            path += &format!("/{part}");
        }
        let path = format!("/{}", escaped(&path[1..], every));
        let info = RequestInfo::parse(&Method::GET, &path, None).unwrap();
        prop_assert!(info.is_resource);
        prop_assert_eq!(&*info.group, group.as_deref().unwrap_or(""));
        prop_assert_eq!(&*info.version, version);
        prop_assert_eq!(&*info.namespace, namespace.as_deref().unwrap_or(""));
        prop_assert_eq!(&*info.resource, resource);
        prop_assert_eq!(&*info.name, name.as_deref().unwrap_or(""));
        let expected = if prefix == "/proxy" { "" } else { subresource.as_deref().unwrap_or("") };
        prop_assert_eq!(&*info.subresource, expected);
        let verb = match (prefix, &name) {
            ("/watch", _) => Verb::Watch,
            ("/proxy", _) => Verb::Proxy,
            (_, Some(_)) => Verb::Get,
            (_, None) => Verb::List,
        };
        prop_assert_eq!(info.verb, verb);
    }
}
