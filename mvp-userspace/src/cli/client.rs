//! One request to the agent: through its Unix socket, or, for reading, to its admin port.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

const TIME: Duration = Duration::from_secs(15);
/// The most bytes of an answer: the routes of many servers take some megabytes.
const BODY: usize = 256 << 20;

/// The defaults of `admin.socket` and `admin.listen`.
const SOCKET: &str = "/run/mvp/admin.sock";
const LISTEN: &str = "127.0.0.1:9440";

/// Where the agent listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum AdminAt {
    /// `host:port` of an `http://` URL.
    Address(String),
    /// `unix:/path`, or the path.
    Socket(PathBuf),
}

/// A request to the agent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub body: &'a str,
}

pub(super) struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error(
        "no agent answers at {address}: {problem} (is it running? is --admin, or MVP_ADMIN, right?)"
    )]
    Unreachable { address: String, problem: String },
    #[error("the agent says {status}: {body}")]
    Refused { status: StatusCode, body: String },
    #[error(transparent)]
    Pins(#[from] crate::kernel::Error),
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    #[error("the terminal cannot be used: {0} (--once prints one frame)")]
    Terminal(io::Error),
    #[error("the answer is not that of an mvp agent of this version: {0}")]
    Unexpected(String),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) fn parse_admin(text: &str) -> Result<AdminAt, String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if path.starts_with('/') {
        return Ok(AdminAt::Socket(path.into()));
    }
    let uri: Uri = text.parse().map_err(|error| format!("no URL: {error}"))?;
    let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
    match (plain, uri.host(), uri.port_u16()) {
        (true, Some(host), Some(port)) => Ok(AdminAt::Address(format!("{host}:{port}"))),
        _ => Err("not of the form http://host:port or unix:/path".to_owned()),
    }
}

/// Sends a request to the agent that the user names, or else to the one whose socket is at the default path. Without that
/// socket, or without the right to open it, requests that only read are sent to the default address.
pub(super) fn ask(admin: Option<&AdminAt>, question: Question<'_>) -> Result<Reply, ClientError> {
    let Some(admin) = admin else {
        let socket = AdminAt::Socket(SOCKET.into());
        let by_socket = ask_at(&socket, question);
        let reads = question.method == "GET" && !question.target.starts_with("/mvp/");
        return match by_socket {
            Err(ClientError::Unreachable { .. }) if reads => {
                // If nothing answers there either, the operator should look at the socket.
                ask_at(&AdminAt::Address(LISTEN.to_owned()), question).or(by_socket)
            }
            other => other,
        };
    };
    ask_at(admin, question)
}

fn ask_at(admin: &AdminAt, question: Question<'_>) -> Result<Reply, ClientError> {
    let unreachable = |problem: String| ClientError::Unreachable {
        address: match admin {
            AdminAt::Address(address) => address.clone(),
            AdminAt::Socket(path) => path.display().to_string(),
        },
        problem,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| unreachable(error.to_string()))?;
    runtime.block_on(async {
        match tokio::time::timeout(TIME, exchange(admin, question)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(unreachable(format!("{error:#}"))),
            Err(_) => Err(unreachable(format!("no answer within {TIME:?}"))),
        }
    })
}

async fn exchange(admin: &AdminAt, question: Question<'_>) -> anyhow::Result<Reply> {
    let (stream, host): (Box<dyn Stream>, &str) = match admin {
        AdminAt::Address(address) => (Box::new(TcpStream::connect(address).await?), address),
        AdminAt::Socket(path) => {
            trusted(path)?;
            (Box::new(UnixStream::connect(path).await?), "localhost")
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(question.method)
        .uri(question.target)
        .header(HOST, host)
        .body(Full::new(Bytes::copy_from_slice(question.body.as_bytes())))?;
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

/// Refuses a socket that belongs to another user: a drain would be requested from a foreign program, and nothing would drain.
fn trusted(path: &Path) -> io::Result<()> {
    let owner = std::fs::metadata(path)?.uid();
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let problem = format!("the socket is user {owner}'s and not root's");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_urls() {
        let url = parse_admin;
        let address = |text: &str| AdminAt::Address(text.to_owned());
        assert_eq!(
            url("http://127.0.0.1:9440").unwrap(),
            address("127.0.0.1:9440")
        );
        assert_eq!(url("http://[::1]:9440/").unwrap(), address("[::1]:9440"));
        for text in ["/run/x.sock", "unix:/run/x.sock"] {
            assert_eq!(url(text).unwrap(), AdminAt::Socket("/run/x.sock".into()));
        }
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
