//! Certificates and CAs replaced on disk while connections are open, in the ways that tools replace files.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mvp::config::{Config, KeyPair};
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Client, connect_tls};
use mvp_tests::sim::api::authn::Method as How;
use mvp_tests::sim::pki::{Authority, ClientAuth, Identity, Pki, Request};
use mvp_tests::sim::{ControlPlane, ServerSpec};
use tempfile::TempDir;

const NAMESPACES: &str = "/api/v1/namespaces";
const POLICIES: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
/// Watching notices at once; comparing contents, in case the kernel gave no watch, within ten seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// A folder as kubelet projects a Secret: the names are links into `..data`, which is itself a link that is replaced whole.
struct Projected {
    dir: TempDir,
    generation: usize,
}

impl Projected {
    fn new(files: &[(&str, &str)]) -> Self {
        let mut projected = Self {
            dir: TempDir::new().unwrap(),
            generation: 0,
        };
        projected.swap(files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), projected.path(name)).unwrap();
        }
        projected
    }

    fn swap(&mut self, files: &[(&str, &str)]) {
        self.generation += 1;
        let folder = format!("..{}", self.generation);
        fs::create_dir(self.path(&folder)).unwrap();
        for (name, content) in files {
            fs::write(self.path(&folder).join(name), content).unwrap();
        }
        symlink(&folder, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// As most tools replace a file.
fn replace(path: &Path, content: &str) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content).unwrap();
    fs::rename(&fresh, path).unwrap();
}

async fn plane() -> ControlPlane {
    ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 35))
        .server(ServerSpec::new("cp-b", 36))
        .start()
        .await
        .unwrap()
}

async fn start(plane: &ControlPlane, change: impl FnOnce(&mut Config)) -> TestAgent {
    TestAgent::start_with(plane, "cp-a", change).await.unwrap()
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

/// The certificate that a new connection is shown.
async fn shown(agent: &TestAgent, tls: &Arc<rustls::ClientConfig>) -> anyhow::Result<Vec<u8>> {
    let stream = connect_tls(agent.address, tls, &[b"h2"], "kubernetes").await?;
    let chain = stream.get_ref().1.peer_certificates();
    Ok(chain
        .and_then(|c| c.first())
        .map(|c| c.to_vec())
        .unwrap_or_default())
}

fn leaf(identity: &Identity) -> Vec<u8> {
    identity.chain().unwrap()[0].to_vec()
}

/// Key material of another control plane.
fn another() -> (TempDir, Pki) {
    let dir = TempDir::new().unwrap();
    let pki = Pki::generate(dir.path()).unwrap();
    (dir, pki)
}

async fn counted(agent: &TestAgent, file: &Path) {
    let file = file.display();
    let sample = format!("mvp_certificate_reload_failures_total{{file=\"{file}\"}}");
    eventually(&sample, PATIENCE, || async {
        Ok(agent.metric(&sample).await? >= 1.0)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_new_serving_certificate_is_shown_to_new_connections() {
    let plane = plane().await;
    let (_dir, other) = another();
    let (first, second) = (
        plane.pki().identity("apiserver").unwrap(),
        other.identity("apiserver").unwrap(),
    );
    let files = |identity: &Identity| {
        [
            ("tls.crt", identity.cert_pem.clone()),
            ("tls.key", identity.key_pem.clone()),
        ]
    };
    let borrowed = |files: &[(&'static str, String); 2]| files.clone();
    let start_files = borrowed(&files(&first));
    let mut projected = Projected::new(
        &start_files
            .each_ref()
            .map(|(name, text)| (*name, text.as_str())),
    );
    let pair = KeyPair {
        cert_file: projected.path("tls.crt"),
        key_file: projected.path("tls.key"),
    };
    let agent = start(&plane, |config| config.serving = pair).await;
    let here = Arc::new(plane.pki().client_config(admin(&plane), &[]).unwrap());
    let there = Arc::new(other.client_config(admin(&plane), &[]).unwrap());
    assert_eq!(shown(&agent, &here).await.unwrap(), leaf(&first));
    assert!(shown(&agent, &there).await.is_err());
    let open = Client::http2(agent.address, &here).await.unwrap();
    assert_eq!(open.get(NAMESPACES, &[]).await.unwrap().status, 200);

    // A certificate of one pair with the key of another serves nobody: the old pair stays.
    projected.swap(&[("tls.crt", &second.cert_pem), ("tls.key", &first.key_pem)]);
    counted(&agent, &projected.path("tls.key")).await;
    assert_eq!(shown(&agent, &here).await.unwrap(), leaf(&first));

    projected.swap(&[("tls.crt", &second.cert_pem), ("tls.key", &second.key_pem)]);
    eventually("the new certificate", PATIENCE, || async {
        Ok(shown(&agent, &there).await? == leaf(&second))
    })
    .await
    .unwrap();
    assert!(
        shown(&agent, &here).await.is_err(),
        "nobody gets the old one"
    );
    assert_eq!(
        open.get(NAMESPACES, &[]).await.unwrap().status,
        200,
        "open connections stay"
    );

    // Back, file by file as other tools do it; between the two renames the pair does not match, and that is no harm.
    projected.swap(&[("tls.crt", &first.cert_pem), ("tls.key", &first.key_pem)]);
    eventually("the old certificate", PATIENCE, || async {
        Ok(shown(&agent, &here).await? == leaf(&first))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn files_renamed_one_after_the_other_are_a_pair_in_the_end() {
    let plane = plane().await;
    let (_dir, other) = another();
    let dir = TempDir::new().unwrap();
    let (first, second) = (
        plane.pki().identity("apiserver").unwrap(),
        other.identity("apiserver").unwrap(),
    );
    let (cert, key) = (dir.path().join("a.crt"), dir.path().join("a.key"));
    fs::write(&cert, &first.cert_pem).unwrap();
    fs::write(&key, &first.key_pem).unwrap();
    let pair = KeyPair {
        cert_file: cert.clone(),
        key_file: key.clone(),
    };
    let agent = start(&plane, |config| config.serving = pair).await;
    let here = Arc::new(plane.pki().client_config(admin(&plane), &[]).unwrap());
    let there = Arc::new(other.client_config(admin(&plane), &[]).unwrap());

    replace(&cert, &second.cert_pem);
    counted(&agent, &key).await;
    assert_eq!(
        shown(&agent, &here).await.unwrap(),
        leaf(&first),
        "half a pair changes nothing"
    );
    replace(&key, &second.key_pem);
    eventually("the new pair", PATIENCE, || async {
        Ok(shown(&agent, &there).await? == leaf(&second))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_client_ca_is_added_and_taken_away_while_its_clients_are_connected() {
    let plane = plane().await;
    let (_dir, other) = another();
    let (ours, theirs) = (
        plane.pki().read("ca.crt").unwrap(),
        other.read("ca.crt").unwrap(),
    );
    let mut projected = Projected::new(&[("ca.crt", &ours)]);
    let path = projected.path("ca.crt");
    let agent = start(&plane, |config| config.client_ca_file = Some(path)).await;
    let stranger = other
        .issue(&Request::new("stranger", &["system:masters"]))
        .unwrap();
    let stranger = agent
        .http2(&plane, ClientAuth::Certificate(stranger))
        .await
        .unwrap()
        .returning();
    let known = agent.http2(&plane, admin(&plane)).await.unwrap();
    let status = async |client: &Client| client.get(NAMESPACES, &[]).await.unwrap().status.as_u16();
    assert_eq!((status(&stranger).await, status(&known).await), (401, 200));

    projected.swap(&[("ca.crt", &format!("{ours}{theirs}"))]);
    eventually(
        "the new CA counts on the open connection",
        PATIENCE,
        || async { Ok(status(&stranger).await == 200) },
    )
    .await
    .unwrap();
    assert_eq!(status(&known).await, 200);
    let seen = plane.named("cp-a").unwrap().requests();
    let users = seen.iter().filter_map(|seen| seen.user.as_ref());
    assert!(users.into_iter().any(|user| user.name == "stranger"));

    projected.swap(&[(
        "ca.crt",
        "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n",
    )]);
    counted(&agent, &projected.path("ca.crt")).await;
    assert_eq!((status(&stranger).await, status(&known).await), (200, 200));

    projected.swap(&[("ca.crt", &theirs)]);
    eventually("the old CA counts no longer", PATIENCE, || async {
        Ok(status(&known).await == 401)
    })
    .await
    .unwrap();
    assert_eq!(status(&stranger).await, 200);
}

#[tokio::test]
async fn connections_to_servers_are_replaced_after_the_front_proxy_pair_rotated() {
    let plane = plane().await;
    let request = |name| Request {
        authority: Authority::FrontProxy,
        ..Request::new(name, &[])
    };
    let issue = |name| plane.pki().issue(&request(name)).unwrap();
    let (first, second) = (issue("front-proxy-client"), issue("front-proxy-client"));
    let wrong = issue("not-allowed");
    let mut projected = Projected::new(&[("c.crt", &first.cert_pem), ("c.key", &first.key_pem)]);
    let pair = KeyPair {
        cert_file: projected.path("c.crt"),
        key_file: projected.path("c.key"),
    };
    let agent = start(&plane, |config| config.upstream.client = Some(pair)).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let b = plane.named("cp-b").unwrap();
    // The connection at the server over which the client's next request comes.
    let connection = async || {
        let target = format!("{POLICIES}?mark={}", uuid::Uuid::new_v4());
        let answer = client.get(&target, &[]).await?;
        let seen = b.requests().into_iter().find(|seen| seen.target == target);
        anyhow::Ok((
            answer.status.as_u16(),
            seen.map(|seen| (seen.connection, seen.how)),
        ))
    };
    let (status, before) = connection().await.unwrap();
    let (old, how) = before.unwrap();
    assert_eq!((status, how), (200, Some(How::FrontProxy)));
    assert_eq!(
        connection().await.unwrap().1.unwrap().0,
        old,
        "kept for the next request"
    );

    // A watch over the old connection lives on.
    let watch = client.request(
        http::Method::GET,
        &format!("{POLICIES}?watch=1"),
        &[],
        mvp_tests::client::empty(),
    );
    let watch = client.send(watch.unwrap()).await.unwrap();
    assert_eq!(watch.status(), 200);
    projected.swap(&[("c.crt", &second.cert_pem), ("c.key", &second.key_pem)]);
    eventually("another connection", PATIENCE, || async {
        let (status, seen) = connection().await?;
        anyhow::ensure!(status == 200, "{status}");
        Ok(seen.is_some_and(|(connection, _)| connection != old))
    })
    .await
    .unwrap();
    let object = serde_json::json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingAdmissionPolicy", "metadata": {"name": "one"},
    });
    let created = client.post_json(POLICIES, &[], &object).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    let mut body = watch.into_body();
    let event = tokio::time::timeout(PATIENCE, http_body_util::BodyExt::frame(&mut body));
    let event = event.await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert!(
        String::from_utf8_lossy(&event).contains("\"one\""),
        "the watch goes on"
    );

    // A pair that no server takes is not taken over either; nor is one that is none.
    projected.swap(&[("c.crt", &wrong.cert_pem), ("c.key", &wrong.key_pem)]);
    counted(&agent, &projected.path("c.crt")).await;
    assert_eq!(connection().await.unwrap().0, 200);
    projected.swap(&[("c.crt", &second.cert_pem), ("c.key", &first.key_pem)]);
    counted(&agent, &projected.path("c.key")).await;
    assert_eq!(connection().await.unwrap().0, 200);
}

#[tokio::test]
async fn a_rotated_upstream_ca_is_what_new_connections_are_judged_by() {
    let plane = plane().await;
    let (_dir, other) = another();
    let (ours, theirs) = (
        plane.pki().read("ca.crt").unwrap(),
        other.read("ca.crt").unwrap(),
    );
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ca.crt");
    fs::write(&path, &ours).unwrap();
    let agent = start(&plane, |config| config.upstream.ca_file.clone_from(&path)).await;
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    let status = async || client.get(POLICIES, &[]).await.unwrap().status.as_u16();
    assert_eq!(status().await, 200);

    // Ended by the server or not, no connection outlives the trust that it was made with for new requests.
    replace(&path, &theirs);
    eventually(
        "servers of the old CA are not trusted",
        PATIENCE,
        || async { Ok(status().await == 503) },
    )
    .await
    .unwrap();
    replace(&path, &format!("{theirs}{ours}"));
    eventually("trusted again", PATIENCE, || async {
        Ok(status().await == 200)
    })
    .await
    .unwrap();
    replace(&path, "nothing");
    counted(&agent, &path).await;
    assert_eq!(status().await, 200);
}

#[tokio::test]
async fn a_front_proxy_ca_is_replaced_for_callers() {
    let plane = plane().await;
    let (_dir, other) = another();
    let (ours, theirs) = (
        plane.pki().read("front-proxy-ca.crt").unwrap(),
        other.read("front-proxy-ca.crt").unwrap(),
    );
    let mut projected = Projected::new(&[("ca.crt", &ours)]);
    let path = projected.path("ca.crt");
    let agent = start(&plane, |config| {
        config.request_header.as_mut().unwrap().client_ca_file = path;
    })
    .await;
    let callers =
        [plane.pki(), &other].map(|pki| ClientAuth::Certificate(pki.front_proxy_client().unwrap()));
    let [ours_caller, theirs_caller] = callers;
    let ours_caller = agent.http2(&plane, ours_caller).await.unwrap();
    let theirs_caller = agent.http1(&plane, theirs_caller).await.unwrap();
    let theirs_caller = theirs_caller.returning();
    let headers = [
        ("x-remote-user", "root"),
        ("x-remote-group", "system:masters"),
    ];
    let status = async |client: &Client| {
        client
            .get(NAMESPACES, &headers)
            .await
            .unwrap()
            .status
            .as_u16()
    };
    assert_eq!(
        (status(&ours_caller).await, status(&theirs_caller).await),
        (200, 401)
    );
    projected.swap(&[("ca.crt", &theirs)]);
    eventually("the new CA's callers speak", PATIENCE, || async {
        Ok(status(&theirs_caller).await == 200)
    })
    .await
    .unwrap();
    assert_eq!(status(&ours_caller).await, 401);
}

#[tokio::test]
async fn a_bad_file_that_two_keys_name_counts_for_both() {
    let plane = plane().await;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("ca.crt");
    fs::write(&path, plane.pki().read("ca.crt").unwrap()).unwrap();
    let agent = start(&plane, |config| {
        config.client_ca_file = Some(path.clone());
        config.upstream.ca_file.clone_from(&path);
    })
    .await;
    replace(&path, "nothing");
    let sample = format!(
        "mvp_certificate_reload_failures_total{{file=\"{}\"}}",
        path.display()
    );
    eventually("both are counted", PATIENCE, || async {
        Ok(agent.metric(&sample).await? == 2.0)
    })
    .await
    .unwrap();
}
