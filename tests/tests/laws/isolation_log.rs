//! What a client chooses and the log repeats is short and harmless.

use mvp_tests::agent::eventually;
use mvp_tests::child::ChildAgent;
use mvp_tests::client::Client;
use mvp_tests::fixtures::{SOON, admin, plane};

const BINARY: &str = env!("CARGO_BIN_EXE_mvp-agent");

#[tokio::test]
async fn client_chosen_text_is_cut_and_escaped() {
    let plane = plane(&[36]).await;
    for format in ["human", "json"] {
        let flags = ["--log-format", format, "--log-level", "debug"];
        let agent = ChildAgent::start_with(BINARY, &plane, "cp-a", &flags, |_| {})
            .await
            .unwrap();
        let tls = plane
            .pki()
            .client_config(admin(&plane), &[])
            .unwrap()
            .into();
        let client = Client::http2(agent.address, &tls).await.unwrap();
        let long = "a".repeat(10_000);
        // A path that is parsed, one that is not, and text in a header that the log repeats.
        for target in [
            format!("/api/v1/namespaces/{long}/pods/last-of-path"),
            format!("/apis/{long}/v1/last-of-path"),
            format!("/api/v1/%zz{long}"),
            "/api/v1/namespaces/\u{202e}right-to-left".replace('\u{202e}', "%E2%80%AE"),
        ] {
            let headers = [("audit-id", long.as_str()), ("user-agent", &long)];
            let answer = client.get(&target, &headers).await.unwrap();
            assert!(answer.status.as_u16() >= 400, "{}", answer.status);
        }
        eventually("all four are in the log", SOON, || async {
            Ok(agent.log().matches("audit_id").count() >= 4)
        })
        .await
        .unwrap();
        let log = agent.log();
        let longest = log.lines().map(str::len).max().unwrap_or(0);
        assert!(longest < 4096, "a line of {longest} bytes");
        assert!(!log.contains("last-of-path"));
        assert!(log.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
