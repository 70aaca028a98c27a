//! One view of discovery: whichever agent is asked, and in whichever form, the answer is that of the whole control plane.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::{Method, header};
use mvp_tests::agent::eventually;
use mvp_tests::client::{Answer, Client, empty};
use mvp_tests::facts::{self, Facts, PROTOBUF, V2, V2BETA1, assert_well_formed};
use mvp_tests::fixtures::{DEFINITIONS, SOON, admin, definition, spec};
use mvp_tests::fleet::Fleet;
use mvp_tests::sim::ServerSpec;
use mvp_tests::sim::pki::ClientAuth;
use serde_json::{Value, json};

/// Only 1.36 has it by default.
const NEW: &str = "admissionregistration.k8s.io/v1 mutatingadmissionpolicies list";

/// 1.35 and 1.36 as they are without flags.
async fn mixed() -> Fleet {
    Fleet::start([spec(b'a', 35), spec(b'b', 36)]).await
}

/// With all APIs and feature gates, each has group versions, resources and subresources that the other has not.
async fn all_apis(minors: [u8; 2]) -> Fleet {
    let specs: [ServerSpec; 2] = [spec(b'a', minors[0]), spec(b'b', minors[1])];
    Fleet::start(specs.map(ServerSpec::all_gates)).await
}

fn text<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn document(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    facts::document(&answer.headers, &answer.body).unwrap()
}

async fn head(client: &Client, target: &str, headers: &[(&str, &str)]) -> Answer {
    client
        .call(Method::HEAD, target, headers, empty())
        .await
        .unwrap()
}

/// Every agent says the same, which is what all servers together say.
async fn assert_union(fleet: &Fleet, target: &str, headers: &[(&str, &str)]) -> Facts {
    let union = fleet.union(target, headers).await.unwrap();
    let answers = fleet.ask_agents(target, headers).await.unwrap();
    for (answer, agent) in answers.iter().zip(fleet.plane.servers()) {
        let said = facts::of(answer).unwrap();
        let missing: Vec<_> = union.difference(&said).take(5).collect();
        let invented: Vec<_> = said.difference(&union).take(5).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "{target} {headers:?} through {}: missing {missing:?}, invented {invented:?}",
            agent.name()
        );
        assert_eq!(
            answer.body,
            answers[0].body,
            "{target} {headers:?} through {}",
            agent.name()
        );
        assert_eq!(text(answer, "etag"), text(&answers[0], "etag"), "{target}");
    }
    union
}

#[tokio::test]
async fn aggregated_discovery_is_the_union_down_to_verbs_and_subresources() {
    for minors in [[34, 36], [35, 36], [36, 35]] {
        let fleet = all_apis(minors).await;
        for path in ["/api", "/apis"] {
            let union = assert_union(&fleet, path, &[("accept", V2)]).await;
            let answers = fleet.ask_agents(path, &[("accept", V2)]).await.unwrap();
            for answer in &answers {
                assert_well_formed(&document(answer));
                assert_eq!(text(answer, "content-type"), V2);
                assert_eq!(text(answer, "cache-control"), "public");
                assert_eq!(text(answer, "vary"), "Accept");
                let etag = text(answer, "etag");
                assert!(
                    etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2,
                    "{etag}"
                );
            }
            if path == "/apis" {
                let only_old = match minors.contains(&34) {
                    true => "storage.k8s.io/v1alpha1 volumeattributesclasses list",
                    false => "scheduling.k8s.io/v1alpha1 workloads list",
                };
                for fact in [
                    NEW,
                    only_old,
                    "resource.k8s.io/v1alpha3 devicetaintrules/status patch",
                ] {
                    assert!(union.contains(fact), "{minors:?}: {fact}");
                }
            }
        }
    }
}

#[tokio::test]
async fn old_servers_merge_in_the_beta_form() {
    let fleet = all_apis([31, 32]).await;
    for path in ["/api", "/apis"] {
        let accept = [("accept", V2BETA1)];
        assert_union(&fleet, path, &accept).await;
        for answer in fleet.ask_agents(path, &accept).await.unwrap() {
            assert_eq!(text(&answer, "content-type"), V2BETA1);
            assert_eq!(
                document(&answer)["apiVersion"],
                "apidiscovery.k8s.io/v2beta1"
            );
            assert_well_formed(&document(&answer));
        }
    }
}

#[tokio::test]
async fn conditional_requests_know_the_merged_document_and_no_other() {
    let fleet = mixed().await;
    let local = fleet.servers[0]
        .get("/apis", &[("accept", V2)])
        .await
        .unwrap();
    let merged = fleet.clients[0]
        .get("/apis", &[("accept", V2)])
        .await
        .unwrap();
    assert!(facts::of(&merged).unwrap().contains(NEW));
    let etag = text(&merged, "etag");
    let http1 = fleet.agents[0]
        .http1(&fleet.plane, admin(&fleet.plane))
        .await
        .unwrap();
    for client in fleet.clients.iter().chain([&http1]) {
        let ask = |known: String| async move {
            let headers = [("accept", V2), ("if-none-match", known.as_str())];
            client.get("/apis", &headers).await.unwrap()
        };
        let unchanged = ask(etag.to_owned()).await;
        assert_eq!((unchanged.status.as_u16(), unchanged.body.len()), (304, 0));
        for name in ["etag", "vary", "cache-control"] {
            assert_eq!(text(&unchanged, name), text(&merged, name), "{name}");
        }
        // A client that knows the document of a server does not know this one; and the value is compared as it is.
        let weak = format!("W/{etag}");
        let list = format!("{etag}, {etag}");
        let bare = etag.trim_matches('"').to_owned();
        for known in [
            text(&local, "etag").to_owned(),
            weak,
            list,
            bare,
            "*".to_owned(),
        ] {
            let answer = ask(known.clone()).await;
            assert_eq!(answer.status, 200, "{known}");
            assert_eq!((&answer.body, text(&answer, "etag")), (&merged.body, etag));
        }
        let only_head = head(client, "/apis", &[("accept", V2)]).await;
        assert_eq!((only_head.status.as_u16(), only_head.body.len()), (200, 0));
        for name in ["etag", "vary", "cache-control", "content-type"] {
            assert_eq!(text(&only_head, name), text(&merged, name), "{name}");
        }
        let known = [("accept", V2), ("if-none-match", etag)];
        assert_eq!(head(client, "/apis", &known).await.status, 304);
    }
}

#[tokio::test]
async fn nopeer_is_the_local_document_and_other_profiles_are_merged() {
    let fleet = mixed().await;
    for profile in [
        "profile=other",
        "profile=",
        "profile=nopeers",
        "unknown=nopeer",
    ] {
        let accept = format!("{V2};{profile}");
        let union = assert_union(&fleet, "/apis", &[("accept", &accept)]).await;
        assert!(union.contains(NEW), "{profile}");
    }
    let spaced = V2.replace(';', " ; ");
    for accept in [
        format!("{V2};profile=nopeer"),
        format!("{spaced} ; profile=nopeer"),
        V2.replace(";g=", ";profile=nopeer;g="),
        format!("{V2};profile=nopeer,application/json"),
    ] {
        for path in ["/api", "/apis"] {
            let asked = [("accept", accept.as_str())];
            let servers = fleet.ask_servers(path, &asked).await.unwrap();
            let agents = fleet.ask_agents(path, &asked).await.unwrap();
            for (through, direct) in agents.iter().zip(&servers) {
                assert_eq!(through.body, direct.body, "{accept}");
                assert_eq!(text(through, "etag"), text(direct, "etag"), "{accept}");
            }
        }
    }
}

/// Whatever is asked for, the local server decides in which form it is answered, and whether at all.
#[tokio::test]
async fn negotiation_is_that_of_the_local_server() {
    let fleet = mixed().await;
    let protobuf = V2.replace("application/json", PROTOBUF);
    let accepts = [
        String::new(),
        "application/json".into(),
        "*/*".into(),
        "application/*".into(),
        "application/yaml".into(),
        PROTOBUF.into(),
        protobuf.clone(),
        V2.replace("json", "yaml"),
        V2.replace("json", "*"),
        V2.to_uppercase(),
        // Among clauses of equal quality the first is taken, but a range comes last.
        format!("{V2},application/json"),
        format!("application/json,{V2}"),
        format!("*/*,{V2}"),
        format!("{V2},{V2BETA1},application/json"),
        format!("{V2};profile=nopeer,{V2},application/json").replacen(
            ";profile=nopeer",
            ";profile=else",
            1,
        ),
        format!("{V2};q=0.1,application/json;q=0.9"),
        format!("application/json;q=0.1,{V2};q=0.2"),
        format!("{protobuf};q=0.9,{V2};q=0.8,*/*;q=0.1"),
        format!("{protobuf},{V2}"),
        "application/json; as=APIGroupDiscoveryList ;v=v2; g=apidiscovery.k8s.io".into(),
        "application/json;v=v2;charset=utf-8;as=APIGroupDiscoveryList;g=apidiscovery.k8s.io".into(),
        format!("text/html, {V2}"),
        // Not acceptable, or half of a kind.
        V2BETA1.into(),
        format!("{V2BETA1},application/json"),
        "application/json;v=v2".into(),
        V2.replace("v=v2", "v=v3"),
        format!("{V2};stream=watch"),
        "text/html".into(),
        "application/cbor".into(),
        "garbage".into(),
        ",,;;".into(),
    ];
    let mut answered = 0;
    for path in [
        "/apis",
        "/apis/",
        "/api",
        "/apis/admissionregistration.k8s.io/v1",
    ] {
        for accept in &accepts {
            let asked = [("accept", accept.as_str())];
            let servers = fleet.ask_servers(path, &asked).await.unwrap();
            let agents = fleet.ask_agents(path, &asked).await.unwrap();
            for (through, direct) in agents.iter().zip(&servers) {
                let what = format!("{path} with {accept:?}");
                assert_eq!(through.status, direct.status, "{what}");
                assert_eq!(
                    text(through, "content-type"),
                    text(direct, "content-type"),
                    "{what}"
                );
                if through.status == 200 {
                    let said = facts::of(through).unwrap();
                    assert_eq!(said, fleet.union(path, &asked).await.unwrap(), "{what}");
                    answered += 1;
                } else {
                    assert_eq!(through.body, direct.body, "{what}");
                }
            }
        }
    }
    assert!(answered > 100, "{answered}");
}

#[tokio::test]
async fn every_encoding_has_the_same_document_and_etag() {
    let fleet = all_apis([35, 36]).await;
    let protobuf = V2.replace("application/json", PROTOBUF);
    let yaml = V2.replace("json", "yaml");
    let mut documents = Vec::new();
    for accept in [V2, &protobuf, &yaml] {
        let asked = [("accept", accept)];
        for answer in fleet.ask_agents("/apis", &asked).await.unwrap() {
            assert_eq!(text(&answer, "content-type"), accept);
            documents.push((document(&answer), text(&answer, "etag").to_owned()));
        }
    }
    assert!(facts::facts(&documents[0].0).unwrap().contains(NEW));
    for other in &documents {
        assert_eq!(other, &documents[0]);
    }
    // People get lines and spaces.
    for (target, agent) in [
        ("/apis?pretty=true", "test"),
        ("/apis", "curl/8.5.0"),
        ("/apis", "Mozilla/5.0"),
    ] {
        let asked = [("accept", V2), ("user-agent", agent)];
        for answer in fleet.ask_agents(target, &asked).await.unwrap() {
            assert!(
                answer
                    .body
                    .starts_with(b"{\n  \"kind\": \"APIGroupDiscoveryList\",\n"),
                "{target} {agent}"
            );
            assert_eq!(
                (document(&answer), text(&answer, "etag").to_owned()),
                documents[0]
            );
        }
    }
}

#[tokio::test]
async fn large_documents_are_compressed_for_those_who_accept_it() {
    let fleet = mixed().await;
    // So many versions of one resource that the document is above the threshold of 128 KiB.
    let mut many = definition(
        "many.example",
        "things",
        "Thing",
        json!({"status": {}, "scale": {}}),
    );
    let version = many["spec"]["versions"][0].clone();
    let versions = (1..=400).map(|number| {
        let mut version = version.clone();
        version["name"] = json!(format!("v{number}"));
        version["storage"] = json!(number == 1);
        version
    });
    many["spec"]["versions"] = versions.collect();
    let made = fleet.clients[0]
        .post_json(DEFINITIONS, &[], &many)
        .await
        .unwrap();
    assert_eq!(made.status, 201);
    let target = "/apis";
    eventually("all agents have all versions", SOON, || async {
        let answers = fleet.ask_agents(target, &[("accept", V2)]).await?;
        let facts: Result<Vec<Facts>, _> = answers.iter().map(facts::of).collect();
        Ok(facts?
            .iter()
            .all(|facts| facts.contains("many.example/v1") && facts.contains("many.example/v400")))
    })
    .await
    .unwrap();
    let plain = fleet.clients[0]
        .get(target, &[("accept", V2)])
        .await
        .unwrap();
    assert!(plain.body.len() > 128 * 1024, "{}", plain.body.len());
    assert!(facts::of(&plain).unwrap().contains(NEW));
    for coding in ["gzip", "br, gzip"] {
        let asked = [("accept", V2), ("accept-encoding", coding)];
        for answer in fleet.ask_agents(target, &asked).await.unwrap() {
            assert_eq!(text(&answer, "content-encoding"), "gzip");
            let vary = answer.headers.get_all(header::VARY).iter();
            let vary: Vec<&str> = vary.map(|value| value.to_str().unwrap()).collect();
            assert_eq!(vary.join(", "), "Accept, Accept-Encoding");
            assert_eq!(document(&answer), document(&plain));
            assert_eq!(text(&answer, "etag"), text(&plain, "etag"));
        }
    }
    for (target, coding) in [(target, "identity"), ("/api", "gzip")] {
        let asked = [("accept", V2), ("accept-encoding", coding)];
        for answer in fleet.ask_agents(target, &asked).await.unwrap() {
            assert_eq!(text(&answer, "content-encoding"), "", "{target} {coding}");
            document(&answer);
        }
    }
}

const HITS: &str = "aggregator_discovery_peer_aggregated_cache_hits_total";
const MISSES: &str = "aggregator_discovery_peer_aggregated_cache_misses_total";
const NOPEER: &str = "aggregator_discovery_nopeer_requests_total";

/// The native metrics, by what clients got: an answer from the view, a merged document, a server's own document on request.
#[tokio::test]
async fn what_is_merged_is_counted() {
    let fleet = mixed().await;
    let (agent, client) = (&fleet.agents[0], &fleet.clients[0]);
    // Only `/apis` differs, so one document is merged.
    eventually("one merge", SOON, || async {
        Ok(agent.metric(MISSES).await? == 1.0)
    })
    .await
    .unwrap();
    assert_eq!(agent.metric(HITS).await.unwrap(), 0.0);
    let nopeer = format!("{V2};profile=nopeer");
    let etag = client.get("/apis", &[("accept", V2)]).await.unwrap();
    let etag = text(&etag, "etag").to_owned();
    for (target, headers, hits, nopeers) in [
        (
            "/apis",
            vec![("accept", V2), ("if-none-match", &etag)],
            1,
            0,
        ),
        ("/apis", vec![], 1, 0),
        ("/apis/admissionregistration.k8s.io/v1", vec![], 1, 0),
        ("/apis", vec![("accept", nopeer.as_str())], 0, 1),
        ("/api", vec![("accept", nopeer.as_str())], 0, 1),
        // For these, the server's own answer is everybody's.
        ("/api", vec![("accept", V2)], 0, 0),
        ("/apis/apps/v1", vec![], 0, 0),
        ("/apis", vec![("accept", "text/html")], 0, 0),
    ] {
        let before = [
            agent.metric(HITS).await.unwrap(),
            agent.metric(NOPEER).await.unwrap(),
        ];
        client.get(target, &headers).await.unwrap();
        let after = [
            agent.metric(HITS).await.unwrap(),
            agent.metric(NOPEER).await.unwrap(),
        ];
        assert_eq!(
            after,
            [before[0] + f64::from(hits), before[1] + f64::from(nopeers)],
            "{target} {headers:?}"
        );
    }
    // Strangers are answered from nothing.
    let hits = agent.metric(HITS).await.unwrap();
    let stranger = agent.http2(&fleet.plane, ClientAuth::None).await.unwrap();
    assert!(
        stranger
            .get("/apis", &[("accept", V2)])
            .await
            .unwrap()
            .status
            .is_client_error()
    );
    assert_eq!(agent.metric(HITS).await.unwrap(), hits);
}
