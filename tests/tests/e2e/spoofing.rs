//! What a client says about identity that it has no right to say: no spelling of it reaches a server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use mvp_tests::agent::TestAgent;
use mvp_tests::client::{Client, TestBody, full};
use mvp_tests::raw::Raw;
use mvp_tests::scripted::{Seen, Stage, WIDGETS};
use mvp_tests::sim::api::authn::User;
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};

const LOCAL: &str = "/custom";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const FORGED: &str = "mvp_hop_markers_forged_total";

/// Every kind, in every spelling that some server folds to the real one.
const SPOOFS: &[&str] = &[
    "X-Remote-User",
    "x-remote-user",
    "X-REMOTE-USER",
    "X_Remote_User",
    "x-remote_user",
    "X-Remote-Group",
    "X_REMOTE-GROUP",
    "X-Remote-Uid",
    "X-Remote_Uid",
    "X-Remote-Extra-Scopes",
    "X-Remote-Extra-authentication.kubernetes.io%2Fcredential-id",
    "X_Remote_Extra_Scopes",
    "X-Remote-Whatever-Comes-Next",
    "X-Who",
    "X_Who",
    "X-Who-Else-Team",
    "X-Kubernetes-Peer-Proxied",
    "x_kubernetes_peer_proxied",
];

/// Whether a server of any kind could take the name for an identity header or the hop marker.
fn says_who(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("x-remote-")
        || name.starts_with("x-who")
        || name == "x-kubernetes-peer-proxied"
}

/// With header names beside the standard ones.
async fn stage() -> Stage {
    let ok = |_: &Seen| Response::new(full("ok"));
    Stage::with(&["h2", "http/1.1"], ok, |config| {
        let header = config.request_header.as_mut().unwrap();
        header.username_headers = vec!["X-Remote-User".into(), "X-Who".into()];
        header.extra_header_prefixes = vec!["X-Remote-Extra-".into(), "X-Who-Else-".into()];
    })
    .await
    .unwrap()
}

fn tls(stage: &Stage, auth: ClientAuth) -> Arc<rustls::ClientConfig> {
    Arc::new(stage.plane.pki().client_config(auth, &[]).unwrap())
}

/// Identity and hop headers as a server received them, sorted.
fn identity(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut found: Vec<_> = headers
        .iter()
        .filter(|(name, _)| says_who(name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    found.sort();
    found
}

fn alice(credential: &str, peer: bool) -> Vec<(String, String)> {
    let mut expected = vec![
        (
            "x-remote-extra-authentication.kubernetes.io%2fcredential-id",
            credential,
        ),
        ("x-remote-group", "devs"),
        ("x-remote-user", "alice"),
    ];
    if peer {
        expected.insert(0, ("x-kubernetes-peer-proxied", "true"));
    }
    expected
        .into_iter()
        .map(|(n, v)| (n.to_owned(), v.to_owned()))
        .collect()
}

#[tokio::test]
async fn no_spelling_of_an_identity_header_reaches_a_server() {
    let stage = stage().await;
    let certificate = stage.plane.pki().alice().unwrap();
    let spoofs: String = SPOOFS
        .iter()
        .map(|name| format!("{name}: root\r\n{name}:true\r\n{name}: \tsystem:masters \r\n"))
        .collect();
    let callers = [
        (ClientAuth::None, ""),
        (ClientAuth::None, "Authorization: Bearer sesame\r\n"),
        (ClientAuth::Certificate(certificate), ""),
    ];
    let mut requests = 0;
    for (number, (auth, credential)) in callers.into_iter().enumerate() {
        let with_certificate = matches!(auth, ClientAuth::Certificate(_));
        let tls = tls(&stage, auth);
        let mut http1 = Raw::http1(stage.agent.address, &tls).await.unwrap();
        // A caller who is not authenticated is told to leave after each answer.
        let http2 = Client::http2(stage.agent.address, &tls)
            .await
            .unwrap()
            .returning();
        for (base, server, is_peer) in [(LOCAL, &stage.local, false), (WIDGETS, &stage.peer, true)]
        {
            let target = format!("{base}?h1={number}");
            http1
                .send(format!(
                    "GET {target} HTTP/1.1\r\nHost: k\r\n{credential}{spoofs}\r\n"
                ))
                .await
                .unwrap();
            assert_eq!(http1.answer(false).await.unwrap().status, 200);
            let over_http1 = server.only(&target).unwrap();

            let target = format!("{base}?h2={number}");
            let lower: Vec<_> = SPOOFS
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect();
            let mut headers: Vec<_> = lower.iter().map(|name| (name.as_str(), "root")).collect();
            headers.extend(
                credential
                    .trim()
                    .split_once(": ")
                    .map(|(_, token)| ("authorization", token)),
            );
            http2.get(&target, &headers).await.unwrap();
            let over_http2 = server.only(&target).unwrap();
            requests += 2;

            for seen in [over_http1, over_http2] {
                let found = identity(&seen.headers);
                if with_certificate {
                    let credential = &seen.headers["x-remote-extra-authentication.kubernetes.io%2fcredential-id"];
                    assert_eq!(found, alice(credential.to_str().unwrap(), is_peer));
                    assert!(credential.to_str().unwrap().starts_with("X509SHA256="));
                } else {
                    let mark = ("x-kubernetes-peer-proxied".to_owned(), "true".to_owned());
                    assert_eq!(found, if is_peer { vec![mark] } else { vec![] });
                }
                let token = seen.headers.get("authorization");
                assert_eq!(token.is_some(), !credential.is_empty());
            }
        }
    }
    let agent = &stage.agent;
    assert_eq!(agent.metric(FORGED).await.unwrap(), f64::from(requests));
    for kind in ["username", "uid", "group", "extra", "other", "hop"] {
        let metric = format!("mvp_headers_stripped_total{{kind=\"{kind}\"}}");
        assert!(agent.metric(&metric).await.unwrap() > 0.0, "{kind}");
    }
}

#[tokio::test]
async fn what_a_client_nominates_as_hop_by_hop_takes_nothing_of_the_agents_away() {
    let stage = stage().await;
    let tls = tls(
        &stage,
        ClientAuth::Certificate(stage.plane.pki().alice().unwrap()),
    );
    let mut http1 = Raw::http1(stage.agent.address, &tls).await.unwrap();
    for (base, server, is_peer) in [(LOCAL, &stage.local, false), (WIDGETS, &stage.peer, true)] {
        http1
            .send(format!(
                "POST {base} HTTP/1.1\r\nHost: k\r\nConnection: X-Remote-User, X-Remote-Group,x-remote-extra-authentication.kubernetes.io%2fcredential-id\r\n\
                 Connection: X-Kubernetes-Peer-Proxied, Audit-ID, X-Forwarded-For, Host, Content-Length, Content-Type\r\n\
                 Connection: Impersonate-User, Impersonate-Group\r\nImpersonate-User: bob\r\nImpersonate-Group: few\r\n\
                 X-Remote-User: root\r\nAudit-ID: mine\r\nX-Forwarded-For: 10.1.1.1\r\n\
                 Content-Type: text/x\r\nContent-Length: 5\r\n\r\nhello"
            ))
            .await
            .unwrap();
        assert_eq!(http1.answer(false).await.unwrap().status, 200);
        let seen = server.only(base).unwrap();
        let credential =
            &seen.headers["x-remote-extra-authentication.kubernetes.io%2fcredential-id"];
        assert_eq!(
            identity(&seen.headers),
            alice(credential.to_str().unwrap(), is_peer)
        );
        // Nor what says on whose behalf the request is, where it came from, and what it is: kube-apiserver does not look
        // at nominations at all.
        assert_eq!(seen.headers["impersonate-user"], "bob");
        assert_eq!(seen.headers["impersonate-group"], "few");
        assert_eq!(seen.headers["audit-id"], "mine");
        assert_eq!(seen.headers["x-forwarded-for"], "10.1.1.1, 127.0.0.1");
        assert_eq!(seen.headers["content-type"], "text/x");
        assert_eq!(seen.authority.as_deref(), Some("k"));
        assert_eq!(seen.body, "hello");
    }
}

#[tokio::test]
async fn a_nominated_token_is_still_the_callers() {
    let stage = stage().await;
    let mut http1 = Raw::http1(stage.agent.address, &tls(&stage, ClientAuth::None))
        .await
        .unwrap();
    http1
        .send("GET /custom HTTP/1.1\r\nHost: k\r\nConnection: Authorization\r\nAuthorization: Bearer sesame\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(http1.answer(false).await.unwrap().status, 200);
    assert_eq!(
        stage.local.only(LOCAL).unwrap().headers["authorization"],
        "Bearer sesame"
    );
}

#[tokio::test]
async fn trailers_carry_no_identity() {
    let stage = stage().await;
    let names = SPOOFS.iter().map(|name| name.to_ascii_lowercase());
    let mut trailers: HeaderMap = names
        .map(|name| (name.parse().unwrap(), HeaderValue::from_static("root")))
        .collect();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let announced: Vec<_> = trailers.keys().map(ToString::to_string).collect();
    let body = |trailers: &HeaderMap| -> TestBody {
        let frames = [
            Frame::data(Bytes::from_static(b"body")),
            Frame::trailers(trailers.clone()),
        ];
        BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames.map(Ok))))
    };
    let tls = tls(&stage, ClientAuth::None);
    for client in [
        Client::http1(stage.agent.address, &tls).await.unwrap(),
        Client::http2(stage.agent.address, &tls).await.unwrap(),
    ] {
        let headers = [("trailer", announced.join(", ")), ("te", "trailers".into())];
        let headers = headers
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        client
            .call(Method::PUT, WIDGETS, &headers, body(&trailers))
            .await
            .unwrap();
    }
    let seen = stage.peer.seen();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        let trailers = seen.trailers.unwrap();
        assert_eq!(trailers["x-sum"], "1");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
    }
}

async fn plane() -> (ControlPlane, TestAgent) {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    (plane, agent)
}

#[tokio::test]
async fn impersonation_passes_untouched_and_the_server_judges_it() {
    let (plane, agent) = plane().await;
    plane.add_token(
        "root",
        User {
            name: "root".into(),
            groups: vec!["system:masters".into()],
            ..User::default()
        },
    );
    let headers = [
        ("impersonate-user", "bob"),
        ("impersonate-group", "system:masters"),
        ("impersonate-group", "few"),
        ("impersonate-uid", "b-1"),
        ("impersonate-extra-scopes", "s"),
    ];
    let with_token: Vec<_> = headers
        .iter()
        .copied()
        .chain([("authorization", "Bearer root")])
        .collect();
    let certificate = ClientAuth::Certificate(plane.pki().alice().unwrap());
    let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
    for (auth, headers, expected) in [
        (certificate, &headers[..], 403),
        (admin, &headers[..], 200),
        (ClientAuth::None, &with_token[..], 200),
    ] {
        for client in [
            agent.http1(&plane, auth.clone()).await.unwrap(),
            agent.http2(&plane, auth.clone()).await.unwrap(),
        ] {
            for (path, server) in [("/api/v1/namespaces", "cp-a"), (POLICIES, "cp-b")] {
                let server = plane.named(server).unwrap();
                server.clear_requests();
                let answer = client.get(path, headers).await.unwrap();
                assert_eq!(answer.status, expected, "{path}: {}", answer.text());
                let seen = server
                    .requests()
                    .into_iter()
                    .find(|seen| seen.target == path)
                    .unwrap();
                let names = headers.iter().map(|(name, _)| *name);
                for name in names.filter(|name| name.starts_with("impersonate")) {
                    let sent: Vec<_> = headers
                        .iter()
                        .filter(|(n, _)| *n == name)
                        .map(|(_, v)| *v)
                        .collect();
                    let arrived: Vec<_> = seen.headers.get_all(name).iter().collect();
                    assert_eq!(arrived, sent);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_hop_marker_counts_only_from_a_front_proxy() {
    let (plane, agent) = plane().await;
    let (a, b) = (plane.named("cp-a").unwrap(), plane.named("cp-b").unwrap());
    let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
    let proxy = ClientAuth::Certificate(plane.pki().front_proxy_client().unwrap());
    let marker = ("x-kubernetes-peer-proxied", "true");
    let root = [
        marker,
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
    ];
    let mut forged = 0.0;
    for (client, proxied) in [
        (agent.http1(&plane, admin.clone()).await.unwrap(), false),
        (agent.http2(&plane, admin).await.unwrap(), false),
        (agent.http1(&plane, proxy.clone()).await.unwrap(), true),
        (agent.http2(&plane, proxy).await.unwrap(), true),
    ] {
        a.clear_requests();
        b.clear_requests();
        let headers = if proxied { &root[..] } else { &[marker] };
        let answer = client.get(POLICIES, headers).await.unwrap();
        let at = |server: &mvp_tests::sim::Server| {
            server
                .requests()
                .into_iter()
                .find(|seen| seen.target == POLICIES)
        };
        if proxied {
            assert_eq!(answer.status, 404, "the local server's own answer");
            assert!(at(b).is_none());
            let seen = at(a).expect("asked though it is known not to serve it");
            assert_eq!(seen.headers["x-kubernetes-peer-proxied"], "true");
            assert_eq!(seen.user.as_ref().unwrap().name, "root");
            // Unknown to everybody: its 404 passes at once, with nobody else asked.
            let unknown = "/apis/nobody.example.org/v1/things";
            let answer = client.get(unknown, headers).await.unwrap();
            assert_eq!(answer.status, 404);
            assert!(b.requests().iter().all(|seen| seen.target != unknown));
        } else {
            assert_eq!(answer.status, 200);
            assert!(at(a).is_none());
            let seen = at(b).expect("routed as if it had said nothing");
            let marks: Vec<_> = seen.headers.get_all(marker.0).iter().collect();
            assert_eq!(marks, ["true"]);
            forged += 1.0;
            let local = client.get("/api/v1/namespaces?own", headers).await.unwrap();
            assert_eq!(local.status, 200);
            forged += 1.0;
            let seen = a
                .requests()
                .into_iter()
                .find(|seen| seen.target.ends_with("?own"))
                .unwrap();
            assert!(!seen.headers.contains_key(marker.0));
        }
        assert_eq!(agent.metric(FORGED).await.unwrap(), forged);
    }
    assert_eq!(
        agent
            .metric("mvp_discovery_refreshes_total{result=\"complete\"}")
            .await
            .unwrap(),
        0.0
    );
}
