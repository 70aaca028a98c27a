//! Merged discovery is given to those only to whom the servers give their own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use mvp_tests::agent::eventually;
use mvp_tests::client::{Answer, Client};
use mvp_tests::facts::{self, PROTOBUF, V2};
use mvp_tests::fixtures::{SOON, spec};
use mvp_tests::fleet::Fleet;
use mvp_tests::sim::api::authn::User;
use mvp_tests::sim::pki::ClientAuth;

const PATHS: [&str; 10] = [
    "/apis",
    "/apis/",
    "/api",
    "/apis/admissionregistration.k8s.io",
    "/apis/admissionregistration.k8s.io/v1",
    "/api/v1/",
    "/openapi/v3",
    "/openapi/v3/apis/admissionregistration.k8s.io/v1",
    "/openapi/v2",
    "/apis/nothing.example/v1",
];
/// What a 1.35 server does not have: none of it may be said to those who may not know.
const NEW: &[u8] = b"mutatingadmissionpolic";

/// Who may not read discovery, and what they are told.
fn strangers() -> [(&'static str, Option<&'static str>, u16); 3] {
    [
        ("anonymous", None, 403),
        ("of a wrong token", Some("Bearer wrong"), 401),
        (
            "not bound to system:discovery",
            Some("Bearer bob-token"),
            403,
        ),
    ]
}

async fn fleet() -> Fleet {
    let fleet = Fleet::start([spec(b'a', 35), spec(b'b', 36)]).await;
    let bob = User {
        name: "bob".into(),
        groups: vec!["devs".into()],
        ..User::default()
    };
    fleet.plane.add_token("bob-token", bob);
    fleet.plane.take_discovery_from("bob");
    fleet
}

/// A connection without a certificate.
async fn nobody(fleet: &Fleet, address: std::net::SocketAddr) -> Client {
    let tls = fleet
        .plane
        .pki()
        .client_config(ClientAuth::None, &[])
        .unwrap();
    let client = Client::http2(address, &tls.into()).await.unwrap();
    client.returning()
}

async fn ask(client: &Client, path: &str, accept: &str, token: Option<&str>) -> Answer {
    let mut headers = vec![("accept", accept)];
    headers.extend(token.map(|token| ("authorization", token)));
    client.get(path, &headers).await.unwrap()
}

fn holds(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// What the agent says to strangers is what `server` itself says.
async fn assert_refused_as_by(fleet: &Fleet, agent: usize, server: usize) {
    let through = nobody(fleet, fleet.agents[agent].address).await;
    let direct = nobody(fleet, fleet.plane.server(server).addr()).await;
    for (who, token, status) in strangers() {
        for path in PATHS {
            for accept in [V2, "application/json", PROTOBUF, "*/*"] {
                let what = format!("{path} as {accept} to one who is {who}");
                let expected = ask(&direct, path, accept, token).await;
                let answer = ask(&through, path, accept, token).await;
                assert_eq!(answer.status, status, "{what}: {}", answer.text());
                assert_eq!(answer.body, expected.body, "{what}");
                assert_eq!(
                    answer.headers["content-type"], expected.headers["content-type"],
                    "{what}"
                );
                assert!(!answer.headers.contains_key("etag"), "{what}");
                assert!(
                    !holds(&answer.body, NEW) || path.contains("mutating"),
                    "{what}"
                );
            }
        }
    }
}

#[tokio::test]
async fn strangers_get_what_the_local_server_says() {
    let fleet = fleet().await;
    for number in [0, 1] {
        assert_refused_as_by(&fleet, number, number).await;
    }
}

#[tokio::test]
async fn strangers_get_what_a_peer_says_while_the_local_server_is_down() {
    let fleet = fleet().await;
    fleet.plane.server(0).kill().await;
    let admin = &fleet.clients[0];
    eventually("discovery is answered", SOON, || async {
        Ok(admin.get("/apis", &[("accept", V2)]).await?.status == 200)
    })
    .await
    .unwrap();
    assert_refused_as_by(&fleet, 0, 1).await;
}

#[tokio::test]
async fn a_known_etag_opens_nothing() {
    let fleet = fleet().await;
    let merged = fleet.clients[0]
        .get("/apis", &[("accept", V2)])
        .await
        .unwrap();
    let etag = merged.headers["etag"].to_str().unwrap();
    let through = nobody(&fleet, fleet.agents[0].address).await;
    for (who, token, status) in strangers() {
        let mut headers = vec![("accept", V2), ("if-none-match", etag)];
        headers.extend(token.map(|token| ("authorization", token)));
        let answer = through.get("/apis", &headers).await.unwrap();
        assert_eq!(answer.status, status, "{who}");
    }
}

#[tokio::test]
async fn those_who_may_see_it_with_whatever_they_come() {
    let fleet = fleet().await;
    let connection = nobody(&fleet, fleet.agents[0].address).await;
    let alice = ClientAuth::Certificate(fleet.plane.pki().alice().unwrap());
    let certificate = fleet.agents[0].http2(&fleet.plane, alice).await.unwrap();
    let union = fleet.union("/apis", &[("accept", V2)]).await.unwrap();
    let check = async |what: &str| {
        let with_token = ask(&connection, "/apis", V2, Some("Bearer alice-token")).await;
        let with_certificate = ask(&certificate, "/apis", V2, None).await;
        for answer in [with_token, with_certificate] {
            assert_eq!(facts::of(&answer).unwrap(), union, "{what}");
        }
    };
    check("all is well").await;
    fleet.plane.server(0).kill().await;
    eventually("discovery is answered", SOON, || async {
        Ok(ask(&certificate, "/apis", V2, None).await.status == 200)
    })
    .await
    .unwrap();
    check("the local server is down").await;
}
