//! Every error that the agent makes itself, as clients of any kind read it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use http::{Method, Response};
use mvp::config::{Config, Endpoint};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Answer, Client, empty, full};
use mvp_tests::scripted::{Seen, Stage, WIDGETS};
use mvp_tests::sim::pki::{ClientAuth, Identity};
use mvp_tests::sim::{ControlPlane, ServerSpec};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const NAMESPACES: &str = "/api/v1/namespaces";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What a Status must say.
struct Expected {
    code: u16,
    reason: &'static str,
    message: &'static str,
    retry: bool,
}

const UNAUTHORIZED: Expected = Expected {
    code: 401,
    reason: "Unauthorized",
    message: "Unauthorized",
    retry: false,
};

async fn plane() -> ControlPlane {
    ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap()
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

async fn clients(plane: &ControlPlane, agent: &TestAgent, auth: ClientAuth) -> [Client; 2] {
    [
        agent.http1(plane, auth.clone()).await.unwrap(),
        agent.http2(plane, auth).await.unwrap(),
    ]
}

/// Asks in every media type, and with HEAD, and checks everything about the answers.
async fn check(client: &Client, method: Method, target: &str, expected: &Expected) {
    for accept in [
        "",
        "application/json",
        "application/yaml",
        PROTOBUF,
        "text/html",
        "*/*",
    ] {
        let headers = [("audit-id", "mine"), ("accept", accept)];
        let headers = if accept.is_empty() {
            &headers[..1]
        } else {
            &headers[..]
        };
        let answer = client
            .call(method.clone(), target, headers, full("{}"))
            .await
            .unwrap();
        check_head(&answer, expected);
        assert_eq!(answer.headers["audit-id"], "mine");
        assert_eq!(
            answer.headers["content-length"],
            answer.body.len().to_string().as_str()
        );
        let media_type = match accept {
            "application/yaml" | PROTOBUF => accept,
            _ => "application/json",
        };
        assert_eq!(
            answer.headers["content-type"], media_type,
            "accept: {accept}"
        );
        check_body(&answer, media_type, expected);
    }
    let bare = client
        .call(method.clone(), target, &[], full("{}"))
        .await
        .unwrap();
    let id = bare.headers["audit-id"].to_str().unwrap().to_owned();
    assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}");
    if method == Method::GET {
        let head = client
            .call(Method::HEAD, target, &[], empty())
            .await
            .unwrap();
        check_head(&head, expected);
        assert!(head.body.is_empty());
        assert_eq!(
            head.headers["content-length"],
            bare.headers["content-length"]
        );
        // The connection has nothing left over.
        let again = client.get(target, &[]).await.unwrap();
        assert_eq!(again.body, bare.body);
    }
}

fn check_head(answer: &Answer, expected: &Expected) {
    assert_eq!(answer.status.as_u16(), expected.code, "{}", answer.text());
    assert_eq!(answer.headers["cache-control"], "no-cache, private");
    assert_eq!(answer.headers["x-mvp-error"], "proxy");
    let retry = answer
        .headers
        .get("retry-after")
        .map(|v| v.to_str().unwrap());
    assert_eq!(retry, expected.retry.then_some("1"));
}

fn check_body(answer: &Answer, media_type: &str, expected: &Expected) {
    let (code, reason, message, retry) = match media_type {
        PROTOBUF => from_protobuf(&answer.body),
        "application/yaml" => from_value(serde_saphyr::from_str(&answer.text()).unwrap()),
        _ => from_value(answer.json()),
    };
    assert_eq!(
        (code, reason.as_str()),
        (u64::from(expected.code), expected.reason)
    );
    assert!(message.contains(expected.message), "{message}");
    assert_eq!(retry, expected.retry.then_some(1));
}

type Status = (u64, String, String, Option<u64>);

fn from_value(status: serde_json::Value) -> Status {
    assert_eq!(
        (&status["kind"], &status["apiVersion"]),
        (&"Status".into(), &"v1".into())
    );
    assert_eq!(status["status"], "Failure");
    assert_eq!(status["metadata"], serde_json::json!({}));
    let text = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    let code = status["code"].as_u64().unwrap();
    let retry = status["details"]["retryAfterSeconds"].as_u64();
    (code, text("reason"), text("message"), retry)
}

/// `runtime.Unknown` with a `metav1.Status` inside (apimachinery `generated.proto`).
fn from_protobuf(body: &[u8]) -> Status {
    let unknown = fields(body.strip_prefix(b"k8s\0").expect("magic number"));
    let kind = fields(bytes(&unknown, 1).unwrap());
    assert_eq!(
        (text(&kind, 1), text(&kind, 2)),
        ("v1".into(), "Status".into())
    );
    let status = fields(bytes(&unknown, 2).unwrap());
    assert_eq!(text(&status, 2), "Failure");
    let retry = bytes(&status, 5).map(|details| number(&fields(details), 5));
    (
        number(&status, 6),
        text(&status, 4),
        text(&status, 3),
        retry,
    )
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let (byte, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = varint(&mut message);
        all.push((
            tag >> 3,
            match tag & 7 {
                0 => Field::Number(value),
                2 => {
                    let (bytes, rest) = message.split_at(value as usize);
                    message = rest;
                    Field::Bytes(bytes)
                }
                other => panic!("wire type {other}"),
            },
        ));
    }
    all
}

fn bytes<'a>(fields: &[(u64, Field<'a>)], number: u64) -> Option<&'a [u8]> {
    fields.iter().find_map(|(n, field)| match field {
        Field::Bytes(bytes) if *n == number => Some(*bytes),
        _ => None,
    })
}

fn text(fields: &[(u64, Field<'_>)], number: u64) -> String {
    String::from_utf8(bytes(fields, number).unwrap_or_default().to_vec()).unwrap()
}

fn number(fields: &[(u64, Field<'_>)], number: u64) -> u64 {
    let found = fields.iter().find_map(|(n, field)| match field {
        Field::Number(value) if *n == number => Some(*value),
        _ => None,
    });
    found.unwrap()
}

#[tokio::test]
async fn unauthorized() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let stranger = ClientAuth::Certificate(Identity::self_signed("stranger").unwrap());
    for client in clients(&plane, &agent, stranger).await {
        let client = client.returning();
        check(&client, Method::GET, NAMESPACES, &UNAUTHORIZED).await;
        check(&client, Method::POST, POLICIES, &UNAUTHORIZED).await;
        check(&client, Method::GET, "/readyz", &UNAUTHORIZED).await;
    }
}

#[tokio::test]
async fn targets_that_mean_nothing() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let malformed = Expected {
        code: 400,
        reason: "BadRequest",
        message: "invalid percent escape",
        retry: false,
    };
    let requests = plane.server(0).requests().len();
    for client in clients(&plane, &agent, admin(&plane)).await {
        for target in ["/api/v1/%zz", "/api/v1/pods%2", "/%"] {
            check(&client, Method::GET, target, &malformed).await;
        }
    }
    let seen = plane.server(0).requests();
    assert!(
        seen[requests..]
            .iter()
            .all(|seen| !seen.target.contains('%'))
    );
}

#[tokio::test]
async fn a_capable_server_that_is_down_is_told_apart_from_a_missing_type() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    plane.named("cp-b").unwrap().kill().await;
    let unreachable = Expected {
        code: 503,
        reason: "ServiceUnavailable",
        message: "mutatingadmissionpolicies is reachable right now",
        retry: true,
    };
    let [first, _] = clients(&plane, &agent, admin(&plane)).await;
    // The very first request may be the one that finds out; from then on it is known.
    assert_eq!(first.get(POLICIES, &[]).await.unwrap().status, 503);
    eventually(
        "the peer's end is known",
        Duration::from_secs(20),
        || async {
            Ok(agent
                .metric("mvp_server_available{server=\"cp-b\"}")
                .await?
                == 0.0)
        },
    )
    .await
    .unwrap();
    for client in clients(&plane, &agent, admin(&plane)).await {
        check(&client, Method::GET, POLICIES, &unreachable).await;
        check(&client, Method::PUT, POLICIES, &unreachable).await;
    }
    let metric = "apiserver_peer_proxy_errors_total{type=\"endpoint_resolution\",group=\"admissionregistration.k8s.io\",\
                  version=\"v1\",resource=\"mutatingadmissionpolicies\"}";
    assert!(agent.metric(metric).await.unwrap() > 0.0);
}

#[tokio::test]
async fn an_unknown_type_is_no_404_while_a_server_was_never_heard() {
    let plane = plane().await;
    plane.named("cp-b").unwrap().kill().await;
    let agent = TestAgent::start_unready(&plane, "cp-a", |_| {}).unwrap();
    let unconfirmed = Expected {
        code: 503,
        reason: "ServiceUnavailable",
        message: "what kube-apiserver cp-b serves cannot be confirmed",
        retry: true,
    };
    let [http1, http2] = clients(&plane, &agent, admin(&plane)).await;
    eventually(
        "the local server is known",
        Duration::from_secs(20),
        || async { Ok(http1.get(NAMESPACES, &[]).await?.status == 200) },
    )
    .await
    .unwrap();
    check(&http1, Method::GET, POLICIES, &unconfirmed).await;
    check(&http2, Method::POST, POLICIES, &unconfirmed).await;
}

#[tokio::test]
async fn a_server_that_breaks_off() {
    let plane = plane().await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    // It may have acted on the POST, which client-go would send again by Retry-After, and kube-rs after any 503.
    let broken = Expected {
        code: 502,
        reason: "InternalError",
        message: "kube-apiserver cp-a did not answer: broke off",
        retry: false,
    };
    for client in clients(&plane, &agent, admin(&plane)).await {
        // Seven answers are asked for; a reset one may be the poller's, so there are more than that.
        for _ in 0..3 {
            plane.server(0).reset_next(1);
            let answer = client
                .post_json(NAMESPACES, &[], &serde_json::json!({}))
                .await
                .unwrap();
            plane.server(0).reset_next(0);
            if answer.status == 502 {
                check_head(&answer, &broken);
                check_body(&answer, "application/json", &broken);
            } else {
                assert_ne!(
                    answer.status.as_u16() / 100,
                    2,
                    "nothing is made of an empty object"
                );
            }
        }
    }
    assert!(
        agent
            .metric("mvp_requests_total{decision=\"server_failed\",server=\"\",code=\"502\"}")
            .await
            .unwrap()
            > 0.0
    );
}

#[tokio::test]
async fn a_server_that_takes_too_long() {
    let plane = plane().await;
    let impatient =
        |config: &mut Config| config.limits.response_timeout = Duration::from_millis(200);
    let agent = TestAgent::start_with(&plane, "cp-a", impatient)
        .await
        .unwrap();
    let late = Expected {
        code: 504,
        reason: "Timeout",
        message: "request did not complete within the allotted timeout",
        retry: false,
    };
    plane.server(0).slow(Duration::from_millis(1500));
    for client in clients(&plane, &agent, admin(&plane)).await {
        for accept in ["application/json", "application/yaml", PROTOBUF] {
            let answer = client.get(NAMESPACES, &[("accept", accept)]).await.unwrap();
            check_head(&answer, &late);
            check_body(&answer, accept, &late);
        }
    }
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for() {
    let script = |_: &Seen| {
        let switch = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "x");
        switch.body(empty()).unwrap()
    };
    let stage = Stage::new(&["http/1.1"], script).await.unwrap();
    let unasked = Expected {
        code: 503,
        reason: "ServiceUnavailable",
        message: "kube-apiserver cp-b did not answer: broke off: it switched protocols unasked",
        retry: true,
    };
    for client in clients(&stage.plane, &stage.agent, admin(&stage.plane)).await {
        let answer = client.get(WIDGETS, &[]).await.unwrap();
        check_head(&answer, &unasked);
        check_body(&answer, "application/json", &unasked);
    }
}

#[tokio::test]
async fn a_local_server_that_is_no_kube_apiserver_at_all() {
    let plane = plane().await;
    // Accepts and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let agent = TestAgent::start_unready(&plane, "cp-a", |config| {
        config.local = Endpoint {
            name: "cp-a".into(),
            host: address.ip().to_string(),
            port: address.port(),
        };
        config.peers.fixed.clear();
        config.upstream.connect_timeout = Duration::from_millis(300);
    })
    .unwrap();
    for client in clients(&plane, &agent, admin(&plane)).await {
        // A probe is to be asked again by who asks it: client-go waits wherever it reads Retry-After.
        for (target, retry_after) in [("/readyz", None), (NAMESPACES, Some("1"))] {
            let answer = client.get(target, &[]).await.unwrap();
            assert_eq!(answer.status, 503, "{target}");
            assert_eq!(answer.json()["reason"], "ServiceUnavailable");
            let told = answer
                .headers
                .get("retry-after")
                .map(|v| v.to_str().unwrap());
            assert_eq!(told, retry_after, "{target}");
        }
    }
}
