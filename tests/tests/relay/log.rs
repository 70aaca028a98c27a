//! The access line of a connection that was forwarded whole, at its end.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use mvp_tests::agent::eventually;
use mvp_tests::client::{NAME, connect_tls};
use mvp_tests::fixtures::{SOON, admin};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing_subscriber::fmt::MakeWriter;

use crate::common::{mixed, relayed, retired, tls};

#[tokio::test]
async fn a_line_for_each_relayed_connection() {
    let lines = capture();
    let (plane, agent) = mixed(|_| {}).await;
    drop(relayed(&plane, &agent).await);
    let mut client = connect_tls(agent.address, &tls(&plane, admin(&plane)), &[b"h2"], NAME)
        .await
        .unwrap();
    let server_address = plane.server(1).addr().to_string();
    let of_this_test = || -> Vec<Value> {
        let relayed = lines.all().into_iter().filter(|line| {
            line["decision"] == "relayed" && line["server_address"] == server_address.as_str()
        });
        relayed.collect()
    };
    eventually("the line of the first, which is dropped", SOON, || async {
        Ok(of_this_test().len() == 1)
    })
    .await
    .unwrap();
    // Both sides end in order.
    client.shutdown().await.unwrap();
    // The server ends TCP, and need not end TLS.
    let _ = client.read_to_end(&mut Vec::new()).await;
    eventually("its line is written", SOON, || async {
        Ok(of_this_test().len() == 2)
    })
    .await
    .unwrap();
    let line = &of_this_test()[1];
    assert_eq!(line["server"], "cp-b");
    assert_eq!(line["server_name"], "kubernetes");
    assert_eq!(line["mode"], "copy");
    assert_eq!(line["ended"], "complete");
    let number = |name: &str| line[name].as_u64().unwrap();
    assert!(number("received") > 500 && number("sent") > 500 && number("total_us") > 0);
    let client: std::net::SocketAddr = line["client"].as_str().unwrap().parse().unwrap();
    assert_ne!(client, agent.address);

    let _other = agent.http2(&plane, admin(&plane)).await.unwrap();
    plane.server(1).not_ready(true);
    eventually("a retired one tells why", SOON, || async {
        Ok(of_this_test().len() == 3)
    })
    .await
    .unwrap();
    assert_eq!(of_this_test()[2]["ended"], "server_unavailable");
    assert_eq!(retired(&agent, "server_unavailable").await.unwrap(), 1.0);
}

/// Access lines of all agents of this process.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn all(&self) -> Vec<Value> {
        let bytes = self.0.lock().unwrap().clone();
        let lines = bytes.split(|byte| *byte == b'\n');
        lines
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn capture() -> Lines {
    static LINES: OnceLock<Lines> = OnceLock::new();
    LINES
        .get_or_init(|| {
            let lines = Lines::default();
            tracing_subscriber::fmt()
                .json()
                .flatten_event(true)
                .with_env_filter("access=info")
                .with_writer(lines.clone())
                .init();
            lines
        })
        .clone()
}
