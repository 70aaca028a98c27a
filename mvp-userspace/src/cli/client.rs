//! One request to the admin port.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TIME: Duration = Duration::from_secs(15);
/// Routes of many servers are some megabytes.
const BODY: usize = 256 << 20;

/// `host:port` of an `http://` URL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AdminUrl(String);

pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no agent answers at {address}: {problem} (is it running? is --admin right?)")]
    Unreachable { address: String, problem: String },
    #[error("the agent says {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error(transparent)]
    Pins(#[from] crate::kernel::Error),
    #[error("the answer is not that of an mvp agent of this version: {0}")]
    Unexpected(String),
}

pub fn parse_admin(text: &str) -> Result<AdminUrl, String> {
    let uri: Uri = text.parse().map_err(|error| format!("no URL: {error}"))?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    match (plain, uri.host(), uri.port_u16()) {
        (true, Some(host), Some(port)) => Ok(AdminUrl(format!("{host}:{port}"))),
        _ => Err("not of the form http://host:port".to_owned()),
    }
}

pub fn ask(admin: &AdminUrl, method: &str, target: &str) -> Result<Reply, ClientError> {
    let unreachable = |problem: String| ClientError::Unreachable {
        address: admin.0.clone(),
        problem,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| unreachable(error.to_string()))?;
    runtime.block_on(async {
        match tokio::time::timeout(TIME, exchange(&admin.0, method, target)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(unreachable(format!("{error:#}"))),
            Err(_) => Err(unreachable(format!("no answer within {TIME:?}"))),
        }
    })
}

async fn exchange(address: &str, method: &str, target: &str) -> anyhow::Result<Reply> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(HOST, address)
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("{error}"))?
        .to_bytes();
    connection.abort();
    Ok(Reply { status, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_urls() {
        let url = |text| parse_admin(text).map(|url| url.0);
        assert_eq!(url("http://127.0.0.1:9440").unwrap(), "127.0.0.1:9440");
        assert_eq!(url("http://[::1]:9440/").unwrap(), "[::1]:9440");
        for text in [
            "",
            "127.0.0.1:9440",
            "https://x:1",
            "http://x",
            "http://x:1/a",
            "http://x:1?a",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }
}
