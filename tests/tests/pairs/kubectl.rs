//! A day of kubectl at the newest server itself, and the same day through the agent of a server one version behind.

use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{patient, plane};
use mvp_tests::kubectl::Kubectl;
use mvp_tests::sim::pki::KubeconfigUser;

const MAP: &str =
    "{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: default}, data: {k: one}}";
const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: default}, spec: {containers: [{name: c, image: i}]}}";
const POLICY: &str = "{apiVersion: admissionregistration.k8s.io/v1, kind: MutatingAdmissionPolicy, metadata: {name: o}, \
                      spec: {reinvocationPolicy: Never, failurePolicy: Fail, mutations: []}}";

/// Arguments and standard input. What differs from one run to the next (ages, uids, revisions) is not printed.
const DAY: [(&[&str], &str); 26] = [
    (&["api-versions"], ""),
    (&["api-resources", "-o", "name"], ""),
    (&["api-resources", "--no-headers", "-o", "wide"], ""),
    (&["create", "-f", "-"], MAP),
    (&["create", "-f", "-"], MAP),
    (&["create", "-f", "-"], POD),
    (&["create", "-f", "-"], POLICY),
    (&["get", "configmap", "m", "-o", "jsonpath={.data}"], ""),
    (&["get", "configmaps,pods", "-o", "name"], ""),
    (&["get", "mutatingadmissionpolicies", "-o", "name"], ""),
    (
        &[
            "get",
            "mutatingadmissionpolicy",
            "o",
            "-o",
            "jsonpath={.spec}",
        ],
        "",
    ),
    (
        &["apply", "--server-side", "--force-conflicts", "-f", "-"],
        MAP,
    ),
    (
        &["patch", "configmap", "m", "-p", r#"{"data":{"k":"two"}}"#],
        "",
    ),
    (
        &[
            "patch",
            "mutatingadmissionpolicy",
            "o",
            "--type=merge",
            "-p",
            r#"{"metadata":{"labels":{"a":"b"}}}"#,
        ],
        "",
    ),
    (
        &[
            "get",
            "mutatingadmissionpolicies",
            "-l",
            "a=b",
            "-o",
            "name",
        ],
        "",
    ),
    (&["label", "configmap", "m", "x=y"], ""),
    (&["explain", "mutatingadmissionpolicies"], ""),
    (&["explain", "configmap.data"], ""),
    (&["logs", "p"], ""),
    (
        &[
            "get",
            "--raw",
            "/api/v1/namespaces/default/pods/p/proxy/missing/page",
        ],
        "",
    ),
    (&["auth", "can-i", "create", "pods"], ""),
    (&["get", "nosuchthings"], ""),
    (&["delete", "mutatingadmissionpolicy", "o"], ""),
    (&["delete", "pod", "p", "--force", "--grace-period=0"], ""),
    (&["delete", "configmap", "m"], ""),
    (&["get", "configmap", "m"], ""),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_kubectl_is_the_same() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let at = |file: &str, url: &str| Kubectl::find(&plane.kubeconfig(file, url, &user).unwrap());
    let (Some(straight), Some(through)) = (
        at("straight.kubeconfig", &plane.server(1).url()),
        at("through.kubeconfig", &format!("https://{}", agent.address)),
    ) else {
        return;
    };
    let day = |kubectl: Kubectl| {
        DAY.map(|(args, input)| {
            let output = kubectl.output(args, input);
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (
                output.status.code(),
                text(&output.stdout),
                text(&output.stderr),
            )
        })
    };
    let both = tokio::task::spawn_blocking(move || (day(straight), day(through)));
    let (straight, through) = both.await.unwrap();
    for (((args, _), straight), through) in DAY.iter().zip(straight).zip(through) {
        assert_eq!(through, straight, "kubectl {args:?}");
    }
}
