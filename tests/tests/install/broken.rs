//! A configuration that cannot work is refused before anything is opened: exit code 64, and one line that names the key in words of
//! people.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mvp_tests::sim::pki::Pki;

use super::broken_cases::{Case, FILES, FLAGS, MANIFESTS, TEXTS};

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
/// What only a programmer of the agent or of its libraries could read.
const INTERNAL: &[&str] = &[
    "Some(", "None", "Ok(", "Err(", "Other(", "Custom", "Os {", "{ ", " }", "::", "Policy",
    "Options", "serde", "visitor", "struct", "enum", "unwrap", "panicked", "\\n", "String(",
];

/// A folder with a configuration that works but for its port, which is taken: an agent that opened anything would end with 1.
struct Stage {
    dir: tempfile::TempDir,
    port: TcpListener,
    base: &'static str,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        Pki::generate(at).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = "apiVersion: mvp/v1
node: cp-a
listen: LISTEN
serving:
  certFile: apiserver.crt
  keyFile: apiserver.key
clientCAFile: ca.crt
requestHeader:
  clientCAFile: front-proxy-ca.crt
  allowedNames: [front-proxy-client]
upstream:
  caFile: ca.crt
  clientCertFile: front-proxy-client.crt
  clientKeyFile: front-proxy-client.key
local:
  url: https://127.0.0.1:6443
peers:
  static:
    - name: cp-b
      url: https://127.0.0.2:6443
admin:
  listen: 127.0.0.1:9440
  socket: admin.sock
kernel:
  steering: off
";
        std::fs::create_dir(at.join("folder")).unwrap();
        let cert = std::fs::read_to_string(at.join("apiserver.crt")).unwrap();
        for (name, content) in [
            ("empty.pem", String::new()),
            ("garbage.pem", "this is no certificate\n".into()),
            ("torn.pem", cert[..cert.len() / 2].to_owned()),
            (
                "nonsense.pem",
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
            ),
            ("garbage.kubeconfig", "} nothing {\n".into()),
            ("empty.kubeconfig", "apiVersion: v1\nkind: Config\n".into()),
            (
                "lost.kubeconfig",
                "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: []\n".into(),
            ),
            (
                "half.kubeconfig",
                "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
                 contexts: [{name: a, context: {cluster: c, user: u}}]\n"
                    .into(),
            ),
            (
                "list.kubeconfig",
                "apiVersion: v1\nkind: Config\ncurrent-context: [a]\n".into(),
            ),
        ] {
            std::fs::write(at.join(name), content).unwrap();
        }
        std::fs::write(at.join("binary"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
        Self { dir, port, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The base with a case's changes.
    fn text(&self, case: &Case) -> String {
        let mut text = self.base.to_owned();
        for (from, to) in case.changes {
            text = match *from {
                "" => text + to + "\n",
                "*" => (*to).to_owned(),
                from => {
                    assert!(text.contains(from), "{}: {from:?}", case.what);
                    text.replacen(from, to, 1)
                }
            };
        }
        self.here(&text)
    }

    fn here(&self, text: &str) -> String {
        text.replace("LISTEN", &self.port.local_addr().unwrap().to_string())
    }

    fn mvp(&self, args: &[&str]) -> Output {
        let mut command = Command::new(AGENT);
        command.args(args).current_dir(self.dir.path());
        command.env_remove("RUST_LOG").env_remove("MVP_ADMIN");
        command.output().unwrap()
    }

    fn agent(&self, source: &str, file: &Path) -> Output {
        self.mvp(&["agent", source, file.to_str().unwrap()])
    }
}

/// Why the refusal is not what it must be.
fn wrong(output: &Output, expected: &str, input: &str) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut wrong = Vec::new();
    if output.status.code() != Some(64) {
        wrong.push(format!("ends with {:?}", output.status.code()));
    }
    if said.lines().count() != 1 {
        wrong.push("not one line".to_owned());
    }
    if !said.starts_with("mvp: ") || !said.contains(expected) {
        wrong.push(format!("does not say {expected:?}"));
    }
    for word in INTERNAL {
        if said.contains(word) && !input.contains(word) {
            wrong.push(format!("says {word:?}"));
        }
    }
    (!wrong.is_empty()).then(|| format!("{}: {said}", wrong.join(", ")))
}

#[test]
fn the_configuration_that_the_cases_change_is_good() {
    let stage = Stage::new();
    let file = stage.path("good.yaml");
    std::fs::write(&file, stage.here(stage.base)).unwrap();
    let tested = stage.mvp(&["config", "test", "--config", file.to_str().unwrap()]);
    assert!(tested.status.success(), "{tested:?}");
    assert_eq!(
        String::from_utf8(tested.stdout).unwrap(),
        format!("{}: good\n", file.display())
    );
    // The port is taken, which is no fault of the configuration's.
    let started = stage.agent("--config", &file);
    assert_eq!(started.status.code(), Some(1), "{started:?}");
}

#[test]
fn every_broken_configuration_is_refused_in_one_line_that_names_the_key() {
    let stage = Stage::new();
    assert!(TEXTS.len() + FILES.len() + MANIFESTS.len() + FLAGS.len() >= 95);
    let mut failures = Vec::new();
    let mut check = |what: &str, output: &Output, expected: &str, input: &str| {
        if let Some(problem) = wrong(output, expected, input) {
            failures.push(format!("{what}: {problem}"));
        }
    };
    let file = stage.path("broken.yaml");
    for case in TEXTS {
        let text = stage.text(case);
        std::fs::write(&file, &text).unwrap();
        check(case.what, &stage.agent("--config", &file), case.says, &text);
        let tested = stage.mvp(&["config", "test", "--config", file.to_str().unwrap()]);
        check(case.what, &tested, case.says, &text);
    }
    for (what, name, says) in FILES {
        check(what, &stage.agent("--config", &stage.path(name)), says, "");
    }
    for case in MANIFESTS {
        let text = manifest(&stage, case);
        let path = stage.path("kube-apiserver.yaml");
        std::fs::write(&path, &text).unwrap();
        check(
            case.what,
            &stage.agent("--from-manifest", &path),
            case.says,
            &text,
        );
    }
    std::fs::write(&file, stage.here(stage.base)).unwrap();
    for (what, flags, says) in FLAGS {
        let args = [&["agent", "--config", file.to_str().unwrap()], *flags].concat();
        check(what, &stage.mvp(&args), says, &flags.join(" "));
    }
    assert!(
        failures.is_empty(),
        "{}\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(!stage.path("admin.sock").exists());
}

/// A static pod's manifest as kubeadm writes it, with a case's changes.
fn manifest(stage: &Stage, case: &Case) -> String {
    let mut text = "apiVersion: v1
kind: Pod
metadata: {name: kube-apiserver, namespace: kube-system}
spec:
  containers:
    - name: kube-apiserver
      command:
        - kube-apiserver
        - --advertise-address=127.0.0.1
        - --secure-port=6443
        - --client-ca-file=DIR/ca.crt
        - --tls-cert-file=DIR/apiserver.crt
        - --tls-private-key-file=DIR/apiserver.key
        - --requestheader-client-ca-file=DIR/front-proxy-ca.crt
        - --requestheader-allowed-names=front-proxy-client
        - --proxy-client-cert-file=DIR/front-proxy-client.crt
        - --proxy-client-key-file=DIR/front-proxy-client.key
"
    .to_owned();
    for (from, to) in case.changes {
        text = match *from {
            "*" => (*to).to_owned(),
            from => {
                assert!(text.contains(from), "{}: {from:?}", case.what);
                text.replacen(from, to, 1)
            }
        };
    }
    text.replace("DIR", &stage.dir.path().display().to_string())
}
