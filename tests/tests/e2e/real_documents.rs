//! What running kube-apiservers answered, behind an agent. The documents are no part of a checkout; without them there is
//! nothing to check.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Response, header};
use mvp_tests::agent::TestAgent;
use mvp_tests::client::{Answer, Client, full};
use mvp_tests::facts::{self, V2};
use mvp_tests::fixtures::admin;
use mvp_tests::scripted::Scripted;
use mvp_tests::sim::{ControlPlane, ServerSpec};
use sha2::{Digest, Sha512};

/// The documents of one release: both roots, aggregated (with its headers) and not.
#[derive(Clone)]
struct Real {
    roots: [Root; 2],
}

#[derive(Clone)]
struct Root {
    aggregated: Bytes,
    etag: String,
    plain: Bytes,
}

impl Real {
    fn read(release: &str) -> Option<Self> {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/discovery/running");
        let root = |name: &str| {
            let file =
                |suffix: &str| fs::read(folder.join(format!("{release}-{name}{suffix}"))).ok();
            let headers = String::from_utf8(file(".headers")?).ok()?;
            let etag = headers.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("etag")
                    .then(|| value.trim().to_owned())
            });
            Some(Root {
                aggregated: file(".json")?.into(),
                etag: etag?,
                plain: file("-unaggregated.json")?.into(),
            })
        };
        let roots = [root("api")?, root("apis")?];
        Some(Self { roots })
    }

    fn root(&self, path: &str) -> &Root {
        match path {
            "/api" => &self.roots[0],
            _ => &self.roots[1],
        }
    }

    async fn serve(self, plane: &ControlPlane) -> Scripted {
        let answers = move |request: &http::Request<_>| {
            let root = self.root(match request.uri().path() {
                path @ ("/api" | "/apis") => path,
                _ => return None,
            });
            let header = |name| request.headers().get(name).and_then(|v| v.to_str().ok());
            let aggregated = header(header::ACCEPT).is_some_and(|accept| accept.contains("v=v2;"));
            let response = Response::builder();
            let response = match aggregated {
                true if header(header::IF_NONE_MATCH) == Some(&root.etag) => {
                    let response = response.status(304).header("etag", &root.etag);
                    return response.body(full("")).ok();
                }
                true => response
                    .header("content-type", V2)
                    .header("etag", &root.etag)
                    .header("vary", "Accept")
                    .header("cache-control", "public")
                    .body(full(root.aggregated.clone())),
                false => response
                    .header("content-type", "application/json")
                    .body(full(root.plain.clone())),
            };
            response.ok()
        };
        Scripted::of_documents(plane.pki(), answers).await.unwrap()
    }
}

/// An agent before servers of these releases, the first of them local, and a client.
async fn before(releases: &[Real]) -> (ControlPlane, Vec<Scripted>, TestAgent, Client) {
    // For its keys only.
    let plane = ControlPlane::builder()
        .server(ServerSpec::new("cp-a", 36))
        .start()
        .await
        .unwrap();
    let mut servers = Vec::new();
    for release in releases {
        servers.push(release.clone().serve(&plane).await);
    }
    let mut endpoints: Vec<_> = servers
        .iter()
        .enumerate()
        .map(|(number, server)| server.endpoint(&format!("cp-{number}")))
        .collect();
    let agent = TestAgent::start_with(&plane, "cp-a", |config| {
        config.local = endpoints.remove(0);
        config.peers.fixed = endpoints;
    })
    .await
    .unwrap();
    let client = agent.http2(&plane, admin(&plane)).await.unwrap();
    (plane, servers, agent, client)
}

fn absent() -> bool {
    eprintln!("skipped: ../shared/discovery/running is not there");
    assert!(Real::read("v1.36.3").is_none());
    true
}

fn text<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer
        .headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_server_alone_is_passed_on_byte_for_byte() {
    for release in ["v1.33.13", "v1.35.6", "v1.36.3", "v1.36.3-api-all"] {
        let Some(real) = Real::read(release) else {
            assert!(absent());
            return;
        };
        // Alone, and with another that says the same.
        for count in [1, 2] {
            let (_plane, _servers, _agent, client) = before(&vec![real.clone(); count]).await;
            for path in ["/api", "/apis"] {
                let root = real.root(path);
                let answer = client.get(path, &[("accept", V2)]).await.unwrap();
                assert_eq!(answer.body, root.aggregated, "{release} {path}");
                assert_eq!(text(&answer, "etag"), root.etag, "{release} {path}");
                let known = [("accept", V2), ("if-none-match", root.etag.as_str())];
                assert_eq!(client.get(path, &known).await.unwrap().status, 304);
                let plain = client.get(path, &[]).await.unwrap();
                assert_eq!(plain.body, root.plain, "{release} {path}");
            }
        }
    }
}

/// The rule of `etag.go`, without any code of the agent's: the list on one line, without kind and apiVersion. The documents were
/// recorded with curl, which gets them indented.
fn etag_of(body: &Bytes) -> String {
    let (mut quoted, mut escaped) = (false, false);
    let mut line = std::str::from_utf8(body).unwrap().to_owned();
    line.retain(|c| {
        let keep = quoted || !c.is_whitespace();
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        keep
    });
    let start = r#"{"kind":"APIGroupDiscoveryList","apiVersion":"apidiscovery.k8s.io/v2","#;
    let rest = line.strip_prefix(start).expect("a list");
    let hash = Sha512::digest(format!("{{{rest}").as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("\"{hex}\"")
}

#[tokio::test]
async fn merged_lists_have_the_etag_that_the_rule_gives() {
    for releases in [["v1.33.13", "v1.36.3"], ["v1.36.3-api-all", "v1.35.6"]] {
        let read: Option<Vec<_>> = releases.iter().map(|release| Real::read(release)).collect();
        let Some(real) = read else {
            assert!(absent());
            return;
        };
        let (_plane, _servers, _agent, client) = before(&real).await;
        let merged = client.get("/apis", &[("accept", V2)]).await.unwrap();
        assert_eq!(text(&merged, "etag"), etag_of(&merged.body), "{releases:?}");
        // The rule itself, on what a server made.
        let single = &Real::read("v1.36.3").unwrap().roots[1];
        assert_eq!(etag_of(&single.aggregated), single.etag);
        let said = facts::of(&merged).unwrap();
        for real in &real {
            let document = serde_json::from_slice(&real.roots[1].aggregated).unwrap();
            let theirs = facts::facts(&document).unwrap();
            let lost: Vec<_> = theirs.difference(&said).take(3).collect();
            assert!(lost.is_empty(), "{releases:?}: {lost:?}");
        }
    }
}
