//! A request reaches the server that can serve it, with the right identity.

use mvp_tests::agent::TestAgent;
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, ServerSpec};

const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";

#[tokio::test]
async fn a_type_of_the_new_version_is_served_through_the_old_server() {
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let admin = ClientAuth::Certificate(plane.pki().admin().unwrap());
    let client = agent.http2(&plane, admin).await.unwrap();

    let answer = client.get(POLICIES, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["kind"], "MutatingAdmissionPolicyList");

    let seen = plane.named("cp-b").unwrap().requests();
    let forwarded = seen.iter().find(|r| r.target == POLICIES).unwrap();
    assert_eq!(forwarded.user.as_ref().unwrap().name, "kubernetes-admin");
    assert!(forwarded.headers.contains_key("x-kubernetes-peer-proxied"));
    assert!(
        plane
            .named("cp-a")
            .unwrap()
            .requests()
            .iter()
            .all(|r| r.target != POLICIES)
    );
}
