//! Targets and header fields that HTTP libraries have opinions about: passed on whole, or refused on that request alone, and never
//! taken for something shorter.

use http::Method;
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, admin, client, config_map, patient, plane};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::raw::{HEADERS, RST_STREAM, Raw, block};
use mvp_tests::sim::ControlPlane;

/// HPACK's index for `:status: 400`, and the bit of an indexed field.
const STATUS_400: u8 = 0x80 | 12;
const END_STREAM_AND_HEADERS: u8 = 5;

struct Scene {
    plane: ControlPlane,
    agent: TestAgent,
}

impl Scene {
    async fn new() -> Self {
        let plane = plane(&[36, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", patient)
            .await
            .unwrap();
        Self { plane, agent }
    }

    fn tls(&self) -> std::sync::Arc<rustls::ClientConfig> {
        let tls = self.plane.pki().client_config(admin(&self.plane), &[]);
        tls.unwrap().into()
    }

    async fn http1(&self) -> Raw {
        Raw::http1(self.agent.address, &self.tls()).await.unwrap()
    }

    /// Sends a request on a stream and gives the kind and first byte of the frame that answers it.
    async fn http2(
        &self,
        raw: &mut Raw,
        stream: u32,
        method: &str,
        path: &str,
    ) -> (u8, Option<u8>) {
        let fields = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "kubernetes"),
            (":path", path),
        ];
        let block = block(&fields);
        raw.send_frame(HEADERS, END_STREAM_AND_HEADERS, stream, &block)
            .await
            .unwrap();
        loop {
            let frame = raw.frame().await.unwrap().expect("the connection ended");
            if frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM) {
                return (frame.kind, frame.payload.first().copied());
            }
        }
    }
}

#[tokio::test]
async fn a_request_for_more_is_never_one_for_less() {
    let scene = Scene::new().await;
    let client = client(&scene.plane, &scene.agent).await;
    let made = client
        .post_json(CONFIG_MAPS, &[], &config_map("frag"))
        .await
        .unwrap();
    assert_eq!(made.status, 201);
    let object = format!("{CONFIG_MAPS}/frag");
    for target in ["#x", "#", "#/status", "?dryRun=All#x"].map(|rest| format!("{object}{rest}")) {
        let mut raw = scene.http1().await;
        let request = format!("DELETE {target} HTTP/1.1\r\nHost: kubernetes\r\n\r\n");
        raw.send(request).await.unwrap();
        let refused = raw.answer(false).await.unwrap();
        assert_eq!(refused.status, 400, "{target}: {}", refused.text());
        assert!(refused.text().contains("'#'"), "{}", refused.text());
        // The connection goes on, with other targets.
        raw.send(format!(
            "GET {CONFIG_MAPS} HTTP/1.1\r\nHost: kubernetes\r\n\r\n"
        ))
        .await
        .unwrap();
        assert_eq!(raw.answer(false).await.unwrap().status, 200);

        let mut raw = Raw::http2(scene.agent.address, &scene.tls()).await.unwrap();
        let answer = scene.http2(&mut raw, 1, "DELETE", &target).await;
        assert_eq!(answer, (HEADERS, Some(STATUS_400)), "{target}");
        let answer = scene.http2(&mut raw, 3, "GET", CONFIG_MAPS).await;
        assert_eq!(answer, (HEADERS, Some(0x88)), "200 on the same connection");
    }
    assert_eq!(
        client.get(&object, &[]).await.unwrap().status,
        200,
        "it is still there"
    );
    let seen = scene.plane.server(0).requests();
    assert!(seen.iter().all(|request| request.method != Method::DELETE));
}

#[tokio::test]
async fn a_target_that_cannot_be_carried_ends_its_own_request() {
    let scene = Scene::new().await;
    let long = format!("{CONFIG_MAPS}?labelSelector={}", "a".repeat(70_000));
    for (target, status) in [
        (long.as_str(), 414),
        ("/api/v1/namespaces/default/configmaps?a=\"<>", 400),
        ("/api/v1/namespaces/`<>/configmaps", 400),
    ] {
        let mut raw = scene.http1().await;
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: kubernetes\r\n\r\n"))
            .await
            .unwrap();
        assert_eq!(raw.answer(false).await.unwrap().status, status);
    }
    let mut raw = Raw::http2(scene.agent.address, &scene.tls()).await.unwrap();
    let targets = [
        "/api/v1/namespaces/default/configmaps?a=\"<>",
        "/api/v1/namespaces/`<>/configmaps",
    ];
    for (at, target) in targets.into_iter().enumerate() {
        let stream = 1 + 4 * at as u32;
        let answer = scene.http2(&mut raw, stream, "GET", target).await;
        assert_eq!(answer.0, RST_STREAM, "{target}");
        let answer = scene.http2(&mut raw, stream + 2, "GET", CONFIG_MAPS).await;
        assert_eq!(answer, (HEADERS, Some(0x88)), "the connection stays");
    }
}

#[tokio::test]
async fn one_well_formed_host_over_http1() {
    let scene = Scene::new().await;
    for (hosts, status) in [
        ("Host: kubernetes\r\n", 200),
        ("Host: 127.0.0.1:6443\r\n", 200),
        ("Host: [::1]:6443\r\n", 200),
        ("Host:\r\n", 200),
        ("", 400),
        ("Host: kubernetes\r\nHost: kubernetes\r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: a/b\r\n", 400),
        ("Host: user@kubernetes\r\n", 400),
    ] {
        let mut raw = scene.http1().await;
        raw.send(format!("GET {CONFIG_MAPS} HTTP/1.1\r\n{hosts}\r\n"))
            .await
            .unwrap();
        let answer = raw.answer(false).await.unwrap();
        assert_eq!(answer.status, status, "{hosts:?} {}", answer.text());
    }
}

#[tokio::test]
async fn as_many_fields_as_a_server_takes() {
    let scene = Scene::new().await;
    let pairs = Pairs {
        plane: &scene.plane,
        server: scene.plane.server(0),
        agent: &scene.agent,
    };
    let admin = admin(&scene.plane);
    let mut groups = Case::get(&admin, CONFIG_MAPS)
        .header("impersonate-user", "alice")
        .header("impersonate-group", "system:masters");
    for group in 0..600 {
        groups = groups.header("impersonate-group", &format!("group-{group}"));
    }
    pairs.same(&groups, 200, 1).await;
    let mut large = Case::get(&admin, CONFIG_MAPS);
    for field in 0..9 {
        large = large.header(&format!("x-field-{field}"), &"v".repeat(100_000));
    }
    let (straight, through) = pairs.run(&large, Protocol::Http2).await.unwrap();
    assert_eq!(straight.status, 200);
    assert!(through == straight, "900 KB of fields arrive as they were");
}
