//! The simulated servers answer as recorded kube-apiservers do. The expected texts are retyped from recordings of
//! v1.33.13.
#![allow(clippy::unwrap_used)]

use crate::common::{Client, plane};
use http::StatusCode;
use mvp_tests::sim::pki::ClientAuth;
use serde_json::json;

const EXEMPT: &str = "241feb16-ebb3-4eff-9111-57b7a09b3305";
const GLOBAL_DEFAULT: &str = "35169251-2dfa-41cd-a533-7c0143251a9d";

/// As curl gets it: indented.
fn status(message: &str, reason: &str, details: Option<&str>, code: u16) -> String {
    let details = details
        .map(|details| format!("  \"details\": {details},\n"))
        .unwrap_or_default();
    let message = serde_json::to_string(message).unwrap();
    format!(
        "{{\n  \"kind\": \"Status\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {{}},\n  \"status\": \"Failure\",\n  \
         \"message\": {message},\n  \"reason\": \"{reason}\",\n{details}  \"code\": {code}\n}}"
    )
}

#[tokio::test]
async fn not_found_has_three_shapes() {
    let plane = plane(&[33]).await;
    let admin = Client::admin(&plane, 0).await;

    let object = admin
        .get("/api/v1/namespaces/default/configmaps/nope")
        .await;
    let details = "{\n    \"name\": \"nope\",\n    \"kind\": \"configmaps\"\n  }";
    assert_eq!(
        object.text(),
        status(
            "configmaps \"nope\" not found",
            "NotFound",
            Some(details),
            404
        )
    );
    assert_eq!(object.header("content-length"), "235");
    assert_eq!(object.header("cache-control"), "no-cache, private");
    assert_eq!(object.header("x-kubernetes-pf-flowschema-uid"), EXEMPT);
    assert_eq!(object.header("x-content-type-options"), "");
    assert_eq!(object.header("audit-id").len(), 36);

    let missing = status(
        "the server could not find the requested resource",
        "NotFound",
        Some("{}"),
        404,
    );
    for path in [
        "/api/v1/nosuchthings",
        "/apis/apps/v1/nope",
        "/api/v1/namespaces/default/configmaps/x/nope",
    ] {
        let resource = admin.get(path).await;
        assert_eq!(
            (resource.status, resource.text()),
            (StatusCode::NOT_FOUND, missing.clone()),
            "{path}"
        );
        assert_eq!(resource.header("content-type"), "application/json");
    }

    for path in [
        "/apis/nope.k8s.io/v1/things",
        "/apis/apps/v9/deployments",
        "/apis/nope.k8s.io",
        "/apis/apps/v9",
        "/nope",
    ] {
        let page = admin.get(path).await;
        assert_eq!(
            (page.status, page.text()),
            (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
            "{path}"
        );
        assert_eq!(page.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
    }
}

#[tokio::test]
async fn refusals() {
    let plane = plane(&[33]).await;
    let admin = Client::admin(&plane, 0).await;

    let method = admin
        .send("POST", "/api/v1/namespaces/default/configmaps/x", &[], "{}")
        .await;
    let message = "the server does not allow this method on the requested resource";
    assert_eq!(
        (method.status.as_u16(), method.text()),
        (405, status(message, "MethodNotAllowed", Some("{}"), 405))
    );

    let accept = admin
        .send(
            "GET",
            "/api/v1/namespaces/default/configmaps",
            &[("accept", "text/html")],
            "",
        )
        .await;
    assert_eq!(accept.status.as_u16(), 406);
    assert_eq!(accept.header("content-length"), "365");
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(
        admin
            .send("GET", "/api/v1/namespaces", &protobuf, "")
            .await
            .status
            .as_u16(),
        406
    );
    let fallback = [(
        "accept",
        "application/vnd.kubernetes.protobuf,application/json",
    )];
    assert_eq!(
        admin
            .send("GET", "/api/v1/namespaces", &fallback, "")
            .await
            .status
            .as_u16(),
        200
    );
    // An error is no 406 to a client that accepts only protobuf.
    let missing = admin.send("GET", "/apis/nope/v1/x", &protobuf, "").await;
    assert_eq!(
        (missing.status.as_u16(), missing.text().as_str()),
        (404, "404 page not found\n")
    );

    let kind = [("content-type", "text/plain")];
    let media = admin
        .send("POST", "/api/v1/namespaces/default/configmaps", &kind, "x")
        .await;
    let message = "the body of the request was in an unknown format - accepted media types include: application/json, \
                   application/yaml, application/vnd.kubernetes.protobuf";
    assert_eq!(
        (media.status.as_u16(), media.text()),
        (415, status(message, "UnsupportedMediaType", None, 415))
    );
    assert_eq!(media.header("content-length"), "305");
}

#[tokio::test]
async fn forbidden_has_three_shapes() {
    let plane = plane(&[33]).await;
    let alice = Client::new(
        &plane,
        0,
        ClientAuth::Certificate(plane.pki().alice().unwrap()),
    )
    .await;

    let cluster = alice.get("/api/v1/namespaces").await;
    let message = "namespaces is forbidden: User \"alice\" cannot list resource \"namespaces\" in API group \"\" at the cluster scope";
    let details = "{\n    \"kind\": \"namespaces\"\n  }";
    assert_eq!(
        (cluster.status.as_u16(), cluster.text()),
        (403, status(message, "Forbidden", Some(details), 403))
    );
    assert_eq!(cluster.header("content-length"), "301");
    assert_eq!(cluster.header("x-content-type-options"), "nosniff");
    assert_eq!(
        cluster.header("x-kubernetes-pf-flowschema-uid"),
        GLOBAL_DEFAULT
    );

    let namespaced = alice
        .get("/apis/apps/v1/namespaces/x/deployments/d")
        .await
        .json();
    let message = "deployments.apps \"d\" is forbidden: User \"alice\" cannot get resource \"deployments\" in API group \
                   \"apps\" in the namespace \"x\"";
    assert_eq!(namespaced["message"], message);
    assert_eq!(
        namespaced["details"],
        json!({"name": "d", "group": "apps", "kind": "deployments"})
    );

    let nobody = Client::new(&plane, 0, ClientAuth::None).await;
    let path = nobody.get("/apis").await;
    let message = "forbidden: User \"system:anonymous\" cannot get path \"/apis\"";
    assert_eq!(
        (path.status.as_u16(), path.text()),
        (403, status(message, "Forbidden", Some("{}"), 403))
    );
    assert_eq!(path.header("content-length"), "221");
}

#[tokio::test]
async fn create_and_its_repetition() {
    let plane = plane(&[33]).await;
    let admin = Client::admin(&plane, 0).await;
    let body = r#"{"metadata":{"name":"c1"},"data":{"k":"v"}}"#;
    let created = admin
        .post("/api/v1/namespaces/default/configmaps", body)
        .await;
    assert_eq!(created.status, StatusCode::CREATED);
    let object = created.json();
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap().to_owned();
    let (uid, version, time) = (
        text("uid"),
        text("resourceVersion"),
        text("creationTimestamp"),
    );
    // Field by field in Go's order.
    let expected = format!(
        r#"{{
  "kind": "ConfigMap",
  "apiVersion": "v1",
  "metadata": {{
    "name": "c1",
    "namespace": "default",
    "uid": "{uid}",
    "resourceVersion": "{version}",
    "creationTimestamp": "{time}",
    "managedFields": [
      {{
        "manager": "curl",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "{time}",
        "fieldsType": "FieldsV1",
        "fieldsV1": {{
          "f:data": {{
            ".": {{}},
            "f:k": {{}}
          }}
        }}
      }}
    ]
  }},
  "data": {{
    "k": "v"
  }}
}}"#
    );
    assert_eq!(created.text(), expected);

    let again = admin
        .post("/api/v1/namespaces/default/configmaps", body)
        .await;
    let details = "{\n    \"name\": \"c1\",\n    \"kind\": \"configmaps\"\n  }";
    assert_eq!(
        again.text(),
        status(
            "configmaps \"c1\" already exists",
            "AlreadyExists",
            Some(details),
            409
        )
    );
}

#[tokio::test]
async fn version_probes_and_compact_json() {
    let plane = plane(&[33, 31]).await;
    let nobody = Client::new(&plane, 0, ClientAuth::None).await;
    let version = nobody.get("/version").await;
    assert_eq!(version.header("content-length"), "380");
    assert_eq!(version.json()["gitVersion"], "v1.33.13");
    assert_eq!(version.json()["minCompatibilityMinor"], "32");
    let old = Client::new(&plane, 1, ClientAuth::None)
        .await
        .get("/version")
        .await
        .json();
    assert_eq!(
        (&old["minor"], &old["emulationMinor"]),
        (&json!("31"), &json!(null))
    );

    let ready = nobody.get("/readyz").await;
    assert_eq!(
        (
            ready.text().as_str(),
            ready.header("x-content-type-options")
        ),
        ("ok", "nosniff")
    );
    assert_eq!(ready.header("content-type"), "text/plain; charset=utf-8");
    plane.server(0).not_ready(true);
    let unready = nobody.get("/readyz").await;
    assert_eq!(unready.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        unready.text().ends_with("readyz check failed\n"),
        "{}",
        unready.text()
    );
    assert_eq!(
        nobody.get("/livez?verbose").await.text().lines().last(),
        Some("livez check passed")
    );

    let admin = Client::admin(&plane, 0).await;
    let compact = admin
        .send(
            "GET",
            "/api/v1/nope",
            &[("user-agent", "kubectl/v1.33")],
            "",
        )
        .await;
    assert_eq!(
        compact.text(),
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"the server could not \
         find the requested resource\",\"reason\":\"NotFound\",\"details\":{},\"code\":404}\n"
    );
    let audit = admin
        .send("GET", "/version", &[("audit-id", "mine")], "")
        .await;
    assert_eq!(audit.header("audit-id"), "mine");
}

#[tokio::test]
async fn a_starting_server_hides_what_it_does_not_know() {
    let plane = plane(&[33]).await;
    let admin = Client::admin(&plane, 0).await;
    plane.server(0).starting(true);
    let answer = admin.get("/apis/nope.k8s.io/v1/things").await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("retry-after")),
        (503, "5")
    );
    assert_eq!(
        admin.get("/api/v1/namespaces/default").await.status,
        StatusCode::OK
    );
}
