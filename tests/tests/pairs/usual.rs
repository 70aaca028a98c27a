//! What clients ask all day, for what the local server serves and for what only a peer does.

use http::{HeaderMap, HeaderValue, Method};
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, ONLY_36, admin, config_map, patient, plane, policy};
use mvp_tests::pair::{Case, Pairs};
use mvp_tests::sim::pki::ClientAuth;

/// A table of objects has their ages, which differ between two answers.
const EMPTY: &str = "/api/v1/namespaces/empty/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn every_answer_is_the_servers_own() {
    let plane = plane(&[35, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let (admin, nobody) = (admin(&plane), ClientAuth::None);
    let alice = ClientAuth::Certificate(plane.pki().alice().unwrap());
    let json = "application/json";
    let map = |name: &str| config_map(name).to_string();
    let made = mvp_tests::fixtures::direct(&plane, plane.server(1)).await;
    for (path, object) in [
        (CONFIG_MAPS, config_map("there")),
        (ONLY_36, policy("there")),
    ] {
        let answer = made.post_json(path, &[], &object).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from_static("1"));
    // At the server that must answer: cp-a what it serves itself, cp-b the rest.
    for (server, cases) in [
        (
            0,
            vec![
                (Case::get(&admin, CONFIG_MAPS), 200),
                (Case::get(&admin, EMPTY).header("accept", TABLE), 200),
                (
                    Case::get(&admin, CONFIG_MAPS).header("accept", "text/html"),
                    406,
                ),
                (
                    Case::get(&admin, CONFIG_MAPS).header("accept-encoding", "gzip"),
                    200,
                ),
                (
                    Case::get(&admin, &format!("{CONFIG_MAPS}/there?pretty=true")),
                    200,
                ),
                (
                    Case::new(&admin, Method::HEAD, &format!("{CONFIG_MAPS}/there")),
                    200,
                ),
                (Case::get(&alice, CONFIG_MAPS), 403),
                (Case::get(&nobody, CONFIG_MAPS), 403),
                (
                    Case::get(&nobody, CONFIG_MAPS).header("authorization", "Bearer none"),
                    401,
                ),
                (
                    Case::new(&admin, Method::POST, CONFIG_MAPS).body(json, map("there")),
                    409,
                ),
                (
                    Case::new(&admin, Method::POST, CONFIG_MAPS).body(json, "{"),
                    400,
                ),
                (
                    Case::new(&admin, Method::POST, CONFIG_MAPS).body("text/csv", "a"),
                    415,
                ),
                (Case::new(&admin, Method::OPTIONS, CONFIG_MAPS), 405),
                (Case::get(&admin, "/version"), 200),
                (Case::get(&admin, "/healthz"), 200),
                (Case::get(&nobody, "/livez?verbose"), 200),
                (Case::get(&admin, "/nope"), 404),
                // What these mean is the server's to say.
                (Case::get(&admin, "/api/v1/watch"), 500),
                (Case::get(&admin, "/apis/apps/v1/proxy/"), 500),
                (
                    Case::new(
                        &admin,
                        Method::POST,
                        "/api/v1/namespaces/default/pods/p/proxy/echo",
                    )
                    .body("text/plain", "body")
                    .trailers(trailers),
                    200,
                ),
                (
                    Case::get(&admin, "/api/v1/namespaces/default/pods/p/proxy/trailers"),
                    200,
                ),
                (
                    Case::get(&admin, "/api/v1/namespaces/default/pods/p/proxy/status/503"),
                    503,
                ),
                (
                    Case::get(
                        &admin,
                        "/api/v1/namespaces/default/pods/p/log?mvpBytes=300000",
                    ),
                    200,
                ),
            ],
        ),
        (
            1,
            vec![
                (Case::get(&admin, ONLY_36), 200),
                (
                    Case::get(&admin, &format!("{ONLY_36}?labelSelector=a%3Db"))
                        .header("accept", TABLE),
                    200,
                ),
                (Case::get(&admin, &format!("{ONLY_36}/there")), 200),
                (Case::get(&admin, &format!("{ONLY_36}/none")), 404),
                (Case::get(&alice, ONLY_36), 403),
                (
                    Case::new(&admin, Method::POST, ONLY_36)
                        .body(json, policy("there").to_string()),
                    409,
                ),
                (
                    Case::new(&admin, Method::DELETE, &format!("{ONLY_36}/none")),
                    404,
                ),
            ],
        ),
    ] {
        let pairs = Pairs {
            plane: &plane,
            server: plane.server(server),
            agent: &agent,
        };
        for (case, status) in cases {
            pairs.same(&case, status, 1).await;
        }
    }
}
