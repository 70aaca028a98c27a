//! While servers agree, a whole document is not sent by the local server again: it confirms that what the agent has is still what it has,
//! and everything else about the answer is as if it had sent it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY};
use mvp_tests::agent::eventually;
use mvp_tests::client::{Answer, Client};
use mvp_tests::facts::{PROTOBUF, V2};
use mvp_tests::fixtures::{DEFINITIONS, SOON, definition, spec};
use mvp_tests::fleet::Fleet;
use serde_json::json;

/// The `If-None-Match` of each request for a path that the server has had, without those that agents make for themselves.
fn conditions(fleet: &Fleet, path: &str) -> Vec<Option<String>> {
    let requests = fleet.plane.server(0).requests();
    let of_clients = requests
        .iter()
        .filter(|request| request.target == path && request.headers.contains_key(MARK));
    let conditions = of_clients.map(|request| {
        let value = request.headers.get("if-none-match")?;
        Some(value.to_str().unwrap().to_owned())
    });
    conditions.collect()
}

/// Tells the requests of this test's clients.
const MARK: &str = "x-test";

async fn ask(client: &Client, path: &str, more: &[(&str, &str)]) -> Answer {
    let headers = [&[("accept", V2), (MARK, "yes")], more].concat();
    client.get(path, &headers).await.unwrap()
}

#[tokio::test]
async fn a_document_is_confirmed_instead_of_sent_and_is_the_server_s_own() {
    let fleet = Fleet::start([spec(b'a', 36), spec(b'b', 36)]).await;
    let server = &fleet.servers[0];
    let through = &fleet.clients[0];
    for path in ["/apis", "/api"] {
        let own = ask(server, path, &[]).await;
        let etag = own.headers[ETAG].to_str().unwrap().to_owned();
        let before = conditions(&fleet, path).len();
        let answer = ask(through, path, &[]).await;
        let seen = conditions(&fleet, path).split_off(before);
        assert_eq!(seen, [Some(etag)], "{path}: one request, conditional");
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.body, own.body, "{path}");
        for name in [
            CONTENT_TYPE,
            CONTENT_LENGTH,
            ETAG,
            VARY,
            CACHE_CONTROL,
            CONTENT_ENCODING,
        ] {
            assert_eq!(
                answer.headers.get(&name),
                own.headers.get(&name),
                "{path}: {name}"
            );
        }
    }
}

#[tokio::test]
async fn what_differs_from_the_kept_form_is_asked_for_as_it_is() {
    let fleet = Fleet::start([spec(b'a', 36), spec(b'b', 36)]).await;
    let server = &fleet.servers[0];
    let through = &fleet.clients[0];
    let known = ask(server, "/apis", &[]).await.headers[ETAG].clone();
    let known = known.to_str().unwrap();
    for (path, more, status, condition) in [
        ("/apis", vec![("if-none-match", known)], 304, Some(known)),
        (
            "/apis",
            vec![("if-none-match", "\"other\"")],
            200,
            Some("\"other\""),
        ),
        ("/apis?pretty=true", vec![], 200, None),
        ("/apis", vec![("accept", PROTOBUF)], 200, None),
        ("/apis", vec![("accept", "application/json")], 200, None),
        ("/apis/", vec![], 406, None),
    ] {
        let mut headers = vec![(MARK, "yes")];
        if !more.iter().any(|(name, _)| *name == "accept") {
            headers.push(("accept", V2));
        }
        headers.extend(more);
        let before = conditions(&fleet, path).len();
        let answer = through.get(path, &headers).await.unwrap();
        let seen = conditions(&fleet, path).split_off(before);
        assert_eq!(seen, [condition.map(str::to_owned)], "{path} {headers:?}");
        assert_eq!(answer.status, status, "{path} {headers:?}");
        let own = server.get(path, &headers).await.unwrap();
        assert_eq!(answer.body, own.body, "{path} {headers:?}");
    }
}

#[tokio::test]
async fn a_document_that_changed_is_the_new_one_at_once() {
    let fleet = Fleet::start([spec(b'a', 36), spec(b'b', 36)]).await;
    let server = &fleet.servers[0];
    let through = &fleet.clients[0];
    for number in 0..5 {
        let group = format!("g{number}.confirmed.example");
        let object = definition(&group, "things", "Thing", json!({}));
        assert_eq!(
            server
                .post_json(DEFINITIONS, &[], &object)
                .await
                .unwrap()
                .status,
            201
        );
        let holds = |answer: &Answer| {
            let text = String::from_utf8_lossy(&answer.body);
            text.contains(&group)
        };
        eventually("the server lists it", SOON, || async {
            Ok(holds(&ask(server, "/apis", &[]).await))
        })
        .await
        .unwrap();
        assert!(holds(&ask(through, "/apis", &[]).await), "{group}");
    }
}
