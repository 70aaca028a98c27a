//! Reading, changing, and the limits of both doors.

use super::*;

#[tokio::test]
async fn readiness_names_what_is_awaited() {
    let port = port().await;
    let a = port.readiness.register("listener");
    let b = port.readiness.register("discovery cp-a");
    let expected = "[-]listener awaited\n[-]discovery cp-a awaited\nreadyz check failed\n";
    assert_eq!(get(&port, "/readyz").await, (503, expected.into()));
    a.done();
    let expected = "[+]listener ok\n[-]discovery cp-a awaited\nreadyz check failed\n";
    assert_eq!(get(&port, "/readyz?verbose").await, (503, expected.into()));
    b.done();
    assert_eq!(get(&port, "/readyz").await, ok("ok\n"));
    let expected = "[+]listener ok\n[+]discovery cp-a ok\nreadyz check passed\n";
    assert_eq!(get(&port, "/readyz?verbose=1").await, ok(expected));
}

#[tokio::test]
async fn liveness_names_what_hangs() {
    let port = port().await;
    assert_eq!(get(&port, "/livez").await, ok("ok\n"));
    port.stalled.lock().unwrap().push("data-1".into());
    let expected = "[-]data-1 makes no progress\nlivez check failed\n";
    assert_eq!(get(&port, "/livez").await, (503, expected.into()));
}

#[tokio::test]
async fn views() {
    let port = port().await;
    let (code, body) = get(&port, "/status").await;
    let status: StatusView = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (code, status.node.as_str(), status.ready),
        (200, "cp-a", true)
    );
    assert_eq!(status.drain, "running");
    let servers: Vec<ServerView> = serde_json::from_str(&get(&port, "/servers").await.1).unwrap();
    assert_eq!(servers, status.servers);
    let (_, routes) = get(&port, "/routes").await;
    assert_eq!(
        routes,
        r#"[{"group":"","version":"v1","resource":"pods","subresource":"","verbs":{"cp-a":["get","list"]},"sources":{"cp-a":"v2"}}]"#
    );
    assert_eq!(get(&port, "/metrics").await, ok("# EOF\n"));
}

#[tokio::test]
async fn skew_as_json_and_as_a_table() {
    let port = port().await;
    let (_, body) = get(&port, "/skew").await;
    let view: SkewView = serde_json::from_str(&body).unwrap();
    assert_eq!(view.servers[0].name, "cp-a");
    let text = ask(&port, "GET", "/skew", "Accept: text/plain\r\n").await;
    assert_eq!(text, ok(&view.text()));
}

#[tokio::test]
async fn explain_as_json_and_as_a_line() {
    let port = port().await;
    let target = "/explain?method=GET&path=%2Fapi%2Fv1%2Fpods%3Fwatch%3D1";
    let (_, body) = get(&port, target).await;
    let view: ExplainView = serde_json::from_str(&body).unwrap();
    assert_eq!(view.path, "/api/v1/pods?watch=1");
    let line = ask(&port, "GET", target, "Accept: text/plain\r\n").await;
    assert_eq!(line, ok("GET /api/v1/pods?watch=1 -> cp-a\n"));
    assert_eq!(get(&port, "/explain?method=GET").await.0, 400);
    let (status, body) = get(&port, "/explain?connection=10.0.0.9&serverName=kubernetes").await;
    assert_eq!(status, 200);
    let view: ConnectionView = serde_json::from_str(&body).unwrap();
    assert_eq!(view.server_name.as_deref(), Some("kubernetes"));
    assert_eq!(view.line, "10.0.0.9 -> inspected");
    assert_eq!(get(&port, "/explain?connection=here").await.0, 400);
    let wrong = get(&port, "/explain?method=BAD&path=/api").await;
    assert_eq!(wrong, (400, "BAD is no method\n".into()));
}

#[tokio::test]
async fn probes_of_any_server() {
    let port = port().await;
    let answer = get(&port, "/mvp/servers/cp-b/readyz/ping?verbose").await;
    assert_eq!(answer, (500, "asked /readyz/ping?verbose".into()));
    assert_eq!(get(&port, "/mvp/servers/cp-c/livez").await.0, 502);
    assert_eq!(get(&port, "/mvp/servers/cp-x/version").await.0, 404);
    for target in [
        "/mvp/servers/cp-b",
        "/mvp/servers/cp-b/",
        "/mvp/servers/cp-b/api/v1/secrets",
        "/mvp/servers/cp-b/metrics/../api",
        "/mvp/servers/cp-b/metrics/%2e%2E/api",
    ] {
        let (code, body) = get(&port, target).await;
        assert_eq!(code, 404, "{target}");
        assert!(body.contains("must follow the name"), "{target}: {body}");
    }
}

#[tokio::test]
async fn a_probe_that_hangs_is_given_up() {
    let port = port().await;
    assert_eq!(get(&port, "/mvp/servers/cp-d/livez").await.0, 504);
}

#[tokio::test]
async fn drain_starts_once() {
    let port = port().await;
    assert_eq!(get(&port, "/drain").await.0, 405);
    assert_eq!(ask(&port, "POST", "/drain?deadline=x", "").await.0, 400);
    assert_eq!(port.drain.state(), DrainState::Running);
    let answer = ask(&port, "POST", "/drain?deadline=1h", "").await;
    assert_eq!(answer, (202, "draining, at most 3600s\n".into()));
    assert!(matches!(port.drain.state(), DrainState::Draining(_)));
    let again = ask(&port, "POST", "/drain", "").await;
    assert_eq!(again, (202, "already draining\n".into()));
    let ready = get(&port, "/readyz").await;
    assert_eq!(ready, (503, "[-]draining\nreadyz check failed\n".into()));
}

#[tokio::test]
async fn nothing_is_retired_while_the_guard_is_idle() {
    let port = port().await;
    let (code, body) = ask(&port, "POST", "/retire", "").await;
    assert_eq!(code, 409);
    assert!(body.starts_with("no retirement is under way"), "{body}");
}

#[tokio::test]
async fn an_operators_word_may_have_a_time() {
    let port = port().await;
    for (target, code) in [
        ("/arm", 200),
        ("/arm?for=30m", 200),
        ("/arm?for=1500ms", 200),
        ("/arm?for=0s", 400),
        ("/arm?for=soon", 400),
    ] {
        let (answered, body) = ask(&port, "POST", target, "").await;
        assert_eq!(answered, code, "{target}: {body}");
        assert_eq!(body.starts_with("for: "), code == 400, "{body}");
    }
}

#[tokio::test]
async fn an_operators_word_to_all_agents() {
    let port = port().await;
    for (target, code, says) in [
        ("/arm?cluster=true", 200, "Arm(3600s)\n"),
        ("/arm?cluster=true&for=30m", 200, "Arm(1800s)\n"),
        ("/arm?cluster&for=3h", 502, "the Lease is away\n"),
        ("/arm?cluster=true&for=0s", 400, "for: not above zero\n"),
        ("/auto?cluster=true", 200, "Release\n"),
    ] {
        let answer = ask(&port, "POST", target, "").await;
        assert_eq!(answer, (code, says.to_owned()), "{target}");
    }
}

#[tokio::test]
async fn by_the_network_nothing_changes_and_no_server_is_asked() {
    let port = port().await;
    let host = "Host: cp-a:9440\r\n";
    for (method, target) in [
        ("POST", "/drain"),
        ("POST", "/arm"),
        ("POST", "/disarm"),
        ("POST", "/auto"),
        ("POST", "/arm?cluster=true"),
        ("POST", "/auto?cluster=true"),
        ("POST", "/retire"),
        ("PUT", "/loglevel"),
        ("GET", "/drain"),
        ("GET", "/mvp/servers/cp-b/readyz"),
        ("GET", "/mvp/servers/cp-b/metrics"),
    ] {
        let (code, body) = read(&port, method, target, host).await;
        assert_eq!(code, 403, "{method} {target}");
        assert!(body.contains("admin.socket"), "{body}");
    }
    assert_eq!(port.drain.state(), DrainState::Running);
    assert_eq!(*port.level.lock().unwrap(), "");
    for target in [
        "/readyz",
        "/livez",
        "/metrics",
        "/status",
        "/servers",
        "/routes",
        "/skew",
        "/explain?method=GET&path=/api",
    ] {
        assert_eq!(read(&port, "GET", target, host).await.0, 200, "{target}");
    }
    assert_eq!(read(&port, "POST", "/status", host).await.0, 405);
}

/// A page of evil.example whose name is pointed at this node asks with that name.
#[tokio::test]
async fn a_name_that_is_not_the_agents_reads_nothing() {
    let port = port().await;
    for (host, code) in [
        ("Host: evil.example\r\n", 421),
        ("Host: evil.example:9440\r\n", 421),
        ("Host: localhost\r\n", 200),
        ("Host: 10.0.0.1:9440\r\n", 200),
        ("Host: [::1]:9440\r\n", 200),
        ("Host: localhost\r\nHost: evil.example\r\n", 400),
        ("", 400),
    ] {
        assert_eq!(read(&port, "GET", "/metrics", host).await.0, code, "{host}");
    }
    let absolute = "http://evil.example/metrics";
    let answer = read(&port, "GET", absolute, "Host: localhost\r\n").await;
    assert_eq!(answer.0, 421);
}

/// Whoever may reach the network's door must not keep operators out.
#[tokio::test]
async fn a_full_network_door_leaves_the_socket_open() {
    let port = port().await;
    let mut open = Vec::new();
    for _ in 0..80 {
        open.push(TcpStream::connect(port.address).await.unwrap());
    }
    assert_eq!(get(&port, "/livez").await, ok("ok\n"));
}

#[tokio::test]
async fn log_level() {
    let port = port().await;
    let put = |body: &'static str| {
        let more = format!("Content-Length: {}\r\n", body.len());
        let port = &port;
        async move {
            let request = format!(
                "PUT /loglevel HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n{body}"
            );
            raw_operator(port, &request).await.0
        }
    };
    assert_eq!(put("mvp=debug\n").await, 204);
    assert_eq!(*port.level.lock().unwrap(), "mvp=debug");
    assert_eq!(put("nonsense").await, 400);
    let long: &'static str = "x".repeat(5000).leak();
    assert_eq!(put(long).await, 400);
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let port = port().await;
    assert_eq!(get(&port, "/nothing").await.0, 404);
    assert_eq!(ask(&port, "DELETE", "/status", "").await.0, 405);
    assert_eq!(ask(&port, "HEAD", "/status", "").await, ok(""));
}

#[tokio::test]
async fn too_large_a_header_is_refused() {
    let port = port().await;
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    assert_eq!(ask(&port, "GET", "/readyz", &long).await.0, 431);
    let many = "X: y\r\n".repeat(100);
    assert_eq!(ask(&port, "GET", "/readyz", &many).await.0, 431);
    assert_eq!(get(&port, "/readyz").await.0, 200);
}

/// The 65th connection is closed at once, and its place is free again when another one ends.
#[tokio::test]
async fn connections_are_bounded() {
    let port = port().await;
    let mut open = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream
            .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        open.push(stream);
    }
    assert_eq!(
        read(&port, "GET", "/livez", "Host: localhost\r\n").await.0,
        0
    );
    open.clear();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while read(&port, "GET", "/livez", "Host: localhost\r\n").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_agent_whose_local_server_is_unproved_is_not_ready_and_says_so() {
    let port = port().await;
    assert_eq!(get(&port, "/readyz").await, ok("ok\n"));
    let detail = "the local server answered 401 to the asserted user";
    port.standing.set(PassingBy::LocalUnproved, detail);
    let (status, body) = get(&port, "/readyz").await;
    assert_eq!(status, 503);
    assert!(
        body.contains("local_unproved") && body.contains(detail),
        "{body}"
    );
    assert!(get(&port, "/status").await.1.contains("\"ready\":false"));
    port.standing.clear(PassingBy::LocalUnproved);
    // What ends by itself is no reason to take the pod out of service.
    port.standing.set(PassingBy::Full, "no room");
    assert_eq!(get(&port, "/readyz").await, ok("ok\n"));
}
