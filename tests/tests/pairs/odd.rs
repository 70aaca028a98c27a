//! Requests that few clients make and every server answers, byte for byte as they are sent: through an agent the answers are the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, admin, patient, plane, received};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::raw::{Raw, RawAnswer};
use mvp_tests::sim::{ControlPlane, Server};

/// An object that nobody writes: a list tells the store's revision, which goes on with what servers and agents write for themselves.
const ONE: &str = "/api/v1/namespaces/default";
pub(crate) const ECHO: &str = "/api/v1/namespaces/default/pods/p/proxy/echo";
/// A workload that reads all of the body before it answers.
const UPLOAD: &str = "/api/v1/namespaces/default/pods/p/proxy/upload";
/// The fields of an answer that say where and when it was made.
const DIFFERS: [&str; 3] = ["date", "audit-id", "x-mvp-error"];

pub(crate) struct Scene {
    pub plane: ControlPlane,
    agent: TestAgent,
    tls: Arc<rustls::ClientConfig>,
}

/// An answer as it can be compared.
pub(crate) type Seen = (u16, BTreeMap<String, Vec<String>>, String);

impl Scene {
    /// With a server of everything that the other has, so that nothing is merged and one server has every path.
    pub(crate) async fn new() -> Self {
        let plane = plane(&[36, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", patient)
            .await
            .unwrap();
        let tls = plane.pki().client_config(admin(&plane), &[]).unwrap();
        Self {
            plane,
            agent,
            tls: tls.into(),
        }
    }

    pub(crate) fn pairs(&self) -> Pairs<'_> {
        Pairs {
            plane: &self.plane,
            server: self.plane.server(0),
            agent: &self.agent,
        }
    }

    /// What so many requests in `bytes` are answered, straight and through the agent. `heads` says for each whether it is a HEAD.
    pub(crate) async fn both(&self, bytes: &str, heads: &[bool]) -> [Vec<Seen>; 2] {
        let mut both = [Vec::new(), Vec::new()];
        let addresses = [self.plane.server(0).addr(), self.agent.address];
        for (seen, address) in both.iter_mut().zip(addresses) {
            let mut raw = Raw::http1(address, &self.tls).await.unwrap();
            raw.send(bytes).await.unwrap();
            for head in heads {
                match raw.answer(*head).await {
                    Ok(answer) => seen.push(comparable(answer)),
                    // The connection ended: that is an outcome too.
                    Err(_) => break,
                }
            }
        }
        both
    }

    /// Where the answers to one request differ, and whether its connection goes on.
    async fn difference(&self, head: &str, body: &str, expected: u16) -> Option<String> {
        let next = "GET /readyz HTTP/1.1\r\nHost: kubernetes\r\n\r\n";
        let is_head = head.starts_with("HEAD ");
        let bytes = format!("{head}\r\n{body}{next}");
        let [straight, through] = self.both(&bytes, &[is_head, false]).await;
        let status = straight.first().map(|answer| answer.0);
        let same = status == Some(expected) && through == straight;
        (!same).then(|| {
            format!(
                "{head:.200}: {expected}\n  straight {straight:.2000?}\n  through {through:.2000?}"
            )
        })
    }
}

fn comparable(answer: RawAnswer) -> Seen {
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        if !DIFFERS.contains(&name.as_str()) {
            fields.entry(name.clone()).or_default().push(value.clone());
        }
    }
    (answer.status, fields, answer.text())
}

#[tokio::test]
async fn odd_heads() {
    let scene = Scene::new().await;
    let host = "Host: kubernetes\r\n";
    let mut different = Vec::new();
    for (head, status) in [
        // Targets.
        (
            format!("GET https://kubernetes{ONE} HTTP/1.1\r\n{host}"),
            200,
        ),
        (
            format!("GET https://elsewhere:1{ONE} HTTP/1.1\r\n{host}"),
            200,
        ),
        (
            format!("GET http://kubernetes{ONE} HTTP/1.1\r\n{host}"),
            200,
        ),
        (
            format!("GET //api/v1/namespaces/default HTTP/1.1\r\n{host}"),
            200,
        ),
        (
            format!("GET /api/v1/../v1/namespaces/default HTTP/1.1\r\n{host}"),
            404,
        ),
        (format!("GET /api/v1/./namespaces HTTP/1.1\r\n{host}"), 404),
        (
            format!("GET /%61pi/v1/namespaces/default HTTP/1.1\r\n{host}"),
            200,
        ),
        (
            format!("GET /api%2Fv1%2Fnamespaces%2Fdefault HTTP/1.1\r\n{host}"),
            200,
        ),
        (format!("GET {ONE}/ HTTP/1.1\r\n{host}"), 200),
        (format!("GET {CONFIG_MAPS}/a%2Fb HTTP/1.1\r\n{host}"), 404),
        (
            format!("GET {CONFIG_MAPS}/%E4%BD%A0 HTTP/1.1\r\n{host}"),
            404,
        ),
        (format!("GET {CONFIG_MAPS}/x%00 HTTP/1.1\r\n{host}"), 404),
        (format!("GET {ONE}? HTTP/1.1\r\n{host}"), 200),
        (
            format!("GET {ONE}?limit=5&limit=1&&=&a;b HTTP/1.1\r\n{host}"),
            200,
        ),
        (
            format!("GET {ONE}?a={} HTTP/1.1\r\n{host}", "x".repeat(60_000)),
            200,
        ),
        (
            format!(
                "GET {CONFIG_MAPS}/{} HTTP/1.1\r\n{host}",
                "x".repeat(20_000)
            ),
            404,
        ),
        (format!("GET / HTTP/1.1\r\n{host}"), 200),
        // Methods.
        (format!("get {ONE} HTTP/1.1\r\n{host}"), 405),
        (format!("M-SEARCH {ONE} HTTP/1.1\r\n{host}"), 405),
        (format!("TRACE {ONE} HTTP/1.1\r\n{host}"), 405),
        (
            format!("OPTIONS {ONE} HTTP/1.1\r\n{host}Origin: https://a\r\n"),
            405,
        ),
        (format!("OPTIONS * HTTP/1.1\r\n{host}"), 200),
        (format!("HEAD {ONE} HTTP/1.1\r\n{host}"), 200),
        (format!("HEAD {CONFIG_MAPS}/none HTTP/1.1\r\n{host}"), 404),
        (
            format!("HEAD /openapi/v3/apis/apps/v1 HTTP/1.1\r\n{host}Accept: application/json\r\n"),
            200,
        ),
        // Versions and the connection.
        (format!("GET {ONE} HTTP/1.0\r\n{host}"), 200),
        (format!("GET {ONE} HTTP/1.0\r\n"), 200),
        (
            format!("GET {ONE} HTTP/1.0\r\n{host}Connection: keep-alive\r\n"),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Connection: close\r\n"),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Connection: Close, X\r\n"),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Connection: keep-alive\r\nKeep-Alive: 5\r\n"),
            200,
        ),
        (format!("GET {ONE} HTTP/1.1\nHost: kubernetes\n"), 200),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Connection: Upgrade\r\nUpgrade: h2c\r\n"),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Upgrade: websocket\r\n"),
            200,
        ),
        // Fields.
        (
            format!(
                "GET {ONE} HTTP/1.1\r\n{host}Accept: application/json\r\nAccept: text/html\r\n"
            ),
            200,
        ),
        (
            format!(
                "GET {ONE} HTTP/1.1\r\n{host}Accept: text/html\r\nAccept: application/json\r\n"
            ),
            406,
        ),
        (format!("GET {ONE} HTTP/1.1\r\n{host}Accept:\r\n"), 200),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Accept-Encoding: gzip;q=0\r\n"),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Accept-Encoding: br, *\r\n"),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Range: bytes=0-9\r\n"),
            200,
        ),
        (
            format!(
                "GET /openapi/v3/apis/apps/v1 HTTP/1.1\r\n{host}Accept: application/json\r\nIf-Modified-Since: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
            ),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 0\r\n"),
            200,
        ),
        (
            format!("DELETE {CONFIG_MAPS}/none HTTP/1.1\r\n{host}Content-Length: 0\r\n"),
            404,
        ),
        (format!("DELETE {CONFIG_MAPS}/none HTTP/1.1\r\n{host}"), 404),
        (
            format!("POST {CONFIG_MAPS} HTTP/1.1\r\n{host}Content-Type: application/json\r\n"),
            400,
        ),
        (format!("POST {ECHO} HTTP/1.1\r\n{host}"), 200),
        (
            format!("PUT {ECHO} HTTP/1.1\r\n{host}Content-Length: 0\r\n"),
            200,
        ),
    ] {
        different.extend(scene.difference(&head, "", status).await);
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[tokio::test]
async fn odd_bodies() {
    let scene = Scene::new().await;
    let host = "Host: kubernetes\r\n";
    let mut different = Vec::new();
    for (head, body, status) in [
        (
            format!("POST {ECHO} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n"),
            "0\r\n\r\n".to_owned(),
            200,
        ),
        (
            format!("POST {ECHO} HTTP/1.1\r\n{host}Transfer-Encoding: Chunked\r\n"),
            "5;a=b\r\nhello\r\n0\r\n\r\n".to_owned(),
            200,
        ),
        (
            format!(
                "POST {ECHO} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\n"
            ),
            "005\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 6\r\n\r\n".to_owned(),
            200,
        ),
        (
            format!("POST {ECHO} HTTP/1.1\r\n{host}Content-Length: 5\r\nContent-Length: 5\r\n"),
            "hello".to_owned(),
            200,
        ),
        (
            format!("GET {ONE} HTTP/1.1\r\n{host}Content-Length: 5\r\n"),
            "hello".to_owned(),
            200,
        ),
        (
            format!(
                "DELETE {CONFIG_MAPS}/none HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 2\r\n"
            ),
            "{}".to_owned(),
            404,
        ),
        (
            format!("POST {ECHO} HTTP/1.1\r\n{host}Content-Length: 5\r\nConnection: close\r\n"),
            "hello".to_owned(),
            200,
        ),
        (
            format!("POST {ECHO} HTTP/1.0\r\n{host}Content-Length: 5\r\n"),
            "hello".to_owned(),
            200,
        ),
        (
            format!(
                "GET /api/v1/namespaces/default/pods/p/proxy/trailers HTTP/1.1\r\n{host}TE: trailers\r\n"
            ),
            String::new(),
            200,
        ),
        (
            format!("GET /api/v1/namespaces/default/pods/p/proxy/trailers HTTP/1.1\r\n{host}"),
            String::new(),
            200,
        ),
        (
            format!("GET /api/v1/namespaces/default/pods/p/proxy/status/204 HTTP/1.1\r\n{host}"),
            String::new(),
            204,
        ),
        (
            format!("GET /api/v1/namespaces/default/pods/p/proxy/status/304 HTTP/1.1\r\n{host}"),
            String::new(),
            304,
        ),
        (
            format!("GET /api/v1/namespaces/default/pods/p/proxy/status/299 HTTP/1.1\r\n{host}"),
            String::new(),
            299,
        ),
        (
            format!("GET /api/v1/namespaces/default/pods/p/proxy/status/599 HTTP/1.1\r\n{host}"),
            String::new(),
            599,
        ),
    ] {
        different.extend(scene.difference(&head, &body, status).await);
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// A client that waits for 100 (Continue) before it sends its body, one that does not wait, and one that expects something else.
#[tokio::test]
async fn expectations() {
    let scene = Scene::new().await;
    let head = |expect: &str| {
        format!(
            "POST {UPLOAD} HTTP/1.1\r\nHost: kubernetes\r\nContent-Length: 5\r\nExpect: {expect}\r\n\r\n"
        )
    };
    for expect in ["100-continue", "100-Continue"] {
        for address in [scene.plane.server(0).addr(), scene.agent.address] {
            let mut raw = Raw::http1(address, &scene.tls).await.unwrap();
            raw.send(head(expect)).await.unwrap();
            assert_eq!(raw.answer(false).await.unwrap().status, 100, "{expect}");
            raw.send("hello").await.unwrap();
            let answer = raw.answer(false).await.unwrap();
            assert_eq!(answer.status, 200);
            assert!(answer.text().contains("\"bytes\":5"), "{}", answer.text());
        }
    }
    let next = "GET /readyz HTTP/1.1\r\nHost: kubernetes\r\n\r\n";
    let bytes = format!("{}hello{next}", head("100-continue"));
    let [straight, through] = scene.both(&bytes, &[false; 3]).await;
    let last = |seen: &[Seen]| {
        seen.iter()
            .filter(|seen| seen.0 != 100)
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(last(&through), last(&straight));
    assert_eq!(last(&through).len(), 2);
    // `net/http` refuses what it does not know, and ends the connection. It has no words for it, the agent has.
    for expect in ["200-ok", "100-continued"] {
        let bytes = format!("{}hello{next}", head(expect));
        for seen in scene.both(&bytes, &[false; 2]).await {
            assert_eq!(seen.len(), 1, "{expect}: {seen:?}");
            assert_eq!(seen[0].0, 417, "{expect}");
            assert_eq!(seen[0].1["connection"], ["close"], "{expect}");
        }
    }
    // Over HTTP/2 nobody looks at it.
    let admin = admin(&scene.plane);
    let case = Case::new(&admin, Method::POST, UPLOAD)
        .body("text/plain", "hello")
        .header("expect", "200-ok");
    let (straight, through) = scene.pairs().run(&case, Protocol::Http2).await.unwrap();
    assert_eq!(straight.status, 200);
    assert_eq!(through, straight);
}

/// Many requests at once on one connection, bodies between them.
#[tokio::test]
async fn a_pipeline() {
    let scene = Scene::new().await;
    let host = "Host: kubernetes\r\n";
    let bytes = [
        format!("GET {ONE} HTTP/1.1\r\n{host}\r\n"),
        format!("POST {ECHO} HTTP/1.1\r\n{host}Content-Length: 3\r\n\r\nabc"),
        format!("HEAD {ONE} HTTP/1.1\r\n{host}\r\n"),
        format!("GET {CONFIG_MAPS}/none HTTP/1.1\r\n{host}\r\n"),
        format!(
            "POST {ECHO} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        ),
        format!("GET {ONLY_36}/none HTTP/1.1\r\n{host}\r\n"),
        format!("GET /version HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
        format!("GET /livez HTTP/1.1\r\n{host}\r\n"),
    ];
    let heads = [false, false, true, false, false, false, false, false];
    let [straight, through] = scene.both(&bytes.concat(), &heads).await;
    assert_eq!(straight.len(), 7, "{straight:?}");
    assert_eq!(through, straight);
}

/// Another protocol is asked for, of a pod that a kubelet does not know: its 404 is final, and the connection goes on.
#[tokio::test]
async fn upgrades_that_are_refused() {
    let scene = Scene::new().await;
    for (protocol, more) in [
        (
            "websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n",
        ),
        (
            "SPDY/3.1",
            "X-Stream-Protocol-Version: v4.channel.k8s.io\r\n",
        ),
    ] {
        for stream in [
            "exec?command=ls&stdout=1",
            "attach?stdout=1",
            "portforward?ports=80",
        ] {
            let target = format!("/api/v1/namespaces/default/pods/missing/{stream}");
            scene
                .plane
                .servers()
                .iter()
                .for_each(Server::clear_requests);
            for method in ["GET", "POST"] {
                let head = format!(
                    "{method} {target} HTTP/1.1\r\nHost: kubernetes\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{more}"
                );
                let next = "GET /readyz HTTP/1.1\r\nHost: kubernetes\r\n\r\n";
                let [straight, through] = scene.both(&format!("{head}\r\n"), &[false]).await;
                assert_eq!(
                    straight.first().map(|seen| seen.0),
                    Some(404),
                    "{head}: {straight:?}"
                );
                assert_eq!(through, straight, "{head}");
                let [straight, through] =
                    scene.both(&format!("{head}\r\n{next}"), &[false; 2]).await;
                assert_eq!(through, straight, "{head}");
            }
            // Four times straight and through, whichever server it was.
            let asked = scene.plane.servers().iter();
            let asked = asked.map(|server| received(server, &target)).sum::<usize>();
            assert_eq!(asked, 8, "{target}");
        }
    }
}
