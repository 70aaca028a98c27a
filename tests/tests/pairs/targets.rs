//! Targets and header fields that HTTP libraries have opinions about: passed on whole, or refused on that request alone, and never
//! taken for something shorter.

use http::Method;
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, admin, client, config_map, patient, plane};
use mvp_tests::pair::{Case, Pairs, Protocol};
use mvp_tests::raw::{CONTINUATION, HEADERS, RST_STREAM, Raw, block};
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
        first_of(raw, stream).await
    }
}

/// The kind and first byte of the frame that answers a stream.
async fn first_of(raw: &mut Raw, stream: u32) -> (u8, Option<u8>) {
    loop {
        let frame = raw.frame().await.unwrap().expect("the connection ended");
        if frame.stream == stream && matches!(frame.kind, HEADERS | RST_STREAM) {
            return (frame.kind, frame.payload.first().copied());
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
    let next = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: kubernetes\r\n\r\n");
    let body = "Host: kubernetes\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "Host: kubernetes\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for (target, status) in [
        (long.as_bytes(), 414),
        (b"/api/v1/namespaces/default/configmaps?a=\"<>", 400),
        (b"/api/v1/namespaces/`<>/configmaps", 400),
        (b"/api/v1/namespaces/\xff\xfe/configmaps", 400),
        (b"/api/v1/namespaces/default/configmaps#x", 400),
        (b"configmaps/x", 400),
    ] {
        for (method, rest) in [
            ("GET", "Host: kubernetes\r\n\r\n"),
            ("POST", body),
            ("PUT", chunked),
        ] {
            let mut raw = scene.http1().await;
            let request = [
                method.as_bytes(),
                b" ",
                target,
                b" HTTP/1.1\r\n",
                rest.as_bytes(),
            ];
            // All of it comes in one piece, or the next request comes later.
            raw.send([&request.concat(), next.as_bytes()].concat())
                .await
                .unwrap();
            for sent in [false, true] {
                if sent {
                    raw.send(request.concat()).await.unwrap();
                    raw.send(&next).await.unwrap();
                }
                let refused = raw.answer(false).await.unwrap();
                let text = String::from_utf8_lossy(target);
                assert_eq!(refused.status, status, "{method} {text:.60}");
                let json: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
                assert_eq!(json["kind"], "Status", "{method} {text:.60}");
                assert_eq!(json["code"], status, "{method} {text:.60}");
                assert_eq!(
                    raw.answer(false).await.unwrap().status,
                    200,
                    "the connection stays"
                );
            }
        }
    }
    let mut raw = Raw::http2(scene.agent.address, &scene.tls()).await.unwrap();
    let not_utf8 = b"/api/v1/namespaces/\xff\xfe/configmaps".as_slice();
    for (at, (target, status)) in [
        (long.as_bytes(), "414"),
        (b"/api/v1/namespaces/default/configmaps?a=\"<>", "400"),
        (b"/api/v1/namespaces/`<>/configmaps", "400"),
        (not_utf8, "400"),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = 1 + 4 * at as u32;
        let block = block_of(target);
        let first = block.len().min(16_384);
        let last = first == block.len();
        raw.send_frame(
            HEADERS,
            if last { END_STREAM_AND_HEADERS } else { 1 },
            stream,
            &block[..first],
        )
        .await
        .unwrap();
        let rest: Vec<_> = block[first..].chunks(16_384).collect();
        for (at, part) in rest.iter().enumerate() {
            let flags = if at + 1 == rest.len() { 4 } else { 0 };
            raw.send_frame(CONTINUATION, flags, stream, part)
                .await
                .unwrap();
        }
        let text = String::from_utf8_lossy(target);
        let body = body_of(&mut raw, stream).await;
        assert_eq!(body["kind"], "Status", "{text:.60}");
        assert_eq!(body["code"].to_string(), status, "{text:.60}");
        let answer = scene.http2(&mut raw, stream + 2, "GET", CONFIG_MAPS).await;
        assert_eq!(answer, (HEADERS, Some(0x88)), "the connection stays");
    }
}

/// Where what follows cannot be told from a request, the client is answered all the same.
#[tokio::test]
async fn a_head_that_cannot_be_read_is_answered_before_the_end() {
    let scene = Scene::new().await;
    let first = format!("GET {CONFIG_MAPS} HTTP/1.1\r\n");
    for (head, status) in [
        (format!("{first}Host: kubernetes\r\nA : b\r\n"), 400),
        (format!("{first}Host: kubernetes\r\nA: b\0\r\n"), 400),
        (format!("{first}Host: kubernetes\r\n folded\r\n"), 400),
        (
            format!("{first}Host: kubernetes\r\nContent-Length: x\r\n"),
            400,
        ),
        (
            format!("{first}Host: kubernetes\r\nContent-Length: 1\r\nContent-Length: 2\r\n"),
            400,
        ),
        (
            format!("{first}Host: kubernetes\r\nTransfer-Encoding: gzip\r\n"),
            501,
        ),
        (
            format!("GET {CONFIG_MAPS} HTTP/2.0\r\nHost: kubernetes\r\n"),
            400,
        ),
        (
            "GET /api/v1/name spaces HTTP/1.1\r\nHost: kubernetes\r\n".to_owned(),
            400,
        ),
        ("nonsense\r\n".to_owned(), 400),
    ] {
        let mut raw = scene.http1().await;
        raw.send(format!(
            "{head}\r\nGET {CONFIG_MAPS} HTTP/1.1\r\nHost: k\r\n\r\n"
        ))
        .await
        .unwrap();
        let refused = raw.answer(false).await.unwrap();
        assert_eq!(refused.status, status, "{head}");
        assert_eq!(refused.header("connection"), Some("close"), "{head}");
        let json: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!(
            (&json["kind"], &json["code"]),
            (&"Status".into(), &status.into()),
            "{head}"
        );
        assert!(raw.until_closed().await.unwrap().is_empty(), "{head}");
    }
    let seen = scene.plane.server(0).requests();
    assert!(seen.iter().all(|request| request.target != CONFIG_MAPS));
}

/// What a body says is nobody's request, whatever it looks like.
#[tokio::test]
async fn lines_of_a_body_are_no_requests() {
    let scene = Scene::new().await;
    let lines = format!("DELETE {CONFIG_MAPS}#x HTTP/1.1\r\nHost: k\r\n\r\n");
    let chunk = format!("{:x}\r\n{lines}\r\n0\r\n\r\n", lines.len());
    for (field, body) in [
        (format!("Content-Length: {}", lines.len()), &lines),
        ("Transfer-Encoding: chunked".to_owned(), &chunk),
    ] {
        let mut raw = scene.http1().await;
        let echo = "/api/v1/namespaces/default/pods/p/proxy/echo";
        raw.send(format!(
            "POST {echo} HTTP/1.1\r\nHost: kubernetes\r\n{field}\r\n\r\n{body}"
        ))
        .await
        .unwrap();
        let echoed = raw.answer(false).await.unwrap();
        assert_eq!(
            (echoed.status, echoed.text()),
            (200, lines.clone()),
            "{field}"
        );
        for _ in 0..2 {
            raw.send(format!(
                "GET {CONFIG_MAPS} HTTP/1.1\r\nHost: kubernetes\r\n\r\n"
            ))
            .await
            .unwrap();
            assert_eq!(raw.answer(false).await.unwrap().status, 200, "{field}");
        }
    }
}

/// A GET request's fields, whose path need not be text.
fn block_of(path: &[u8]) -> Vec<u8> {
    let mut block = block(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "kubernetes"),
    ]);
    // `:path` by its index, not indexed itself, and the length of its value (RFC 7541 §5.1, §6.2.2).
    block.push(4);
    if path.len() < 127 {
        block.push(path.len() as u8);
    } else {
        let mut rest = path.len() - 127;
        block.push(127);
        while rest > 127 {
            block.push((rest & 127) as u8 | 128);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(path);
    block
}

/// The JSON that a stream is answered with.
async fn body_of(raw: &mut Raw, stream: u32) -> serde_json::Value {
    let mut body = Vec::new();
    loop {
        let frame = raw.frame().await.unwrap().expect("the connection ended");
        if frame.stream != stream {
            continue;
        }
        assert!(frame.kind != RST_STREAM, "reset: {:?}", frame.payload);
        if frame.kind == 0 {
            body.extend(frame.payload);
        }
        if frame.flags & 1 != 0 {
            return serde_json::from_slice(&body).unwrap();
        }
    }
}

/// Go's servers write names of fields in one way, and scripts compare them.
#[tokio::test]
async fn names_of_fields_are_written_as_go_writes_them() {
    let scene = Scene::new().await;
    let mut raw = scene.http1().await;
    raw.send(format!(
        "GET {CONFIG_MAPS} HTTP/1.1\r\nHost: kubernetes\r\n\r\n"
    ))
    .await
    .unwrap();
    let head = raw.head().await.unwrap();
    assert!(
        head.contains("\r\nContent-Type: ") && head.contains("\r\nAudit-Id: "),
        "{head}"
    );
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
    ] {
        for address in [scene.plane.server(0).addr(), scene.agent.address] {
            let mut raw = Raw::http1(address, &scene.tls()).await.unwrap();
            raw.send(format!("GET {CONFIG_MAPS} HTTP/1.1\r\n{hosts}\r\n"))
                .await
                .unwrap();
            let answer = raw.answer(false).await.unwrap();
            assert_eq!(answer.status, status, "{hosts:?} {}", answer.text());
        }
    }
}

/// Not about a path: Go's server answers it by itself. And requests that name no authority, or two.
#[tokio::test]
async fn requests_of_http2_without_a_path_or_an_authority() {
    let scene = Scene::new().await;
    for address in [scene.plane.server(0).addr(), scene.agent.address] {
        let mut raw = Raw::http2(address, &scene.tls()).await.unwrap();
        let answer = scene.http2(&mut raw, 1, "OPTIONS", "*").await;
        assert_eq!(answer, (HEADERS, Some(0x88)), "{address}");
        let (method, scheme) = ((":method", "GET"), (":scheme", "https"));
        let path = (":path", CONFIG_MAPS);
        for (at, fields) in [
            vec![method, scheme, path],
            vec![method, scheme, path, ("host", "kubernetes")],
            vec![
                method,
                scheme,
                (":authority", "kubernetes"),
                path,
                ("host", "other"),
            ],
            vec![method, (":scheme", "http"), (":authority", "k"), path],
        ]
        .into_iter()
        .enumerate()
        {
            let stream = 3 + 2 * at as u32;
            let block = block(&fields);
            raw.send_frame(HEADERS, END_STREAM_AND_HEADERS, stream, &block)
                .await
                .unwrap();
            let answer = first_of(&mut raw, stream).await;
            assert_eq!(answer, (HEADERS, Some(0x88)), "{address} {fields:?}");
        }
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
    for protocol in Protocol::BOTH {
        let (straight, through) = pairs.run(&large, protocol).await.unwrap();
        assert_eq!(straight.status, 200);
        assert!(
            through == straight,
            "900 KB of fields arrive as they were over {protocol:?}"
        );
    }
}

/// Above the limit a request is refused and nothing else, whatever came with it.
#[tokio::test]
async fn above_the_limit_the_connection_stays() {
    let scene = Scene::new().await;
    let next = format!("GET {CONFIG_MAPS} HTTP/1.1\r\nHost: kubernetes\r\n\r\n");
    let one = format!("X-Field: {}\r\n", "v".repeat(1_100_000));
    let many = "X-Field: v\r\n".repeat(21_000);
    let mut raw = scene.http1().await;
    for (fields, body) in [
        (one.as_str(), ""),
        (&one, "hello"),
        (&many, ""),
        (&many, "hello"),
    ] {
        let length = format!("Content-Length: {}\r\n", body.len());
        raw.send(format!(
            "POST {CONFIG_MAPS} HTTP/1.1\r\n{fields}Host: kubernetes\r\n{length}\r\n{body}{next}"
        ))
        .await
        .unwrap();
        let refused = raw.answer(false).await.unwrap();
        assert_eq!(refused.status, 431, "{}", refused.text());
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&refused.body).unwrap()["code"],
            431
        );
        assert_eq!(raw.answer(false).await.unwrap().status, 200);
    }
    let client = client(&scene.plane, &scene.agent).await;
    let (one, many) = ("v".repeat(1_100_000), vec![("x-field", "v"); 21_000]);
    for fields in [vec![("x-field", one.as_str())], many] {
        let refused = client.get(CONFIG_MAPS, &fields).await.unwrap();
        assert_eq!(refused.status, 431, "{}", refused.text());
        assert_eq!(refused.json()["code"], 431);
        assert_eq!(client.get(CONFIG_MAPS, &[]).await.unwrap().status, 200);
    }
}
