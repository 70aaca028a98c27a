//! What browsers and reports ask for.

use super::*;

/// Status, head and body by the network, with these fields besides `Host`.
async fn browse(port: &Port, target: &str, more: &str) -> (u16, String, String) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: cp-a\r\nConnection: close\r\n{more}\r\n");
    let (status, answer) = raw(port.address, &request).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    (status, head.to_ascii_lowercase(), body.to_owned())
}

#[tokio::test]
async fn a_browser_gets_the_page_and_others_the_list_of_paths() {
    let port = port().await;
    let accept = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    let (status, head, body) = browse(&port, "/", accept).await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: text/html"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'; script-src 'sha256-"));
    assert!(head.contains("x-content-type-options: nosniff") && !head.contains("unsafe"));
    assert!(body.starts_with("<!doctype html>"));
    for accept in ["", "Accept: */*\r\n"] {
        let (status, head, body) = browse(&port, "/", accept).await;
        assert_eq!(status, 200);
        assert!(
            head.contains("text/plain") && body.contains("/report?since=2h"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn history_and_report_are_of_the_time_that_is_asked_for() {
    let port = port().await;
    let (_, body) = get(&port, "/history?since=90s").await;
    let view: HistoryView = serde_json::from_str(&body).unwrap();
    assert_eq!(view.since_ms, 90);
    let (_, body) = get(&port, "/report").await;
    let report: Report = serde_json::from_str(&body).unwrap();
    assert_eq!(report.requests, 24 * 3600);
    for path in ["/history?since=x", "/report?since=-1s"] {
        let (status, body) = get(&port, path).await;
        assert_eq!(status, 400, "{path}");
        assert!(body.starts_with("since: "), "{body}");
    }
    let (_, head, body) = browse(&port, "/report?since=2h", "Accept: text/plain\r\n").await;
    assert!(
        head.contains("text/plain") && body.contains("7200  requests came"),
        "{body}"
    );
    let (_, head, body) = browse(&port, "/report?since=2h", "Accept: text/html\r\n").await;
    assert!(head.contains("content-security-policy: default-src 'none'; style-src 'sha256-"));
    assert!(body.contains("&lt;b&gt;cp-a") && !body.contains("<b>"));
}

/// Reads until the text is there.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut got = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&got).into_owned();
        if text.contains(wanted) {
            return text;
        }
        let mut more = [0; 4096];
        let n = stream.read(&mut more).await.unwrap();
        assert!(n > 0, "{text}");
        got.extend_from_slice(&more[..n]);
    }
}

async fn stream(port: &Port, host: &str) -> TcpStream {
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    let request = format!("GET /stream HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn the_status_comes_again_and_again_to_a_bounded_number_of_readers() {
    let port = port().await;
    let mut open = Vec::new();
    for _ in 0..live::STREAMS {
        let mut reader = stream(&port, "cp-a").await;
        let text = read_until(&mut reader, "\n\n").await;
        assert!(
            text.to_ascii_lowercase()
                .contains("content-type: text/event-stream"),
            "{text}"
        );
        open.push(reader);
    }
    // In the second event something has changed.
    let _task = port.readiness.register("something more");
    let text = read_until(&mut open[0], "something more").await;
    assert!(
        text.contains("event: status\ndata: {\"node\":\"cp-a\""),
        "{text}"
    );
    let (status, body) = read(&port, "GET", "/stream", "Host: cp-a\r\n").await;
    assert_eq!(status, 503);
    assert!(body.contains("follow this agent already"), "{body}");
    // Others are answered, and a place is free again when its reader has gone.
    assert_eq!(read(&port, "GET", "/livez", "Host: cp-a\r\n").await.0, 200);
    open.pop();
    loop {
        let mut reader = stream(&port, "cp-a").await;
        if read_until(&mut reader, "\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 200")
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_name_that_somebody_else_chose_leads_to_no_page_and_no_stream() {
    let port = port().await;
    for path in ["/", "/stream", "/history", "/report"] {
        let (status, _) = read(&port, "GET", path, "Host: evil.example\r\n").await;
        assert_eq!(status, 421, "{path}");
        let (status, _) = read(&port, "POST", path, "Host: cp-a\r\n").await;
        assert_eq!(status, 405, "{path}");
    }
}
