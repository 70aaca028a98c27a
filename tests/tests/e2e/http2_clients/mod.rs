//! HTTP/2 clients that others wrote, before an agent that speaks its own HTTP/2 on both sides: nghttp2 (curl, nghttp, h2load, Node.js), Go
//! (kubectl), Python (httpx). Each does the same, as far as it can.
//!
//! Go's client is that of kubectl: `kubectl proxy` makes of each request that curl sends to it one of `net/http`, over one connection of
//! HTTP/2. It is the client of every controller, and needs no compiler of Go (400 MB from Debian).

mod commands;
mod scripts;

use std::net::SocketAddr;
use std::path::PathBuf;

use mvp::config::Http2;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{CONFIG_MAPS, SOON, client, plane};
use mvp_tests::recorder::Recorder;
use mvp_tests::sim::ControlPlane;
use mvp_tests::sim::api::authn::User;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::block_in_place;

use commands::{Curl, h2load, nghttp};
use scripts::Scripted;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const SERVICE: &str = "/api/v1/namespaces/default/services/y/proxy";
/// Bytes of an upload: far above every window that the agent grants; in a recording more than one frame.
fn upload_size() -> usize {
    match recorded() {
        None => 3 << 20,
        Some(_) => 20_000,
    }
}

/// Where what the clients say is to be kept: `MVP_RECORD_HTTP2` names a folder.
fn recorded() -> Option<PathBuf> {
    std::env::var_os("MVP_RECORD_HTTP2").map(PathBuf::from)
}

const OBJECTS: usize = 60;
/// Each end of an upload in two halves.
const HALF: usize = 20_000;
/// More than most clients would ask for at once, and as many as the least that RFC 9113 §6.5.2 recommends to allow.
const MANY: usize = 100;

/// What came of a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    text: String,
    /// The trailers, in the client's own words; `None` if it shows none.
    trailers: Option<String>,
}

/// What every such client can do. All of it blocks.
trait Foreign {
    fn get(&mut self, path: &str) -> Answer;

    /// Sends so many bytes: 0, 1, … 250, 0, ….
    fn post(&mut self, path: &str, size: usize) -> Answer;

    /// Asks so many times at once, and gives the status of each answer.
    fn many(&mut self, count: usize, path: &str) -> Vec<u16>;

    /// Begins an answer that does not end, and gives it up when some of it has come.
    fn cancel(&mut self, path: &str);

    /// Begins an upload.
    fn begin(&mut self, path: &str);

    /// Sends the second half of it.
    fn finish(&mut self) -> Answer;
}

/// An agent, and objects behind it.
struct Stage {
    plane: ControlPlane,
    agent: TestAgent,
    /// Where clients connect: to the agent, or to what keeps what they say.
    address: SocketAddr,
    _recorder: Option<Recorder>,
}

impl Stage {
    async fn new(name: &str) -> Self {
        let plane = plane(&[36, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", |config| {
            config.serving_http2 = Http2::Own;
            config.upstream.http2 = Http2::Own;
        })
        .await
        .unwrap();
        let recorder = match recorded() {
            None => None,
            Some(folder) => Recorder::start(&plane, agent.address, &folder, name)
                .await
                .ok(),
        };
        let stage = Self {
            plane,
            address: recorder.as_ref().map_or(agent.address, |r| r.address),
            agent,
            _recorder: recorder,
        };
        let writer = client(&stage.plane, &stage.agent).await;
        for at in 0..OBJECTS {
            let name = format!("m{at}");
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v".repeat(4096)}});
            let created = writer.post_json(CONFIG_MAPS, &[], &object).await.unwrap();
            assert_eq!(created.status, 201, "{}", created.text());
        }
        for name in ["a", "b"] {
            let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
            let created = writer.post_json(SECRETS, &[], &object).await.unwrap();
            assert_eq!(created.status, 201, "{}", created.text());
        }
        stage
    }

    /// Waits until nothing is under way to any server.
    async fn idle(&self) {
        for server in ["cp-a", "cp-b"] {
            let name = format!("mvp_outstanding_requests{{server=\"{server}\"}}");
            eventually("nothing is under way", SOON, || async {
                Ok(self.agent.metric(&name).await? == 0.0)
            })
            .await
            .unwrap();
        }
    }

    /// Waits until the local server has this request.
    async fn has_come(&self, path: &str) {
        eventually("the request has come", SOON, || async {
            let requests = self.plane.server(0).requests();
            Ok(requests.iter().any(|request| request.path() == path))
        })
        .await
        .unwrap();
    }
}

/// All that has an answer by itself.
async fn asks(stage: &Stage, client: &mut impl Foreign) {
    let one = block_in_place(|| client.get(&format!("{CONFIG_MAPS}/m7")));
    assert_eq!(one.status, 200);
    let one: Value = serde_json::from_str(&one.text).unwrap();
    assert_eq!(one["metadata"]["name"], "m7");

    let list = block_in_place(|| client.get(CONFIG_MAPS));
    assert_eq!(list.status, 200);
    assert!(list.text.len() > OBJECTS * 4096, "not in several frames");
    let list: Value = serde_json::from_str(&list.text).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), OBJECTS);

    let watch = block_in_place(|| client.get(&format!("{SECRETS}?watch=true&timeoutSeconds=1")));
    assert_eq!(watch.status, 200);
    let events = watch.text.lines().map(serde_json::from_str::<Value>);
    let events: Vec<_> = events.map(|event| event.unwrap()["type"].clone()).collect();
    assert_eq!(events, ["ADDED", "ADDED"]);

    let sent = block_in_place(|| client.post(&format!("{SERVICE}/upload"), upload_size()));
    let digest = sum((0..upload_size()).map(|at| (at % 251) as u8).collect());
    assert_eq!(sent.status, 200, "{sent:?}");
    let sent: Value = serde_json::from_str(&sent.text).unwrap();
    assert_eq!(sent, json!({"bytes": upload_size(), "sha256": digest}));

    let path = format!("{SERVICE}/trailers");
    let trailed = block_in_place(|| client.get(&path));
    assert_eq!((trailed.status, &trailed.text[..]), (200, "body\n"));
    if let Some(trailers) = &trailed.trailers {
        assert!(trailers.contains("at the end"), "{trailed:?}");
    }

    let answers = block_in_place(|| client.many(MANY, &format!("{CONFIG_MAPS}/m7")));
    assert_eq!(answers, [200; MANY]);

    let endless = format!(
        "/api/v1/namespaces/default/pods/p/log?mvpBytes={}",
        1_u64 << 40
    );
    block_in_place(|| client.cancel(&endless));
    stage.idle().await;
    let after = block_in_place(|| client.get(&format!("{CONFIG_MAPS}/m8")));
    assert_eq!(after.status, 200);
}

/// The server answers before it has read the upload: whoever sends it hears of it.
async fn is_refused_early(client: &mut impl Foreign, size: usize) {
    let refused = block_in_place(|| client.post(&format!("{SERVICE}/status/413"), size));
    assert_eq!((refused.status, &refused.text[..]), (413, "as asked\n"));
}

/// An upload in two halves, and what happens between them.
async fn uploads(stage: &Stage, client: &mut impl Foreign, between: impl AsyncFnOnce()) {
    let path = format!("{SERVICE}/upload");
    stage.plane.server(0).clear_requests();
    block_in_place(|| client.begin(&path));
    stage.has_come(&path).await;
    between().await;
    let sent = block_in_place(|| client.finish());
    assert_eq!(sent.status, 200, "{sent:?}");
    let sent: Value = serde_json::from_str(&sent.text).unwrap();
    assert_eq!(sent["sha256"], sum(vec![b'x'; 2 * HALF]));
}

/// The agent goes while an upload is under way: GOAWAY, and the upload has its answer.
async fn drains(stage: &Stage, client: &mut impl Foreign) {
    uploads(stage, client, async || {
        stage.agent.drain();
        eventually("the agent drains", SOON, || async {
            let (status, why) = stage.agent.admin_get("/readyz").await?;
            Ok(status == 503 && why.contains("draining"))
        })
        .await
        .unwrap();
    })
    .await;
}

fn sum(bytes: Vec<u8>) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl() {
    let stage = Stage::new("curl").await;
    let mut curl = Curl::new(&stage);
    asks(&stage, &mut curl).await;
    // An upload that is refused early is not for curl 7.88: RST_STREAM with NO_ERROR behind the whole answer (RFC 9113 §8.1) is an error to
    // it, from whichever server.
    drains(&stage, &mut curl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go() {
    let stage = Stage::new("go").await;
    let Some(mut go) = block_in_place(|| Curl::before_kubectl(&stage)) else {
        return;
    };
    asks(&stage, &mut go).await;
    is_refused_early(&mut go, upload_size()).await;
    drains(&stage, &mut go).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python() {
    let stage = Stage::new("python").await;
    let Some(mut python) = block_in_place(|| Scripted::python(&stage)) else {
        return;
    };
    asks(&stage, &mut python).await;
    // With more than its window it would wait for room and hear nothing (httpcore 1.0.9), before whichever server.
    is_refused_early(&mut python, HALF).await;
    // Not while the agent drains: to the library h2 of Python, GOAWAY is the end of the connection (h2 4.4.1).
    uploads(&stage, &mut python, async || {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node() {
    let stage = Stage::new("node").await;
    let Some(mut node) = block_in_place(|| Scripted::node(&stage)) else {
        return;
    };
    asks(&stage, &mut node).await;
    is_refused_early(&mut node, upload_size()).await;
    let echo = block_in_place(|| node.trailers(&format!("{SERVICE}/echo")));
    assert_eq!((echo.status, &echo.text[..]), (200, "body"));
    assert!(echo.trailers.as_ref().unwrap().contains("said"), "{echo:?}");
    drains(&stage, &mut node).await;
    let said = block_in_place(|| node.goodbye());
    assert_eq!(said["code"], 0, "GOAWAY in good order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nghttp2() {
    let stage = Stage::new("nghttp2").await;
    let url = |path: &str| format!("https://{}{path}", stage.address);
    let upload = stage.plane.pki().path("upload");
    std::fs::write(&upload, vec![b'x'; upload_size().min(100_000)]).unwrap();
    // Requests with trailers, which come back with the echo.
    let frames = block_in_place(|| {
        let upload = upload.to_str().unwrap();
        let more = ["--data", upload, "--trailer", "x-mvp-trailer: said"];
        nghttp(&stage, &more, &[url(&format!("{SERVICE}/echo"))])
    });
    let received = frames.matches("x-mvp-trailer: said").count();
    assert_eq!(received, 2, "sent and received: {frames}");
    assert!(!frames.contains("recv RST_STREAM"), "{frames}");
    let early = stage.plane.pki().path("early");
    std::fs::write(&early, vec![b'x'; upload_size()]).unwrap();
    let frames = block_in_place(|| {
        let more = ["--data", early.to_str().unwrap()];
        nghttp(&stage, &more, &[url(&format!("{SERVICE}/status/413"))])
    });
    assert!(frames.contains(":status: 413"), "{frames}");
    // Two streams of which one depends on the other, with padding, and header blocks of several frames.
    let frames = block_in_place(|| {
        let more = ["--multiply", "2", "--padding", "100", "--continuation"];
        nghttp(&stage, &more, &[url(CONFIG_MAPS)])
    });
    assert_eq!(frames.matches(":status: 200").count(), 2, "{frames}");

    // It has no certificates.
    let user = User {
        name: "h2load".into(),
        groups: vec!["system:masters".into()],
        ..User::default()
    };
    stage.plane.add_token("token-of-h2load", user);
    let token = "authorization: Bearer token-of-h2load";
    let version = url("/version");
    let said =
        block_in_place(|| h2load(&["-n", "600", "-c", "3", "-m", "100", "-H", token, &version]));
    assert!(
        said.contains(" 600 succeeded, 0 failed, 0 errored"),
        "{said}"
    );
    let to = url(&format!("{SERVICE}/upload"));
    let data = upload.to_str().unwrap();
    let said = block_in_place(|| {
        h2load(&[
            "-n", "60", "-c", "2", "-m", "10", "-H", token, "-d", data, &to,
        ])
    });
    assert!(
        said.contains(" 60 succeeded, 0 failed, 0 errored"),
        "{said}"
    );
}
