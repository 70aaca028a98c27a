//! Law 4: what the agent says of itself is what the kernel does; and what it may do is what an operator has allowed.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use http::Method;
use mvp_tests::agent::{TestAgent, eventually, settings};
use mvp_tests::child::ChildAgent;
use mvp_tests::client::connect_tls;
use mvp_tests::fixtures::{NEVER, SOON, admin, plane};
use mvp_tests::operator;
use mvp_tests::ports::free_port;
use mvp_tests::rbac;
use mvp_tests::scrape::Scrape;
use mvp_tests::sim::pki::{ClientAuth, KubeconfigUser, Pki};
use mvp_tests::sim::{ControlPlane, Server};
use rustix::process::Signal;
use serde_json::{Value, json};

const AGENT: &str = env!("CARGO_BIN_EXE_mvp-agent");
/// An agent looks at its files every ten seconds.
const BEFORE_ITS_OWN_LOOK: Duration = Duration::from_secs(9);

async fn status(agent: &TestAgent) -> Value {
    let (_, body) = agent.admin_get("/status").await.unwrap();
    serde_json::from_str(&body).unwrap()
}

async fn scrape(agent: &TestAgent) -> Scrape {
    Scrape::parse(&agent.admin_get("/metrics").await.unwrap().1).unwrap()
}

fn passing_by(scrape: &Scrape, reason: &str) -> f64 {
    let sample = format!(r#"mvp_passing_by{{reason="{reason}"}}"#);
    assert!(scrape.has(&sample), "{reason}: always there, with its zero");
    scrape.get(&sample)
}

#[tokio::test]
async fn an_agent_that_steers_nothing_never_calls_itself_armed() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let status = status(&agent).await;
    assert_eq!(status["stance"]["word"], "inspecting");
    let line = status["stance"]["line"].as_str().unwrap();
    assert!(line.contains("the kernel steers nothing"), "{line}");
    let mut command = Command::new(AGENT);
    command.arg("status").arg("--admin").arg(agent.socket());
    let shown = run(command).await;
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.starts_with("inspecting ("), "{shown}");
    assert!(!shown.contains("armed:"), "{shown}");
    let scrape = scrape(&agent).await;
    assert_eq!(scrape.get("mvp_kernel_steering"), 0.0);
    assert_eq!(scrape.sum("mvp_passing_by"), 0.0, "nobody asked for it");
}

#[tokio::test]
async fn steering_that_was_asked_for_and_is_not_there_is_passing_by() {
    let plane = plane(&[35, 36]).await;
    let nowhere = tempfile::tempdir().unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.kernel.steering = mvp::config::Mode::Auto;
        config.kernel.pin_path = nowhere.path().join("mvp");
        config.kernel.peer_ports = 20000..=20999;
    })
    .await
    .unwrap();
    let status = status(&agent).await;
    assert_eq!(status["stance"]["word"], "passing by", "{status}");
    assert_eq!(status["stance"]["reasons"][0]["reason"], "not_steering");
    let line = status["stance"]["line"].as_str().unwrap();
    assert!(line.starts_with("passing by: not_steering ("), "{line}");
    let scrape = scrape(&agent).await;
    assert_eq!(passing_by(&scrape, "not_steering"), 1.0);
    assert_eq!(passing_by(&scrape, "local_unproved"), 0.0);
    assert_eq!(scrape.get("mvp_kernel_steering"), 0.0);
}

#[tokio::test]
async fn only_the_socket_changes_anything_and_only_its_owner_opens_it() {
    let plane = plane(&[35, 36]).await;
    rbac::apply(&plane).unwrap();
    let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
    let mode = std::fs::metadata(agent.socket()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o600);
    for (method, path) in [
        (Method::POST, "/drain"),
        (Method::POST, "/arm"),
        (Method::POST, "/disarm"),
        (Method::PUT, "/loglevel"),
        (Method::GET, "/mvp/servers/cp-b/metrics"),
    ] {
        let (status, answer) = operator::read(agent.admin, method, path).await.unwrap();
        assert_eq!(status, 403, "{path}: {}", answer.text());
    }
    // The rights of deploy/rbac.yaml are enough for what the socket reaches, in no group but that of everybody.
    for probe in ["readyz", "livez", "version", "metrics", "readyz/ping"] {
        let path = format!("/mvp/servers/cp-b/{probe}");
        let (status, body) = agent.operate("GET", &path).await.unwrap();
        assert_eq!(status, 200, "{probe}: {body}");
    }
    // A proof asserts a group that grants nothing, to see that groups arrive.
    let proof =
        |target: &str| target.contains("selfsubjectreviews") || target.contains("mvp-proof");
    let requests = plane.named("cp-b").unwrap().requests();
    for request in requests.iter().filter(|request| !proof(&request.target)) {
        let groups = request.headers.get_all("x-remote-group");
        assert!(groups.iter().all(|group| group == "system:authenticated"));
    }
    let (status, _) = agent.operate("POST", "/drain").await.unwrap();
    assert_eq!(status, 202);
}

/// An agent that learns of its peers from Kubernetes.
async fn told_by_kubernetes(
    plane: &ControlPlane,
    kubeconfig: Option<std::path::PathBuf>,
) -> TestAgent {
    TestAgent::start_with(plane, "cp-a", |config| {
        config.peers.fixed.clear();
        config.peers.kubernetes.enabled = true;
        config.peers.kubernetes.kubeconfig = kubeconfig;
    })
    .await
    .unwrap()
}

async fn members(agent: &TestAgent) -> String {
    status(agent).await["members"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn members_are_read_with_the_agents_own_rights() {
    let plane = plane(&[36, 36]).await;
    rbac::apply(&plane).unwrap();
    let agent = told_by_kubernetes(&plane, None).await;
    eventually("they are read", SOON, || async {
        Ok(members(&agent).await == "from Kubernetes, read as system:mvp through cp-a")
    })
    .await
    .unwrap();
    let reads = plane.named("cp-a").unwrap().requests();
    let reads = reads.iter().filter(|request| {
        request.path().ends_with("/endpointslices") || request.path().ends_with("/leases")
    });
    let users: Vec<_> = reads
        .map(|request| request.user.as_ref().unwrap().name.clone())
        .collect();
    assert!(!users.is_empty() && users.iter().all(|user| user == "system:mvp"));
}

#[tokio::test]
async fn a_fallback_to_an_administrators_rights_is_named() {
    let plane = plane(&[36, 36]).await;
    // No rights at all, and nothing to fall back to: it serves, and says what to do.
    let agent = told_by_kubernetes(&plane, None).await;
    eventually("the refusal is said", SOON, || async {
        let line = members(&agent).await;
        Ok(line.contains("by no way") && line.contains("403") && line.contains("rbac.yaml"))
    })
    .await
    .unwrap();
    let user = KubeconfigUser::Certificate(plane.pki().admin().unwrap());
    let local = plane.named("cp-a").unwrap().url();
    let kubeconfig = plane.kubeconfig("admin.conf", &local, &user).unwrap();
    let agent = told_by_kubernetes(&plane, Some(kubeconfig.clone())).await;
    let named = format!(
        "read with {}, since cp-a answered 403",
        kubeconfig.display()
    );
    eventually("the fallback is named", SOON, || async {
        Ok(members(&agent).await.contains(&named))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn sighup_reloads_and_ends_nothing() {
    let plane = plane(&[35, 36]).await;
    let agent = ChildAgent::start_with(AGENT, &plane, "cp-a", &["--log-level", "info"], |_| {})
        .await
        .unwrap();
    agent.signal(Signal::HUP).unwrap();
    eventually("the files are looked at", SOON, || async {
        Ok(agent.log().contains("SIGHUP"))
    })
    .await
    .unwrap();
    agent.signal(Signal::HUP).unwrap();
    assert_eq!(agent.admin_get("/readyz").await.unwrap().0, 200);
}

/// A file behind a link: nothing watches its folder, so that only who is told to looks at it before the next look of its own.
#[tokio::test]
async fn sighup_brings_a_changed_file_into_use() {
    let plane = plane(&[35, 36]).await;
    let dir = tempfile::tempdir().unwrap();
    let (shown, hidden) = (dir.path().join("shown"), dir.path().join("hidden"));
    for folder in [&shown, &hidden] {
        std::fs::create_dir(folder).unwrap();
    }
    let put = |pki: &Pki| {
        for end in ["crt", "key"] {
            let text = pki.read(&format!("apiserver.{end}")).unwrap();
            std::fs::write(hidden.join(format!("tls.{end}")), text).unwrap();
        }
    };
    put(plane.pki());
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(hidden.join(name), shown.join(name)).unwrap();
    }
    let mut agent =
        ChildAgent::start_with(AGENT, &plane, "cp-a", &["--log-level", "info"], |config| {
            config["serving"] =
                json!({"certFile": shown.join("tls.crt"), "keyFile": shown.join("tls.key")});
        })
        .await
        .unwrap();
    let other = Pki::generate(&dir.path().join("other")).unwrap();
    let tls = |pki: &Pki| {
        let config = pki.client_config(ClientAuth::None, &[]).unwrap();
        std::sync::Arc::new(config)
    };
    let (here, there) = (tls(plane.pki()), tls(&other));
    let shows = async |tls| {
        connect_tls(agent.address, tls, &[b"h2"], "kubernetes")
            .await
            .is_ok()
    };
    // The agent looks again by itself ten seconds after a look; this is one.
    agent.signal(Signal::HUP).unwrap();
    eventually("the files are looked at", SOON, || async {
        Ok(agent.log().contains("SIGHUP"))
    })
    .await
    .unwrap();
    let open = agent.http2(&plane, admin(&plane)).await.unwrap();
    for (pki, new, old) in [(&other, &there, &here), (plane.pki(), &here, &there)] {
        put(pki);
        agent.signal(Signal::HUP).unwrap();
        eventually(
            "the new certificate is shown",
            BEFORE_ITS_OWN_LOOK,
            || async { Ok(shows(new).await) },
        )
        .await
        .unwrap();
        assert!(!shows(old).await);
    }
    // The same process, and nobody's connection has ended.
    assert!(agent.is_running().unwrap());
    assert_eq!(open.get("/version", &[]).await.unwrap().status, 200);
}

/// A server that restarts ends the agent's watches of it; that is its right, and no reason to wake anybody.
#[tokio::test]
async fn a_watch_that_ends_because_a_server_restarts_is_no_warning() {
    let plane = plane(&[36, 36]).await;
    rbac::apply(&plane).unwrap();
    let agent = ChildAgent::start(AGENT, &plane, "cp-a", |config| {
        config["peers"] = json!({"kubernetes": {"enabled": true}});
    })
    .await
    .unwrap();
    let watched = [
        "endpointslices",
        "leases",
        "customresourcedefinitions",
        "apiservices",
    ];
    let watches = |what: &str| {
        let all = plane.servers().iter().flat_map(Server::requests);
        let of = all.filter(|r| r.path().ends_with(what) && r.target.contains("watch="));
        of.count()
    };
    eventually("everything is watched", SOON, || async {
        Ok(watched.iter().all(|what| watches(what) > 0))
    })
    .await
    .unwrap();
    for server in plane.servers() {
        let before = watched.map(watches);
        let said = agent.log().len();
        server.restart(36).await.unwrap();
        // Those that were at this server; the local one is asked first.
        eventually("what ended is watched again", SOON, || async {
            let ended = server.name() == "cp-a";
            Ok(!ended
                || watched
                    .iter()
                    .zip(before)
                    .all(|(what, before)| watches(what) > before))
        })
        .await
        .unwrap();
        let log = agent.log()[said..].to_owned();
        // That nobody is there for a moment is said of the server, once.
        let noise = |line: &&str| line.contains("WARN") && !line.contains("discovery fails");
        let noise: Vec<_> = log.lines().filter(noise).collect();
        assert!(noise.is_empty(), "{noise:#?}");
        assert!(!log.contains("ERROR"), "{log}");
    }
}

fn asked(server: &Server, path: &str) -> usize {
    let requests = server.requests();
    requests.iter().filter(|r| r.path() == path).count()
}

#[tokio::test]
async fn while_nothing_differs_and_events_tell_servers_are_left_alone() {
    let plane = plane(&[36, 36]).await;
    rbac::apply(&plane).unwrap();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.discovery.interval = Duration::from_millis(50);
        // So long that no test could wait for it: only what is to be noticed ends it.
        config.discovery.idle_interval = NEVER;
        config.discovery.stale_after = 2 * NEVER;
    })
    .await
    .unwrap();
    let peer = plane.named("cp-b").unwrap();
    // Readiness goes on, and between some looks at it nothing else is asked.
    let quiet = || async {
        let before = (asked(peer, "/apis"), asked(peer, "/readyz"));
        eventually("readiness is asked", SOON, || async {
            Ok(asked(peer, "/readyz") >= before.1 + 5)
        })
        .await?;
        Ok(asked(peer, "/apis") == before.0)
    };
    eventually("the servers are left alone", SOON, quiet)
        .await
        .unwrap();
    for request in peer.requests() {
        let agent = request.headers["user-agent"].to_str().unwrap();
        assert!(agent.starts_with("mvp/") && agent.contains('('), "{agent}");
    }
    // A server that is not ready is asked everything at once.
    let before = asked(peer, "/apis");
    peer.not_ready(true);
    eventually("everything is asked again", SOON, || async {
        Ok(asked(peer, "/apis") > before)
    })
    .await
    .unwrap();
    peer.not_ready(false);
    eventually("quiet again", SOON, quiet).await.unwrap();
    drop(agent);
}

#[tokio::test]
async fn a_server_that_refuses_in_its_first_second_is_starting() {
    let plane = plane(&[36, 36]).await;
    plane.take_discovery_from("system:mvp");
    plane.named("cp-b").unwrap().not_ready(true);
    // It never becomes ready: its own server does not tell it what it serves.
    let agent = TestAgent::start_unready(&plane, "cp-a", |_| {}).unwrap();
    let error = |servers: &Value, name: &str| {
        let servers = servers.as_array().unwrap().iter();
        let mut servers = servers.filter(|server| server["name"] == name);
        servers.next().unwrap()["lastError"].to_string()
    };
    eventually("it is starting", SOON, || async {
        Ok(error(&status(&agent).await["servers"], "cp-b").contains("starting"))
    })
    .await
    .unwrap();
    // One that says that it is ready and refuses has another problem.
    let other = error(&status(&agent).await["servers"], "cp-a");
    assert!(
        other.contains("403") && !other.contains("starting"),
        "{other}"
    );
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// `mvp doctor` with the configuration of an agent in front of `plane`.
async fn doctor(plane: &ControlPlane, change: impl FnOnce(&mut Value)) -> (bool, String) {
    let at = || free_port("127.0.0.1").unwrap();
    let mut config = settings(plane, "cp-a", at(), at())
        .unwrap()
        .config(plane.pki().dir());
    change(&mut config);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mvp.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(AGENT);
    command.arg("doctor").arg("--config").arg(&file);
    let output = run(command).await;
    let shown = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(shown).unwrap())
}

#[tokio::test]
async fn doctor_looks_at_certificates_and_at_every_server() {
    let plane = plane(&[35, 36]).await;
    let (good, shown) = doctor(&plane, |_| {}).await;
    assert!(good, "{shown}");
    for part in [
        "upstream.clientCertFile",
        "cp-a (local",
        "cp-b (peer",
        "cp-a: takes an asserted user for that user",
        "cp-b: takes an asserted user for that user",
        "a client of cp-a gets 404 or 405 for",
    ] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    // A client certificate of the cluster in the place of the front-proxy pair.
    let (good, shown) = doctor(&plane, |config| {
        let (cert, key) = certificate(&plane);
        config["upstream"]["clientCertFile"] = json!(cert);
        config["upstream"]["clientKeyFile"] = json!(key);
    })
    .await;
    assert!(
        !good && shown.contains("upstream.clientCertFile"),
        "{shown}"
    );
    plane.named("cp-b").unwrap().kill().await;
    let (good, shown) = doctor(&plane, |_| {}).await;
    // A peer that is away is no fault of this node.
    assert!(good && shown.contains("cp-b (peer"), "{shown}");
}

/// Files with the administrator's certificate and key.
fn certificate(plane: &ControlPlane) -> (std::path::PathBuf, std::path::PathBuf) {
    plane.pki().admin().unwrap();
    (plane.pki().path("admin.crt"), plane.pki().path("admin.key"))
}
