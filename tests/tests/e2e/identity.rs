//! Who the servers see, for every kind of caller, through the agent and at either server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::child::ChildAgent;
use mvp_tests::client::{Answer, Client};
use mvp_tests::fixtures;
use mvp_tests::sim::api::authn::{Method as How, User};
use mvp_tests::sim::pki::{Authority, ClientAuth, Identity, Request, Usage};
use mvp_tests::sim::{ControlPlane, Recorded, ServerSpec};
use time::{Duration, OffsetDateTime};

/// Served by 1.36 only, and by both.
const PEER: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
const LOCAL: &str = "/api/v1/namespaces";
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

struct Scene {
    plane: ControlPlane,
    agent: TestAgent,
}

impl Scene {
    async fn new() -> Self {
        let plane = ControlPlane::builder()
            .server(ServerSpec::new("cp-a", 35))
            .server(ServerSpec::new("cp-b", 36))
            .start()
            .await
            .unwrap();
        plane.add_token("sesame", user("robot", &["robots"]));
        let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
        Self { plane, agent }
    }

    async fn clients(&self, auth: &ClientAuth) -> [Client; 2] {
        [
            self.agent.http1(&self.plane, auth.clone()).await.unwrap(),
            self.agent.http2(&self.plane, auth.clone()).await.unwrap(),
        ]
    }

    /// Asks both servers over both versions with these headers; gives what came back and what the server recorded of it.
    async fn ask(
        &self,
        auth: &ClientAuth,
        headers: &[(&str, &str)],
    ) -> Vec<(Answer, Option<Arc<Recorded>>)> {
        let mut all = Vec::new();
        for client in self.clients(auth).await {
            // Who is not authenticated is told to leave after each answer.
            let client = client.returning();
            for (path, server) in [(LOCAL, "cp-a"), (PEER, "cp-b")] {
                let target = format!("{path}?mark={}", uuid::Uuid::new_v4());
                let answer = client.get(&target, headers).await.unwrap();
                let find = |name: &str| {
                    let mut seen = self.plane.named(name).unwrap().requests();
                    seen.retain(|request| request.target == target);
                    assert!(seen.len() <= 1);
                    seen.pop()
                };
                let other = if server == "cp-a" { "cp-b" } else { "cp-a" };
                assert!(find(other).is_none(), "{target} is for {server}");
                all.push((answer, find(server)));
            }
        }
        all
    }

    /// What the servers saw of a caller whom the agent lets through.
    async fn seen(&self, auth: &ClientAuth, headers: &[(&str, &str)]) -> Vec<Arc<Recorded>> {
        let asked = self.ask(auth, headers).await;
        asked
            .into_iter()
            .map(|(_, seen)| seen.expect("a server saw it"))
            .collect()
    }

    async fn is_refused(&self, auth: &ClientAuth, headers: &[(&str, &str)]) {
        for (answer, seen) in self.ask(auth, headers).await {
            assert_eq!(answer.status, 401, "{}", answer.text());
            let status = answer.json();
            assert_eq!(status["kind"], "Status");
            assert_eq!(status["message"], "Unauthorized");
            assert_eq!(status["reason"], "Unauthorized");
            assert_eq!(status["code"], 401);
            assert!(seen.is_none(), "no server was asked");
        }
    }
}

fn user(name: &str, groups: &[&str]) -> User {
    User {
        name: name.into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        ..User::default()
    }
}

fn certificate(identity: &Identity) -> ClientAuth {
    ClientAuth::Certificate(identity.clone())
}

fn credential_id(identity: &Identity) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(&identity.chain().unwrap()[0]);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("X509SHA256={hex}")
}

#[tokio::test]
async fn a_certificates_user_arrives_whole() {
    let scene = Scene::new().await;
    let pki = scene.plane.pki();
    for request in [
        Request {
            uid: Some("u-4711".into()),
            ..Request::new("jane", &["ops", "devs", "team:a b", "system:masters"])
        },
        Request {
            intermediate: true,
            ..Request::new("Jane Dœ <jane@example.org>", &["ops", "Ünits"])
        },
        Request {
            usage: Usage::Absent,
            ..Request::new("system:node:cp-a", &[])
        },
    ] {
        let identity = pki.issue(&request).unwrap();
        // A token and other people's names change nothing: the certificate comes first.
        let headers = [
            ("authorization", "Bearer sesame"),
            ("x-remote-user", "root"),
        ];
        for seen in scene.seen(&certificate(&identity), &headers).await {
            let user = seen.user.as_ref().unwrap();
            assert_eq!(seen.how, Some(How::FrontProxy));
            assert_eq!(user.name, request.common_name);
            assert_eq!(user.uid, request.uid.clone().unwrap_or_default());
            let mut groups = request.groups.clone();
            groups.push("system:authenticated".into());
            assert_eq!(user.groups, groups);
            assert_eq!(user.extra.len(), 1, "{:?}", user.extra);
            assert_eq!(user.extra[CREDENTIAL_ID], [credential_id(&identity)]);
            assert!(
                !seen.headers.contains_key("authorization"),
                "it has done its work"
            );
        }
    }
}

#[tokio::test]
async fn a_token_goes_to_the_server_untouched() {
    let scene = Scene::new().await;
    for header in ["Bearer sesame", "bearer sesame", "BEARER  sesame"] {
        for (answer, seen) in scene
            .ask(&ClientAuth::None, &[("authorization", header)])
            .await
        {
            let seen = seen.expect("the server judges tokens");
            assert_eq!(seen.headers["authorization"], header, "byte for byte");
            if header == "BEARER  sesame" {
                continue; // No token to the agent; what it is, the server says.
            }
            assert_eq!(seen.how, Some(How::Token), "{header}: {}", answer.text());
            assert_eq!(seen.user.as_ref().unwrap().name, "robot");
            assert!(
                !seen
                    .headers
                    .keys()
                    .any(|name| name.as_str().starts_with("x-remote-"))
            );
        }
    }
    for (answer, seen) in scene
        .ask(&ClientAuth::None, &[("authorization", "Bearer wrong")])
        .await
    {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json()["reason"], "Unauthorized");
        assert!(seen.unwrap().user.is_none(), "the server said so");
    }
}

#[tokio::test]
async fn nobody_is_anonymous_at_the_server_as_well() {
    let scene = Scene::new().await;
    for headers in [
        &[][..],
        &[("authorization", "Basic eDp5")],
        &[("authorization", "Bearer ")],
    ] {
        for (answer, seen) in scene.ask(&ClientAuth::None, headers).await {
            let seen = seen.unwrap();
            assert_eq!(seen.how, Some(How::Anonymous));
            assert_eq!(seen.user.as_ref().unwrap().name, "system:anonymous");
            assert_eq!(answer.status, 403, "as the server grants it");
            assert_eq!(answer.json()["reason"], "Forbidden");
        }
    }
}

#[tokio::test]
async fn a_front_proxys_user_is_passed_on() {
    let scene = Scene::new().await;
    let proxy = certificate(&scene.plane.pki().front_proxy_client().unwrap());
    let headers = [
        ("x-remote-user", "erika"),
        ("x-remote-user", "not-this-one"),
        ("x-remote-uid", "e-1"),
        ("x-remote-group", "a"),
        ("x-remote-group", "b, c"),
        ("x-remote-group", ""),
        ("x-remote-extra-scopes", "one"),
        ("x-remote-extra-scopes", "two"),
        ("x-remote-extra-example.org%2fkey%20x", "v"),
        ("x-remote-extra-bad%2", "kept"),
        ("x-remote-extra-empty", ""),
        ("authorization", "Bearer sesame"),
    ];
    for seen in scene.seen(&proxy, &headers).await {
        let user = seen.user.as_ref().unwrap();
        assert_eq!(seen.how, Some(How::FrontProxy));
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("erika", "e-1"));
        assert_eq!(user.groups, ["a", "b, c", "system:authenticated"]);
        let extra: Vec<_> = user
            .extra
            .iter()
            .map(|(k, v)| (k.as_str(), v.join("|")))
            .collect();
        let expected = [
            ("bad%2", "kept"),
            ("empty", ""),
            ("example.org/key x", "v"),
            ("scopes", "one|two"),
        ];
        assert_eq!(extra, expected.map(|(key, value)| (key, value.to_owned())));
        assert!(!seen.headers.contains_key("authorization"));
        assert_eq!(seen.headers.get_all("x-remote-user").iter().count(), 1);
    }
    let metric = "mvp_headers_stripped_total{kind=\"username\"}";
    assert_eq!(
        scene.agent.metric(metric).await.unwrap(),
        0.0,
        "they are how it speaks"
    );
}

#[tokio::test]
async fn a_front_proxy_without_a_user_is_nobody() {
    // As recorded: a server answers 401, not anonymous, and a token decides.
    let scene = Scene::new().await;
    let proxy = certificate(&scene.plane.pki().front_proxy_client().unwrap());
    scene.is_refused(&proxy, &[]).await;
    scene
        .is_refused(
            &proxy,
            &[("x-remote-user", ""), ("x-remote-group", "system:masters")],
        )
        .await;
    let headers = [
        ("authorization", "Bearer sesame"),
        ("x-remote-group", "system:masters"),
    ];
    for seen in scene.seen(&proxy, &headers).await {
        assert_eq!(seen.how, Some(How::Token));
        assert_eq!(
            seen.user.as_ref().unwrap().groups,
            ["robots", "system:authenticated"]
        );
    }
}

#[tokio::test]
async fn a_front_proxy_of_another_name_speaks_for_nobody() {
    let scene = Scene::new().await;
    let request = Request {
        authority: Authority::FrontProxy,
        ..Request::new("another-client", &["system:masters"])
    };
    let other = certificate(&scene.plane.pki().issue(&request).unwrap());
    scene.is_refused(&other, &[("x-remote-user", "root")]).await;
    // A user of the cluster CA with the allowed name is a user of that name, and no front proxy.
    let request = Request::new("front-proxy-client", &["mallory"]);
    let namesake = certificate(&scene.plane.pki().issue(&request).unwrap());
    let headers = [
        ("x-remote-user", "root"),
        ("x-kubernetes-peer-proxied", "true"),
    ];
    for seen in scene.seen(&namesake, &headers).await {
        assert_eq!(seen.user.as_ref().unwrap().name, "front-proxy-client");
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_hold_is_refused_unless_a_token_decides() {
    let scene = Scene::new().await;
    let pki = scene.plane.pki();
    let now = OffsetDateTime::now_utc();
    let issue = |change: &dyn Fn(&mut Request)| {
        let mut request = Request::new("mallory", &["system:masters"]);
        change(&mut request);
        pki.issue(&request).unwrap()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let other = mvp_tests::sim::pki::Pki::generate(elsewhere.path()).unwrap();
    let stranger = other
        .issue(&Request::new("mallory", &["system:masters"]))
        .unwrap();
    for (what, identity) in [
        (
            "expired",
            issue(&|r| r.not_after = now - Duration::minutes(1)),
        ),
        (
            "not yet valid",
            issue(&|r| r.not_before = now + Duration::hours(1)),
        ),
        ("for servers", issue(&|r| r.usage = Usage::Server)),
        ("of another CA of the same name", stranger),
        ("self-signed", Identity::self_signed("mallory").unwrap()),
    ] {
        let auth = certificate(&identity);
        scene.is_refused(&auth, &[]).await;
        scene
            .is_refused(
                &auth,
                &[("authorization", "Basic eDp5"), ("x-remote-user", "root")],
            )
            .await;
        for seen in scene
            .seen(&auth, &[("authorization", "Bearer sesame")])
            .await
        {
            assert_eq!(seen.how, Some(How::Token), "{what}");
            assert_eq!(seen.user.as_ref().unwrap().name, "robot", "{what}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_expires_while_its_connection_is_open_is_refused_from_then_on() {
    let scene = Scene::new().await;
    let request = Request {
        not_after: OffsetDateTime::now_utc() + Duration::seconds(4),
        ..Request::new("briefly", &["system:masters"])
    };
    let brief = certificate(&scene.plane.pki().issue(&request).unwrap());
    let clients = scene.clients(&brief).await;
    for client in &clients {
        let status = client.get(LOCAL, &[]).await.unwrap().status;
        // A machine so busy that the certificate is over already proves nothing here.
        assert!(status == 200 || OffsetDateTime::now_utc() > request.not_after);
    }
    for client in clients {
        // A 401 ends the connection: only a new one can show another certificate.
        let client = client.returning();
        let limit = std::time::Duration::from_secs(30);
        eventually("the certificate expires", limit, || async {
            Ok(client.get(LOCAL, &[]).await?.status == 401)
        })
        .await
        .unwrap();
        assert!(OffsetDateTime::now_utc() > request.not_after);
        let token = [("authorization", "Bearer sesame")];
        let answer = client.get(LOCAL, &token).await.unwrap();
        assert_ne!(answer.status, 401, "a token still decides");
    }
}

/// No server's audit log has such a request, so that the agent's own line is all that there is to find the caller by.
#[tokio::test]
async fn who_is_refused_by_the_agent_can_be_found_in_its_log() {
    let plane = fixtures::plane(&[36]).await;
    let flags = ["--log-level", "info"];
    let agent = ChildAgent::start_with(
        env!("CARGO_BIN_EXE_mvp-agent"),
        &plane,
        "cp-a",
        &flags,
        |_| {},
    )
    .await
    .unwrap();
    let other = ControlPlane::builder()
        .server(ServerSpec::new("other", 36))
        .start()
        .await
        .unwrap();
    let stranger = other.pki().issue(&Request::new("jane", &[])).unwrap();
    let tls = plane
        .pki()
        .client_config(ClientAuth::Certificate(stranger), &[])
        .unwrap()
        .into();
    for (id, client) in [
        ("id-1", Client::http1(agent.address, &tls).await.unwrap()),
        ("id-2", Client::http2(agent.address, &tls).await.unwrap()),
    ] {
        let headers = [("audit-id", id), ("user-agent", "curious/1")];
        let answer = client.get("/api/v1/pods?limit=1", &headers).await.unwrap();
        assert_eq!(answer.status, 401, "{}", answer.text());
        eventually("it is in the log", fixtures::SOON, || async {
            Ok(agent.log().contains(id))
        })
        .await
        .unwrap();
        let log = agent.log();
        let line = log.lines().find(|line| line.contains(id)).unwrap();
        for part in [
            "answered with 401",
            "audit log",
            "127.0.0.1:",
            "GET",
            "/api/v1/pods",
            "curious/1",
            "unknown authority",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }
    assert!(
        plane
            .server(0)
            .requests()
            .iter()
            .all(|request| request.target != "/api/v1/pods?limit=1")
    );
}
