//! Request targets as strangers write them: nothing panics, and parser, classifier and decision agree.
//!
//! Input: one byte for the method, then `path[?query]`.
#![no_main]

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use libfuzzer_sys::fuzz_target;
use mvp::request::{PathClass, RequestInfo, classify};
use mvp::api::Verb;
use mvp::config::Endpoint;
use mvp::route::{Context, Knowledge, Member, Reason, RouteTable, Server, explain, plan};
use mvp::tls::IdentityClass;

fuzz_target!(|data: &[u8]| {
    let Some((method, target)) = data.split_first() else {
        return;
    };
    let Ok(target) = std::str::from_utf8(target) else {
        return;
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let Ok(info) = RequestInfo::parse(&method_of(*method), path, query) else {
        return;
    };

    assert_eq!(
        info.is_resource,
        classify(&info.path) == PathClass::Resource
    );
    let parts = [
        &info.group,
        &info.version,
        &info.resource,
        &info.subresource,
        &info.namespace,
    ];
    for part in parts {
        assert!(!part.contains('/'), "{part:?} spans segments");
        assert!(info.is_resource || part.is_empty());
    }
    assert!(info.verb != Verb::Proxy || info.subresource.is_empty());
    if !path.contains('%') {
        assert!(
            parts.iter().all(|part| matches!(part, Cow::Borrowed(_))),
            "needless copy"
        );
        assert_eq!(info.path, path);
    }
    assert_eq!(info.clone().into_owned(), info);

    let endpoint = Endpoint {
        name: "cp-a".into(),
        host: "127.0.0.1".into(),
        port: 6443,
    };
    let local = Member {
        server: Arc::new(Server::new(endpoint, true)),
        apis: None,
        knowledge: Knowledge::Absent,
        published: None,
    };
    let table = RouteTable::build(0, vec![local]);
    let ctx = Context {
        hop_marked: false,
        interoperability: true,
        class: IdentityClass::FrontProxy,
    };
    let plan = plan(&info, &table, ctx);
    assert_eq!(plan.is_unknown(), info.is_resource);
    assert_eq!(plan.reason() == Reason::UnknownKey, info.is_resource);
    assert!(explain(&plan).contains(plan.reason().as_str()));
});

fn method_of(byte: u8) -> Method {
    let methods = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
        Method::CONNECT,
    ];
    methods[usize::from(byte) % methods.len()].clone()
}
