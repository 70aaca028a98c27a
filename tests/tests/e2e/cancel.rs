//! Whoever breaks off, the other side learns of it at once, and nobody takes a part for the whole.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::client::{Client, empty, piecemeal};
use mvp_tests::sim::pki::ClientAuth;
use mvp_tests::sim::{ControlPlane, Server, ServerSpec};
use mvp_tests::tunnel::RawConnection;
use tokio::io::AsyncWriteExt;

const LIMIT: Duration = Duration::from_secs(20);
const SERVICE: &str = "/api/v1/namespaces/default/services/y/proxy";
const WATCH: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies?watch=true";
/// Endless for a test's purposes.
const DOWNLOAD: &str = "/api/v1/namespaces/default/pods/p/log?mvpBytes=1099511627776";
const NAMESPACES: &str = "/api/v1/namespaces";

/// Servers that speak HTTP/2, and servers that speak only HTTP/1.1.
const UPSTREAMS: [bool; 2] = [false, true];

struct Setup {
    plane: ControlPlane,
    agent: TestAgent,
}

impl Setup {
    async fn new(http1: bool) -> Self {
        let plane = ControlPlane::builder()
            .servers([("cp-a", 35), ("cp-b", 36)].map(|(name, minor)| {
                let spec = ServerSpec::new(name, minor);
                if http1 { spec.http1_only() } else { spec }
            }))
            .start()
            .await
            .unwrap();
        let agent = TestAgent::start(&plane, "cp-a").await.unwrap();
        Self { plane, agent }
    }

    fn auth(&self) -> ClientAuth {
        ClientAuth::Certificate(self.plane.pki().admin().unwrap())
    }

    async fn http2(&self) -> Client {
        self.agent.http2(&self.plane, self.auth()).await.unwrap()
    }

    async fn raw(&self) -> RawConnection {
        RawConnection::open(self.agent.address, &self.plane, self.auth())
            .await
            .unwrap()
    }

    fn local(&self) -> &Server {
        self.plane.named("cp-a").unwrap()
    }

    fn peer(&self) -> &Server {
        self.plane.named("cp-b").unwrap()
    }

    /// `target` has reached `server`.
    async fn arrived(&self, server: &Server, target: &str, times: usize) {
        eventually("the request has arrived", LIMIT, || async {
            let seen = server.requests();
            Ok(seen.iter().filter(|r| r.target == target).count() == times)
        })
        .await
        .unwrap();
    }

    /// Nothing is being answered, and the agent waits for nothing.
    async fn all_ended(&self) {
        eventually("all streams have ended", LIMIT, || async {
            let mut left = self.local().streams() + self.peer().streams();
            for server in ["cp-a", "cp-b"] {
                let sample = format!("mvp_outstanding_requests{{server=\"{server}\"}}");
                left += self.agent.metric(&sample).await? as usize;
            }
            Ok(left == 0)
        })
        .await
        .unwrap();
    }

    async fn namespace_exists(&self, name: &str) -> bool {
        let client = self.http2().await;
        let answer = client
            .get(&format!("{NAMESPACES}/{name}"), &[])
            .await
            .unwrap();
        assert!(matches!(answer.status.as_u16(), 200 | 404));
        answer.status == 200
    }

    /// Clients that broke off are no reason to think ill of a server.
    async fn servers_are_not_blamed(&self) {
        for server in ["cp-a", "cp-b"] {
            let sample = format!("mvp_ejections_total{{server=\"{server}\"}}");
            assert_eq!(self.agent.metric(&sample).await.unwrap(), 0.0, "{server}");
        }
        let (_, servers) = self.agent.admin_get("/servers").await.unwrap();
        assert!(!servers.contains("broke the HTTP protocol"), "{servers}");
    }
}

#[tokio::test]
async fn a_client_that_gives_up_while_it_waits_frees_the_server() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        let client = setup.http2().await;
        setup.local().slow(Duration::from_secs(3600));
        let waiting = {
            let request = client
                .request(Method::GET, NAMESPACES, &[], empty())
                .unwrap();
            let client = setup.http2().await;
            tokio::spawn(async move { client.send(request).await.map(|r| r.status()) })
        };
        let mut raw = setup.raw().await;
        raw.send("GET", "/api/v1/pods", &[]).await.unwrap();
        // A slow server records a request when it answers; that it is there shows in its count of streams.
        eventually("both requests are there", LIMIT, || async {
            Ok(setup
                .agent
                .metric("mvp_outstanding_requests{server=\"cp-a\"}")
                .await?
                == 2.0
                && setup.local().streams() >= 2)
        })
        .await
        .unwrap();
        waiting.abort();
        drop(raw);
        eventually("the agent waits for nothing", LIMIT, || async {
            Ok(setup
                .agent
                .metric("mvp_outstanding_requests{server=\"cp-a\"}")
                .await?
                == 0.0)
        })
        .await
        .unwrap();
        setup.local().slow(Duration::ZERO);
        assert!(
            setup
                .local()
                .requests()
                .iter()
                .all(|r| r.target != NAMESPACES && r.target != "/api/v1/pods"),
            "a request that was given up was carried out"
        );
    }
}

#[tokio::test]
async fn a_download_broken_off_by_the_client_ends_at_the_server() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        // HTTP/2: the stream is reset, the connection stays.
        let client = setup.http2().await;
        let request = client.request(Method::GET, DOWNLOAD, &[], empty()).unwrap();
        let mut body = client.send(request).await.unwrap().into_body();
        for _ in 0..10 {
            body.frame().await.unwrap().unwrap();
        }
        assert!(setup.local().streams() >= 1);
        drop(body);
        setup.all_ended().await;
        assert_eq!(client.get("/version", &[]).await.unwrap().status, 200);

        // HTTP/1.1: there is only closing.
        let mut raw = setup.raw().await;
        let (status, _) = raw.exchange("GET", DOWNLOAD, &[]).await.unwrap();
        assert_eq!(status, 200);
        assert!(!raw.read_some().await.unwrap().is_empty());
        drop(raw);
        setup.all_ended().await;
        setup.servers_are_not_blamed().await;
    }
}

/// The first half is a whole object: a server that took it for the whole body would create it.
fn first_half(name: &str) -> String {
    format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}"}}}}"#)
}

#[tokio::test]
async fn an_upload_cancelled_half_way_over_http2_creates_nothing() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        let client = setup.http2().await;
        let headers = [("content-type", "application/json")];
        let (sender, body) = piecemeal();
        let request = client
            .request(Method::POST, NAMESPACES, &headers, body)
            .unwrap();
        let call = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
        sender
            .send(Ok(Bytes::from(first_half("half"))))
            .await
            .unwrap();
        setup.arrived(setup.local(), NAMESPACES, 1).await;
        // RST_STREAM, as a client sends it whose context was cancelled.
        call.abort();
        drop(call.await);
        setup.all_ended().await;
        assert!(!setup.namespace_exists("half").await);

        // The other way to break off: the body fails, its stream is reset by the client's HTTP library.
        let client = setup.http2().await;
        let (sender, body) = piecemeal();
        let request = client
            .request(Method::POST, NAMESPACES, &headers, body)
            .unwrap();
        let call = tokio::spawn(async move { client.send(request).await.map(|r| r.status()) });
        sender
            .send(Ok(Bytes::from(first_half("half"))))
            .await
            .unwrap();
        setup.arrived(setup.local(), NAMESPACES, 2).await;
        sender
            .send(Err(std::io::Error::other("the disk failed")))
            .await
            .unwrap();
        assert!(call.await.unwrap().is_err());
        setup.all_ended().await;
        assert!(!setup.namespace_exists("half").await);
        setup.servers_are_not_blamed().await;
    }
}

#[tokio::test]
async fn an_upload_cancelled_half_way_over_http1_creates_nothing() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        let half = first_half("half");
        let length = (half.len() * 2).to_string();
        let chunk = format!("{:x}\r\n{half}\r\n", half.len());
        let length = [("content-length", length.as_str())];
        let chunked = [("transfer-encoding", "chunked")];
        let cases = [
            (&length, half.as_str(), ""),
            (&chunked, chunk.as_str(), ""),
            // No close: chunks that make no sense. Health must not suffer, however many there are.
            (&chunked, chunk.as_str(), "zzz\r\n"),
            (&chunked, chunk.as_str(), "zzz\r\n"),
        ];
        for (at, (framing, first, second)) in cases.iter().enumerate() {
            let mut raw = setup.raw().await;
            let mut headers = vec![("content-type", "application/json")];
            headers.extend_from_slice(*framing);
            raw.send("POST", NAMESPACES, &headers).await.unwrap();
            raw.stream.write_all(first.as_bytes()).await.unwrap();
            raw.stream.flush().await.unwrap();
            setup.arrived(setup.local(), NAMESPACES, at + 1).await;
            raw.stream.write_all(second.as_bytes()).await.unwrap();
            raw.stream.flush().await.unwrap();
            if second.is_empty() {
                drop(raw);
            } else {
                let (status, _) = raw.head().await.unwrap();
                assert_eq!(status, 400);
            }
            setup.all_ended().await;
            assert!(!setup.namespace_exists("half").await, "case {at}");
        }
        setup.servers_are_not_blamed().await;
    }
}

#[tokio::test]
async fn an_answer_the_server_breaks_off_breaks_off_at_the_client() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        let client = setup.http2().await;
        let target = format!("{SERVICE}/breaks");
        for version in [2, 1] {
            let client = match version {
                2 => setup.http2().await,
                _ => setup.agent.http1(&setup.plane, setup.auth()).await.unwrap(),
            };
            let (sender, upload) = piecemeal();
            let request = client.request(Method::POST, &target, &[], upload).unwrap();
            sender.send(Ok(Bytes::from_static(b"go"))).await.unwrap();
            let mut body = client.send(request).await.unwrap().into_body();
            let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, "so far\n");
            drop(sender);
            let end = tokio::time::timeout(LIMIT, body.frame())
                .await
                .expect("the end is seen");
            assert!(
                matches!(end, Some(Err(_))),
                "HTTP/{version}: a broken answer looks whole: {end:?}"
            );
        }
        setup.all_ended().await;
        // One stream, not the connection.
        assert_eq!(client.get("/version", &[]).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_server_killed_in_mid_answer_breaks_the_answer() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        let client = setup.http2().await;
        let request = client.request(Method::GET, DOWNLOAD, &[], empty()).unwrap();
        let mut body = client.send(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        setup.local().kill().await;
        let broke = async {
            loop {
                match body.frame().await {
                    Some(Ok(_)) => {}
                    Some(Err(_)) => return true,
                    None => return false,
                }
            }
        };
        assert!(
            tokio::time::timeout(LIMIT, broke)
                .await
                .expect("the end is seen"),
            "a broken answer looks whole"
        );
        // The client's own connection goes on, with the peer.
        assert_eq!(client.get(NAMESPACES, &[]).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_closed_connection_ends_all_its_streams() {
    for http1 in UPSTREAMS {
        let setup = Setup::new(http1).await;
        let tls = setup.plane.pki().client_config(setup.auth(), &[]).unwrap();
        let address = setup.agent.address;
        // A runtime of its own: with it the connection goes, and none of its streams is ended first.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let opened = runtime.spawn(async move {
            let client = Client::http2(address, &tls.into()).await.unwrap();
            let mut bodies = Vec::new();
            for at in 0..50 {
                let target = [WATCH, DOWNLOAD][at % 2];
                let request = client.request(Method::GET, target, &[], empty()).unwrap();
                let response = client.send(request).await.unwrap();
                assert_eq!(response.status(), 200);
                bodies.push(response.into_body());
            }
            (client, bodies)
        });
        let (client, bodies) = opened.await.unwrap();
        assert!(setup.peer().streams() >= 25);
        assert!(setup.local().streams() >= 25);
        runtime.shutdown_background();
        setup.all_ended().await;
        drop((client, bodies));
        eventually("the client's connection is gone", LIMIT, || async {
            Ok(setup.agent.metric("mvp_client_connections_open").await? == 0.0)
        })
        .await
        .unwrap();
        setup.servers_are_not_blamed().await;
    }
}
