//! Discovery of simulated kube-apiservers in its other encodings: protobuf, and compressed.
#![allow(clippy::unwrap_used)]

use std::io::Read;

use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue};
use mvp_tests::facts::{self, PROTOBUF};
use mvp_tests::fixtures::{CONFIG_MAPS, config_map, definition, direct, plane};
use mvp_tests::sim::discovery::{self, Answer};
use mvp_tests::sim::surface::{Surface, surface};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const KIND: &str = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const KIND_BETA: &str = "g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

#[test]
fn aggregated_protobuf_says_what_json_says() {
    for (minor, path, kind, version) in [
        (36, "/apis", KIND, "v2"),
        (36, "/api", KIND, "v2"),
        (32, "/apis", KIND_BETA, "v2beta1"),
    ] {
        let surface = surface(minor, true);
        let json = get(&surface, path, &[("accept", &format!("{JSON};{kind}"))]);
        let answer = get(&surface, path, &[("accept", &format!("{PROTOBUF};{kind}"))]);
        assert_eq!(
            header(&answer, "Content-Type"),
            format!("{PROTOBUF};g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
        );
        // One ETag for every encoding.
        assert_eq!(header(&answer, "ETag"), header(&json, "ETag"));
        // Without the null that old servers write, which protobuf does not know.
        let mut expected = document(&json);
        for item in expected["items"].as_array_mut().unwrap() {
            let metadata = item["metadata"].as_object_mut().unwrap();
            metadata.remove("creationTimestamp");
        }
        assert_eq!(document(&answer), expected, "1.{minor} {path}");
    }
}

#[test]
fn legacy_protobuf_says_what_json_says() {
    let widgets = definition("test.example", "widgets", "Widget", json!({"status": {}}));
    let surface = surface(36, true).with_custom(&[widgets]);
    for path in [
        "/api",
        "/apis",
        "/apis/",
        "/apis/autoscaling",
        "/api/v1",
        "/apis/apps/v1",
        "/apis/apps/v1/",
        "/apis/test.example/v1",
    ] {
        let answer = get(&surface, path, &[("accept", PROTOBUF)]);
        assert_eq!(header(&answer, "Content-Type"), PROTOBUF);
        let json = get(&surface, path, &[("accept", JSON)]);
        assert_eq!(document(&answer), document(&json), "{path}");
    }
}

#[test]
fn large_bodies_are_compressed_for_clients_that_name_gzip() {
    let large = large();
    let accept = format!("{JSON};{KIND}");
    let asked = |coding| [("accept", accept.as_str()), ("accept-encoding", coding)];
    let plain = get(&large, "/apis", &[("accept", &accept)]);
    assert!(plain.body.len() > 128 * 1024);
    assert_eq!(all(&plain, "Vary"), ["Accept"]);
    for coding in ["gzip", "deflate, gzip", " gzip ,br"] {
        let answer = get(&large, "/apis", &asked(coding));
        assert_eq!(header(&answer, "Content-Encoding"), "gzip", "{coding}");
        assert_eq!(all(&answer, "Vary"), ["Accept", "Accept-Encoding"]);
        assert_eq!(header(&answer, "ETag"), header(&plain, "ETag"));
        assert_eq!(unpacked(&answer), plain.body);
    }
    // kube-apiserver knows the bare word only.
    for coding in ["identity", "gzip;q=1.0", "x-gzip", "*"] {
        let answer = get(&large, "/apis", &asked(coding));
        assert_eq!(
            (all(&answer, "Content-Encoding").len(), answer.body),
            (0, plain.body.clone()),
            "{coding}"
        );
    }
    // Small ones are not worth it, and nothing has no encoding.
    let small = get(&surface(36, false), "/api", &asked("gzip"));
    assert!(all(&small, "Content-Encoding").is_empty());
    let etag = header(&plain, "ETag");
    let known = [
        ("accept", accept.as_str()),
        ("accept-encoding", "gzip"),
        ("if-none-match", etag.as_str()),
    ];
    let unchanged = get(&large, "/apis", &known);
    assert_eq!(
        (unchanged.status, all(&unchanged, "Content-Encoding").len()),
        (304, 0)
    );
    // Legacy documents have no other Vary.
    let legacy = get(
        &large,
        "/apis/many.example/v1",
        &[("accept-encoding", "gzip")],
    );
    assert_eq!(all(&legacy, "Vary"), ["Accept-Encoding"]);
}

#[test]
fn openapi_v2_is_compressed_and_v3_is_not() {
    let surface = surface(36, false);
    let plain = get(&surface, "/openapi/v2", &[]);
    assert_eq!(all(&plain, "Vary"), ["Accept", "Accept-Encoding"]);
    for coding in ["gzip", "gzip;q=0.5", "br, GZIP"] {
        let answer = get(&surface, "/openapi/v2", &[("accept-encoding", coding)]);
        assert_eq!(header(&answer, "Content-Encoding"), "gzip", "{coding}");
        assert_eq!(unpacked(&answer), plain.body);
    }
    let refused = get(&surface, "/openapi/v2", &[("accept-encoding", "gzip;q=0")]);
    assert!(all(&refused, "Content-Encoding").is_empty());
    for path in ["/openapi/v3", "/openapi/v3/apis/apps/v1"] {
        let answer = get(&surface, path, &[("accept-encoding", "gzip")]);
        assert!(all(&answer, "Content-Encoding").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn large_objects_and_lists_are_compressed_too() {
    let plane = plane(&[36]).await;
    let admin = direct(&plane, plane.server(0)).await;
    let mut large = config_map("large");
    large["data"]["k"] = json!("v".repeat(200 * 1024));
    let target = format!("{CONFIG_MAPS}/large");
    let made = admin.post_json(CONFIG_MAPS, &[], &large).await.unwrap();
    assert_eq!(made.status, 201);
    for target in [CONFIG_MAPS, target.as_str()] {
        let plain = admin.get(target, &[]).await.unwrap();
        assert!(!plain.headers.contains_key("content-encoding"));
        let asked = [("accept-encoding", "gzip")];
        let packed = admin.get(target, &asked).await.unwrap();
        assert_eq!(packed.headers["content-encoding"], "gzip");
        assert_eq!(packed.headers["vary"], "Accept-Encoding");
        assert!(packed.body.len() < plain.body.len());
        let document = facts::document(&packed.headers, &packed.body).unwrap();
        assert_eq!(document, plain.json());
    }
}

/// A surface whose documents are above the threshold, the legacy one of a single group version too.
fn large() -> Surface {
    let definitions: Vec<Value> = (0..1000)
        .map(|number| {
            let (plural, kind) = (format!("things{number:04}"), format!("Thing{number:04}"));
            definition("many.example", &plural, &kind, json!({"status": {}}))
        })
        .collect();
    surface(36, false).with_custom(&definitions)
}

/// In the shape of its JSON.
fn document(answer: &Answer) -> Value {
    let headers = answer.headers.iter();
    let headers =
        headers.map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
    facts::document(&headers.collect(), &answer.body).unwrap()
}

fn get(surface: &Surface, path: &str, headers: &[(&str, &str)]) -> Answer {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        })
        .collect();
    discovery::answer(surface, "192.0.2.1:6443", "GET", path, "", &headers).unwrap()
}

fn all<'a>(answer: &'a Answer, name: &str) -> Vec<&'a str> {
    let found = answer.headers.iter().filter(|header| header.0 == name);
    found.map(|header| header.1.as_str()).collect()
}

fn header(answer: &Answer, name: &str) -> String {
    all(answer, name)
        .first()
        .copied()
        .unwrap_or_default()
        .to_owned()
}

fn unpacked(answer: &Answer) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(&answer.body[..])
        .read_to_end(&mut plain)
        .unwrap();
    plain
}
