//! Content negotiation against answers recorded from real kube-apiservers: the simulated server gives them, and through an agent
//! they are the same, with a document that the agent merges, with a Status of its own, and with whatever it passes on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::{HeaderValue, Method};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Answer, Client, empty};
use mvp_tests::fixtures::{ONLY_36, SOON, admin, client, direct, patient, plane};
use serde::Deserialize;

/// Where the recording is looked for: in this variable, or beside the checkout.
const VARIABLE: &str = "MVP_RECORDED_ACCEPT";

#[derive(Debug, Deserialize)]
struct Recorded {
    server: String,
    path: String,
    accept: Vec<String>,
    status: u16,
    content_type: Option<String>,
}

/// The tricky ones, where there is no recording: path, `Accept`, status and content type of 1.36.3.
const OWN: [(&str, &[&str], u16, &str); 22] = [
    ("/api", &["*"], 406, JSON),
    ("/apis", &["*"], 200, JSON),
    ("/api", &["application/*"], 406, JSON),
    ("/apis", &["application/*"], 200, JSON),
    ("/apis/apps", &["application/*"], 200, JSON),
    ("/apis/apps/v1", &["application/*"], 406, JSON),
    ("/api/v1", &["*/*;q=0.1,application/yaml"], 200, YAML),
    ("/api", &["application/yaml", JSON], 200, YAML),
    (
        "/api",
        &["application/json;g=\"apidiscovery.k8s.io\";v=\"v2\";as=\"APIGroupDiscoveryList\""],
        406,
        JSON,
    ),
    (
        "/api",
        &["application/json;as=APIGroupDiscoveryList;as=Table;g=apidiscovery.k8s.io;v=v2"],
        406,
        JSON,
    ),
    (
        "/apis",
        &["application/json;g=apidiscovery.k8s.io;g=x;v=v2;as=APIGroupDiscoveryList"],
        406,
        JSON,
    ),
    (
        "/apis",
        &["application/json,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"],
        200,
        V2,
    ),
    (
        "/apis",
        &[
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList;q=0.1,application/yaml;q=0.5",
        ],
        200,
        V2,
    ),
    (
        "/apis",
        &["application/json;q=\"0.3\",application/yaml;q=0.5"],
        200,
        YAML,
    ),
    (
        "/apis",
        &["application/yaml;q=,application/json"],
        200,
        YAML,
    ),
    (
        "/apis",
        &["application/yaml;q=abc,application/json;q=0.1"],
        200,
        JSON,
    ),
    (
        "/apis/apps/v1",
        &["application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"],
        406,
        JSON,
    ),
    (
        "/apis/apps/v1",
        &["application/json;stream=watch"],
        200,
        JSON,
    ),
    ("/apis/apps/v1/nope", &["text/plain"], 404, JSON),
    (
        "/apis/apps/v1/nope",
        &["*/*;q=0.1,application/yaml"],
        404,
        YAML,
    ),
    ("/api/v1/namespaces", &["application/*"], 406, JSON),
    (
        "/openapi/v3",
        &["application/json"],
        200,
        "text/plain; charset=utf-8",
    ),
];
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

fn cases(server: &str) -> Vec<Recorded> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let beside = beside
        .ancestors()
        .map(|folder| folder.join("shared/recorded/accept.json"));
    let path = std::env::var_os(VARIABLE).map(PathBuf::from);
    let path = path
        .or_else(|| beside.into_iter().find(|path| path.is_file()))
        .unwrap_or_default();
    let Ok(text) = std::fs::read(&path) else {
        println!(
            "{VARIABLE}: no recording at {}: the own table alone",
            path.display()
        );
        return OWN
            .iter()
            .map(|(path, accept, status, content_type)| Recorded {
                server: server.to_owned(),
                path: (*path).to_owned(),
                accept: accept.iter().map(|accept| (*accept).to_owned()).collect(),
                status: *status,
                content_type: Some((*content_type).to_owned()),
            })
            .collect();
    };
    let all: Vec<Recorded> = serde_json::from_slice(&text).unwrap();
    all.into_iter()
        .filter(|case| case.server == server)
        .collect()
}

async fn ask(client: &Client, path: &str, accept: &[String]) -> Answer {
    let mut request = client.request(Method::GET, path, &[], empty()).unwrap();
    for value in accept {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append("accept", value);
    }
    Answer::read(client.send(request).await.unwrap())
        .await
        .unwrap()
}

fn found(answer: &Answer) -> (u16, Option<String>) {
    let kind = answer.headers.get("content-type");
    (
        answer.status.as_u16(),
        kind.map(|kind| kind.to_str().unwrap().to_owned()),
    )
}

async fn as_recorded(server: &str, minor: u8, other: u8) {
    // The other server serves other things, so that documents are merged.
    let plane = plane(&[minor, other]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let (through, straight) = (
        client(&plane, &agent).await,
        direct(&plane, plane.server(0)).await,
    );
    let http1 = agent.http1(&plane, admin(&plane)).await.unwrap();
    let mut wrong = BTreeMap::new();
    for case in cases(server) {
        let recorded = (case.status, case.content_type.clone());
        let ours = found(&ask(&through, &case.path, &case.accept).await);
        let theirs = found(&ask(&straight, &case.path, &case.accept).await);
        let over_http1 = found(&ask(&http1, &case.path, &case.accept).await);
        assert_eq!(over_http1, ours, "{} {:?}", case.path, case.accept);
        // The simulated server writes objects and OpenAPI v2 not as protobuf: it answers in the next type, or 406.
        let protobuf = case
            .content_type
            .as_deref()
            .is_some_and(|kind| kind.contains("protobuf"));
        let unwritten = protobuf
            && !case
                .content_type
                .as_deref()
                .is_some_and(|k| k.contains("apidiscovery"))
            && ![
                "/api",
                "/apis",
                "/apis/",
                "/api/v1",
                "/apis/apps",
                "/apis/apps/v1",
            ]
            .contains(&case.path.as_str());
        let expected = if unwritten { theirs.clone() } else { recorded };
        if ours != expected || theirs != expected {
            wrong.insert(
                format!("{} {:?}", case.path, case.accept),
                (expected, theirs, ours),
            );
        }
    }
    let list: Vec<_> = wrong.iter().map(|w| format!("{w:?}")).collect();
    assert!(
        wrong.is_empty(),
        "(case, (recorded, simulated, through)):\n{}",
        list.join("\n")
    );
}

#[tokio::test]
async fn every_recorded_answer_of_1_33() {
    as_recorded("v1.33.13", 33, 36).await;
}

#[tokio::test]
async fn every_recorded_answer_of_1_36() {
    as_recorded("v1.36.3", 36, 33).await;
}

/// The agent's own errors are written in the media type in which a kube-apiserver writes its own.
#[tokio::test]
async fn a_status_of_the_agents_own() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let client = client(&plane, &agent).await;
    let http1 = agent.http1(&plane, admin(&plane)).await.unwrap();
    plane.server(1).kill().await;
    eventually("the capable server is missed", SOON, || async {
        Ok(client.get(ONLY_36, &[]).await?.status == 503)
    })
    .await
    .unwrap();
    let mut seen = 0;
    for case in cases("v1.36.3") {
        if case.path != "/apis/apps/v1/nope" {
            continue;
        }
        for client in [&client, &http1] {
            let answer = ask(client, ONLY_36, &case.accept).await;
            let expected = (503, case.content_type.clone());
            assert_eq!(found(&answer), expected, "{:?}", case.accept);
        }
        seen += 1;
    }
    assert!(seen > 1, "nothing was compared");
}
