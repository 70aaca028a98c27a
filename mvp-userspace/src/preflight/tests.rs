//! Loading from real files: a kubeadm node's manifest, overrides, certificates and keys.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::{goaway_chance, parse_feature_gates};
use crate::tls::testing::{ca, client, self_signed, signed_by};

/// As small as one can be.
const KUBECONFIG: &str = "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}], \
    clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443'}}], users: [{name: u}]}";

/// Real files in a folder, as a control-plane node has them.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = Self { dir };
        std::fs::create_dir_all(node.path("pki")).unwrap();
        std::fs::create_dir_all(node.path("manifests")).unwrap();
        for name in ["ca", "apiserver", "extra"] {
            let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            node.write(&format!("pki/{name}.crt"), &made.cert.pem());
            node.write(
                &format!("pki/{name}.key"),
                &made.signing_key.serialize_pem(),
            );
        }
        // A start is refused with any other pair.
        let proxy_ca = self_signed(ca("front-proxy-ca"));
        let proxy = signed_by(client("front-proxy-client", &[]), &proxy_ca);
        for (name, made) in [
            ("front-proxy-ca", &proxy_ca),
            ("front-proxy-client", &proxy),
        ] {
            node.write(&format!("pki/{name}.crt"), &made.pem);
            node.write(&format!("pki/{name}.key"), &made.key_pem);
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn manifest(&self, more: &str) -> PathBuf {
        let pki = self.path("pki");
        let pki = pki.display();
        self.write(
            "manifests/kube-apiserver.yaml",
            &format!(
                "apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: 192.168.10.11:6443
  labels: {{component: kube-apiserver, tier: control-plane}}
  name: kube-apiserver
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-apiserver
    - --advertise-address=192.168.10.11
    - --allow-privileged=true
    - --authorization-mode=Node,RBAC
    - --client-ca-file={pki}/ca.crt
    - --enable-admission-plugins=NodeRestriction
    - --enable-bootstrap-token-auth
    - --etcd-cafile={pki}/etcd/ca.crt
    - --etcd-servers=https://127.0.0.1:2379
    - --proxy-client-cert-file={pki}/front-proxy-client.crt
    - --proxy-client-key-file={pki}/front-proxy-client.key
    - --requestheader-allowed-names=front-proxy-client
    - --requestheader-client-ca-file={pki}/front-proxy-ca.crt
    - --requestheader-extra-headers-prefix=X-Remote-Extra-
    - --requestheader-group-headers=X-Remote-Group
    - --requestheader-username-headers=X-Remote-User
    - --secure-port=6443
    - --service-account-issuer=https://kubernetes.default.svc.cluster.local
    - --tls-cert-file={pki}/apiserver.crt
    - --tls-private-key-file={pki}/apiserver.key
{more}
    image: registry.k8s.io/kube-apiserver:v1.35.6
    name: kube-apiserver
    volumeMounts:
    - {{mountPath: /etc/kubernetes/pki, name: k8s-certs, readOnly: true}}
  hostNetwork: true
  priorityClassName: system-node-critical
  volumes:
  - hostPath: {{path: /etc/kubernetes/pki, type: DirectoryOrCreate}}
    name: k8s-certs
status: {{}}
"
            ),
        );
        self.path("manifests/kube-apiserver.yaml")
    }
}

#[test]
fn a_kubeadm_node_needs_no_configuration() {
    let node = Node::new();
    node.write("admin.conf", KUBECONFIG);
    let config = from_manifest(&node.manifest(""), &Overrides::default()).unwrap();
    assert_eq!(config.serving.cert_file, node.path("pki/apiserver.crt"));
    assert_eq!(config.client_ca_file, Some(node.path("pki/ca.crt")));
    assert_eq!(config.upstream.ca_file, node.path("pki/ca.crt"));
    let client = config.upstream.client.unwrap();
    assert_eq!(client.key_file, node.path("pki/front-proxy-client.key"));
    let headers = config.request_header.unwrap();
    assert_eq!(headers.client_ca_file, node.path("pki/front-proxy-ca.crt"));
    assert_eq!(headers.allowed_names, ["front-proxy-client"]);
    assert_eq!(headers.uid_headers, ["X-Remote-Uid"]);
    assert_eq!(
        (config.local.host.as_str(), config.local.port),
        ("127.0.0.1", 6443)
    );
    assert_eq!(config.listen.to_string(), "0.0.0.0:16443");
    assert_eq!(config.advertise.unwrap().to_string(), "192.168.10.11:6443");
    assert!(config.peers.kubernetes.enabled);
    assert_eq!(
        config.peers.kubernetes.kubeconfig,
        Some(node.path("admin.conf"))
    );
    assert!(!config.node.is_empty());
}

/// It is a fallback for finding peers, and no reason not to start.
#[test]
fn a_kubeconfig_that_is_none_is_left_out() {
    let node = Node::new();
    node.write("admin.conf", "} nothing {");
    let config = from_manifest(&node.manifest(""), &Overrides::default()).unwrap();
    assert_eq!(config.peers.kubernetes.kubeconfig, None);
    node.write("super-admin.conf", KUBECONFIG);
    let config = from_manifest(&node.manifest(""), &Overrides::default()).unwrap();
    let found = config.peers.kubernetes.kubeconfig;
    assert_eq!(found, Some(node.path("super-admin.conf")));
}

#[test]
fn manifest_flags_in_their_other_forms() {
    let node = Node::new();
    node.write("super-admin.conf", KUBECONFIG);
    let pki = node.path("pki");
    let pki = pki.display();
    let more = format!(
        "    - --secure-port\n    - \"7443\"\n    - --bind-address=10.0.0.5\n    - --peer-advertise-ip=10.9.9.9\n    - --peer-advertise-port=8443\n    - --peer-ca-file={pki}/front-proxy-ca.crt\n    - --requestheader-allowed-names=a,b\n    - --feature-gates=UnknownVersionInteroperabilityProxy=false\n    args:\n    - --tls-sni-cert-key\n    - {pki}/extra.crt,{pki}/extra.key:*.example.com,api.example.com"
    );
    let config = from_manifest(&node.manifest(&more), &Overrides::default()).unwrap();
    assert_eq!(
        (config.local.host.as_str(), config.local.port),
        ("10.0.0.5", 7443)
    );
    assert_eq!(config.listen.to_string(), "10.0.0.5:17443");
    assert_eq!(config.advertise.unwrap().to_string(), "10.9.9.9:8443");
    assert_eq!(config.upstream.ca_file, node.path("pki/front-proxy-ca.crt"));
    assert_eq!(
        config.request_header.unwrap().allowed_names,
        ["front-proxy-client", "a", "b"]
    );
    assert_eq!(config.sni[0].names, ["*.example.com", "api.example.com"]);
    assert_eq!(config.sni[0].pair.key_file, node.path("pki/extra.key"));
    assert_eq!(
        config.peers.kubernetes.kubeconfig,
        Some(node.path("super-admin.conf"))
    );
    assert!(
        config.interoperability_proxy,
        "kube-apiserver's gate is its own"
    );
}

#[test]
fn references_in_a_manifest_are_resolved_or_do_no_harm() {
    let node = Node::new();
    let outward = crate::net::outward_address();
    // A value, the host's address, and one that nobody knows.
    for (env, flag, expected) in [
        (
            "{name: IP, value: 10.1.2.3}",
            "IP",
            Some("10.1.2.3".parse().unwrap()),
        ),
        (
            "{name: IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}",
            "IP",
            outward,
        ),
        (
            "{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}",
            "IP",
            outward,
        ),
        ("{name: OTHER, value: x}", "IP", outward),
        (
            "{name: IP, valueFrom: {secretKeyRef: {name: s, key: k}}}",
            "IP",
            outward,
        ),
    ] {
        let more = format!("    - --advertise-address=$({flag})\n    env: [{env}]");
        let config = from_manifest(&node.manifest(&more), &Overrides::default()).unwrap();
        let found = config.advertise.map(|address| address.ip());
        assert_eq!(found, expected, "{env}");
        assert_eq!(config.local.host, "127.0.0.1");
    }
    let more = "    - --bind-address=$(IP)\n    env: [{name: IP, value: 10.1.2.3}]";
    let config = from_manifest(&node.manifest(more), &Overrides::default()).unwrap();
    assert_eq!(config.local.host, "10.1.2.3");
    assert_eq!(config.listen.to_string(), "10.1.2.3:16443");
}

#[test]
fn the_chance_of_goaway_is_kube_apiservers_flag() {
    let node = Node::new();
    let chance = |more: &str| goaway_chance(&node.manifest(more)).map_err(|e| e.to_string());
    assert_eq!(chance(""), Ok(0.0));
    assert_eq!(chance("    - --goaway-chance=0.001"), Ok(0.001));
    let refused = "--goaway-chance: \"often\" is no number".to_owned();
    assert_eq!(chance("    - --goaway-chance=often"), Err(refused));
    assert!(goaway_chance(&node.path("none.yaml")).is_err());
}

#[test]
fn the_agent_waits_a_little_longer_than_the_server() {
    let node = Node::new();
    let waits = |more: &str| {
        let config = from_manifest(&node.manifest(more), &Overrides::default()).unwrap();
        config.limits.response_timeout.as_secs()
    };
    assert_eq!(waits(""), 65);
    assert_eq!(waits("    - --request-timeout=3m"), 185);
    assert_eq!(waits("    - --request-timeout=1h0m0s"), 3605);
    assert_eq!(waits("    - --request-timeout=0"), 65);
    assert_eq!(waits("    - --request-timeout=48h"), 24 * 3600);
    let refused = from_manifest(
        &node.manifest("    - --request-timeout=soon"),
        &Overrides::default(),
    );
    assert_eq!(
        refused.unwrap_err().to_string(),
        "--request-timeout: \"soon\" is no duration"
    );
}

#[test]
fn a_static_peer_that_is_this_node_is_refused() {
    let node = Node::new();
    for peer in ["cp-b=https://localhost:6443", "cp-b=https://[::]:6443"] {
        let mut overrides = Overrides::default();
        overrides.peer(peer);
        let refused = from_manifest(&node.manifest(""), &overrides).unwrap_err();
        assert_eq!(refused.key, "peers.static[0].url (--peer)", "{refused}");
    }
    if let Some(outward) = crate::net::outward_address() {
        let mut overrides = Overrides::default();
        overrides.peer(&format!(
            "cp-b=https://{}",
            std::net::SocketAddr::new(outward, 6443)
        ));
        let refused = from_manifest(&node.manifest(""), &overrides).unwrap_err();
        assert!(
            refused.to_string().contains("is an address of this node"),
            "{refused}"
        );
    }
}

#[test]
fn manifest_refusals_name_the_flag() {
    let node = Node::new();
    let refusal = |path: &Path| {
        from_manifest(path, &Overrides::default())
            .unwrap_err()
            .to_string()
    };
    let path = node.manifest("    - --secure-port=x");
    assert_eq!(refusal(&path), "--secure-port: \"x\" is no port");
    let path = node.manifest("    - --advertise-address=localhost");
    assert_eq!(
        refusal(&path),
        "--advertise-address: \"localhost\" is no IP address"
    );
    let path = node.manifest("    - --tls-sni-cert-key=x.crt");
    assert_eq!(
        refusal(&path),
        "--tls-sni-cert-key: \"x.crt\" is not CERT,KEY[:NAMES]"
    );
    let path = node.manifest("    - --tls-cert-file=/none.crt");
    assert_eq!(
        refusal(&path),
        "serving.certFile (--tls-cert-file): /none.crt: No such file or directory (os error 2)"
    );
    let path = node.manifest("    - --tls-private-key-file=");
    assert_eq!(
        refusal(&path),
        format!(
            "--tls-private-key-file: not set in {}, and the agent needs it",
            path.display()
        )
    );
    node.write(
        "manifests/other.yaml",
        "kind: Pod\nspec: {containers: [{name: etcd, command: [etcd]}]}\n",
    );
    let path = node.path("manifests/other.yaml");
    assert_eq!(
        refusal(&path),
        format!(
            "{}: is no pod with a container that runs kube-apiserver",
            path.display()
        )
    );
}

#[test]
fn flags_override_the_file() {
    let node = Node::new();
    node.write(
        "mvp.yaml",
        "
apiVersion: mvp/v1
node: cp-a
listen: 127.0.0.12:6443
serving: {certFile: pki/apiserver.crt, keyFile: pki/apiserver.key}
upstream: {caFile: pki/ca.crt}
local: {url: 'https://127.0.0.2:6443'}
peers: {static: [{name: b, url: 'https://127.0.0.3:1'}, {name: c, url: 'https://127.0.0.4:1'}]}
",
    );
    let mut overrides = Overrides::default();
    overrides.set("node", "cp-z", "--node");
    overrides.set_pair("limits.connections=4321").unwrap();
    overrides.peer("cp-d=https://10.0.0.4:6443");
    overrides.interoperability_proxy =
        parse_feature_gates("UnknownVersionInteroperabilityProxy=false").unwrap();
    let config = from_file(&node.path("mvp.yaml"), &overrides).unwrap();
    assert_eq!(config.node, "cp-z");
    assert_eq!(config.limits.connections, 4321);
    assert_eq!(config.peers.fixed.len(), 1);
    assert_eq!(config.peers.fixed[0].name, "cp-d");
    assert!(!config.interoperability_proxy);

    let line = |pair: &str| {
        let mut overrides = Overrides::default();
        overrides.set_pair(pair)?;
        from_file(&node.path("mvp.yaml"), &overrides).map(drop)
    };
    for (pair, expected) in [
        ("x", "--set: \"x\" is not KEY=VALUE"),
        (
            "peers.static[1].name=x",
            "--set: peers.static[1].name: lists of mappings are set in the file, or by --peer",
        ),
        (
            "limit.connections=1",
            "--set: limit.connections: unknown key (is limits.connections meant?)",
        ),
        (
            "limits.connections=0",
            "limits.connections (--set): 0 is no number within 1 to 10000000",
        ),
    ] {
        assert_eq!(line(pair).unwrap_err().to_string(), expected);
    }
}

#[test]
fn files_are_checked() {
    let node = Node::new();
    let load = |parts: [&str; 3]| {
        let [cert, key, ca] = parts;
        node.write(
            "mvp.yaml",
            &format!(
                "{{apiVersion: mvp/v1, node: a, listen: '127.0.0.1:1', serving: {{certFile: pki/{cert}, keyFile: pki/{key}}}, upstream: {{caFile: pki/{ca}}}, local: {{url: 'https://x'}}}}"
            ),
        );
        from_file(&node.path("mvp.yaml"), &Overrides::default()).map_err(|error| error.to_string())
    };
    node.write("pki/text.crt", "hello\n");
    node.write(
        "pki/broken.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    let pki = node.path("pki");
    let pki = pki.display();
    assert!(load(["apiserver.crt", "apiserver.key", "ca.crt"]).is_ok());
    for (parts, line) in [
        (
            ["none.crt", "apiserver.key", "ca.crt"],
            format!("serving.certFile: {pki}/none.crt: No such file or directory (os error 2)"),
        ),
        (
            ["apiserver.crt", "none.key", "ca.crt"],
            format!("serving.keyFile: {pki}/none.key: No such file or directory (os error 2)"),
        ),
        (
            ["apiserver.crt", "extra.key", "ca.crt"],
            format!(
                "serving.keyFile: {pki}/extra.key: does not match the certificate in {pki}/apiserver.crt"
            ),
        ),
        (
            ["apiserver.crt", "apiserver.crt", "ca.crt"],
            format!("serving.keyFile: {pki}/apiserver.crt: holds no private key"),
        ),
        (
            ["apiserver.crt", "apiserver.key", "text.crt"],
            format!("upstream.caFile: {pki}/text.crt: holds no certificate"),
        ),
    ] {
        assert_eq!(load(parts).unwrap_err(), line);
    }
    let line = load(["apiserver.crt", "apiserver.key", "broken.crt"]).unwrap_err();
    assert!(
        line.starts_with(&format!(
            "upstream.caFile: {pki}/broken.crt: holds a broken certificate"
        )),
        "{line}"
    );
    assert!(!line.contains('\n'));
    let missing = from_file(&node.path("none.yaml"), &Overrides::default()).unwrap_err();
    assert!(
        missing
            .to_string()
            .ends_with("none.yaml: No such file or directory (os error 2)")
    );
}
