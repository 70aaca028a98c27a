//! Authentication in kube-apiserver's order, over real TLS.
#![allow(clippy::unwrap_used)]

use crate::common::{Answer, Client, plane};
use mvp_tests::sim::{
    ControlPlane, ServerSpec,
    api::{
        authn::{Method, User},
        authz::Rule,
    },
    pki::{Authority, ClientAuth, Identity, Request, Usage},
};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

async fn review(plane: &ControlPlane, auth: ClientAuth, headers: &[(&str, &str)]) -> Answer {
    let client = Client::new(plane, 0, auth).await;
    client
        .send(
            "POST",
            REVIEW,
            headers,
            r#"{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}"#,
        )
        .await
}

async fn user(plane: &ControlPlane, auth: ClientAuth, headers: &[(&str, &str)]) -> Value {
    let answer = review(plane, auth, headers).await;
    assert_eq!(answer.status.as_u16(), 201, "{}", answer.text());
    answer.json()["status"]["userInfo"].clone()
}

fn certificate(identity: Identity) -> ClientAuth {
    ClientAuth::Certificate(identity)
}

#[tokio::test]
async fn certificates() {
    let plane = plane(&[36]).await;
    let pki = plane.pki();
    let admin = user(&plane, certificate(pki.admin().unwrap()), &[]).await;
    assert_eq!(admin["username"], "kubernetes-admin");
    assert_eq!(
        admin["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    let id = admin["extra"]["authentication.kubernetes.io/credential-id"][0]
        .as_str()
        .unwrap();
    assert!(id.starts_with("X509SHA256=") && id.len() == 11 + 64, "{id}");

    let many = Request {
        uid: Some("u-1".into()),
        ..Request::new("bob", &["a", "b", "c", "d"])
    };
    let bob = user(&plane, certificate(pki.issue(&many).unwrap()), &[]).await;
    assert_eq!(
        bob["groups"],
        json!(["a", "b", "c", "d", "system:authenticated"])
    );
    assert_eq!(bob["uid"], "u-1");
    let behind = Request {
        intermediate: true,
        ..Request::new("carol", &["x", "y", "z"])
    };
    assert_eq!(
        user(&plane, certificate(pki.issue(&behind).unwrap()), &[]).await["username"],
        "carol"
    );
    let absent = Request {
        usage: Usage::Absent,
        ..Request::new("dave", &[])
    };
    assert_eq!(
        user(&plane, certificate(pki.issue(&absent).unwrap()), &[]).await["username"],
        "dave"
    );

    let now = OffsetDateTime::now_utc();
    let past = now - Duration::minutes(1);
    for bad in [
        pki.issue(&Request {
            not_after: past,
            ..Request::new("late", &[])
        })
        .unwrap(),
        pki.issue(&Request {
            not_before: now + Duration::hours(1),
            ..Request::new("early", &[])
        })
        .unwrap(),
        pki.issue(&Request {
            usage: Usage::Server,
            ..Request::new("server", &[])
        })
        .unwrap(),
        Identity::self_signed("nobody").unwrap(),
    ] {
        let refused = review(&plane, certificate(bad), &[]).await;
        assert_eq!(refused.status.as_u16(), 401);
        assert_eq!(refused.header("content-length"), "157");
        assert_eq!(refused.header("x-kubernetes-pf-flowschema-uid"), "");
        assert_eq!(refused.json()["message"], "Unauthorized");
    }
}

#[tokio::test]
async fn uid_in_a_certificate_is_read_since_1_34() {
    let plane = plane(&[33]).await;
    let request = Request {
        uid: Some("u-1".into()),
        ..Request::new("bob", &[])
    };
    let bob = user(
        &plane,
        certificate(plane.pki().issue(&request).unwrap()),
        &[],
    )
    .await;
    assert_eq!(
        (&bob["username"], &bob["uid"]),
        (&json!("bob"), &Value::Null)
    );
}

#[tokio::test]
async fn front_proxy() {
    let plane = plane(&[36]).await;
    let proxy = || certificate(plane.pki().front_proxy_client().unwrap());
    let headers = [
        ("x-remote-user", "alice"),
        ("x-remote-uid", "a-1"),
        ("x-remote-group", "devs"),
        ("x-remote-group", "ops"),
        ("x-remote-extra-scopes", "a"),
        ("x-remote-extra-example.org%2fkey", "b"),
    ];
    let alice = user(&plane, proxy(), &headers).await;
    let expected = json!({
        "username": "alice", "uid": "a-1", "groups": ["devs", "ops", "system:authenticated"],
        "extra": {"scopes": ["a"], "example.org/key": ["b"]},
    });
    assert_eq!(alice, expected);
    let last = plane.server(0).requests().pop().unwrap();
    assert_eq!(last.how, Some(Method::FrontProxy));

    // Without a user the certificate itself is judged, and the cluster CA did not sign it.
    assert_eq!(review(&plane, proxy(), &[]).await.status.as_u16(), 401);
    plane.add_token(
        "bench",
        User {
            name: "bench".into(),
            uid: "u1".into(),
            ..User::default()
        },
    );
    assert_eq!(
        user(&plane, proxy(), &[("authorization", "Bearer bench")]).await["username"],
        "bench"
    );
    // A client certificate does not make the headers count; neither does another name by the same authority.
    let forged = user(
        &plane,
        certificate(plane.pki().alice().unwrap()),
        &[("x-remote-user", "root")],
    )
    .await;
    assert_eq!(forged["username"], "alice");
    let other = Request {
        authority: Authority::FrontProxy,
        ..Request::new("someone-else", &[])
    };
    let other = certificate(plane.pki().issue(&other).unwrap());
    assert_eq!(
        review(&plane, other, &[("x-remote-user", "alice")])
            .await
            .status
            .as_u16(),
        401
    );
}

#[tokio::test]
async fn tokens_anonymous_and_impersonation() {
    let plane = plane(&[36]).await;
    let token = |token| [("authorization", token)];
    let admin = user(&plane, ClientAuth::None, &token("Bearer admin-token")).await;
    assert_eq!(
        admin["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert_eq!(
        review(&plane, ClientAuth::None, &token("Bearer nope"))
            .await
            .status
            .as_u16(),
        401
    );
    // Anonymous may not even ask who it is.
    let anonymous = review(&plane, ClientAuth::None, &[]).await;
    assert_eq!(anonymous.status.as_u16(), 403);
    assert_eq!(
        plane.server(0).requests().pop().unwrap().how,
        Some(Method::Anonymous)
    );

    let as_eve = [
        ("authorization", "Bearer admin-token"),
        ("impersonate-user", "eve"),
        ("impersonate-group", "g"),
    ];
    let eve = user(&plane, ClientAuth::None, &as_eve).await;
    assert_eq!(
        (&eve["username"], &eve["groups"]),
        (&json!("eve"), &json!(["g", "system:authenticated"]))
    );
    let as_root = [
        ("authorization", "Bearer alice-token"),
        ("impersonate-user", "root"),
    ];
    assert_eq!(
        review(&plane, ClientAuth::None, &as_root)
            .await
            .status
            .as_u16(),
        403
    );
}

#[tokio::test]
async fn rules_and_their_questions() {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("a", 36))
        .start()
        .await
        .unwrap();
    let alice = Client::new(&plane, 0, certificate(plane.pki().alice().unwrap())).await;
    let path = "/api/v1/namespaces/default/configmaps";
    assert_eq!(alice.get(path).await.status.as_u16(), 403);
    plane.add_rule(Rule::resources(
        "devs",
        &["get", "list"],
        &[""],
        &["configmaps"],
    ));
    assert_eq!(alice.get(path).await.status.as_u16(), 200);
    let ask = |verb: &str| {
        json!({
            "kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
            "spec": {"resourceAttributes": {"verb": verb, "resource": "configmaps", "namespace": "default"}},
        })
        .to_string()
    };
    let question = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(
        alice.post(question, &ask("list")).await.json()["status"]["allowed"],
        true
    );
    assert_eq!(
        alice.post(question, &ask("delete")).await.json()["status"]["allowed"],
        false
    );
}
