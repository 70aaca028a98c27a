//! Commands to a server in another process: one JSON document a line on its standard input, one answer a line on its
//! standard output.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{api::authz::Policy, server::Server};

/// What the methods of [`Server`] of the same names do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// As on SIGTERM.
    Stop,
    /// After a stop or a kill, at the same address.
    Start,
    /// Stops and starts again, as another version.
    Restart {
        /// The minor version from now on.
        minor: u8,
    },
    /// Ends at once, as on SIGKILL: connections break.
    Kill,
    /// Accepts, reads and writes nothing, as a stopped process would.
    Hang {
        /// Begin or end it.
        on: bool,
    },
    /// Every answer waits.
    Slow {
        /// How long it waits, microseconds.
        micros: u64,
    },
    /// Streams are reset instead of being answered.
    ResetNext {
        /// How many of the next requests.
        requests: usize,
    },
    /// Streams are refused (REFUSED_STREAM): no request was looked at.
    RefuseStreams {
        /// How many of the next requests.
        requests: usize,
    },
    /// GOAWAY on all connections; new ones are served.
    Goaway,
    /// `/readyz` says that it is not ready, and all else is answered.
    NotReady {
        /// Begin or end it.
        on: bool,
    },
    /// Unknown paths get 503 with Retry-After, as before all paths are installed.
    Starting {
        /// Begin or end it.
        on: bool,
    },
    /// As in the first second after a start: 403 on discovery for everybody, since RBAC is not there yet, and 500 at `/readyz`.
    WarmUp {
        /// Begin or end it.
        on: bool,
    },
    /// The front-proxy certificate is not accepted: 401.
    RefuseFrontProxy {
        /// Begin or end it.
        on: bool,
    },
    /// SelfSubjectReview does not exist, as before 1.28.
    LackReviews {
        /// Begin or end it.
        on: bool,
    },
    /// Replaces tokens and rules.
    Policy(Policy),
    /// Open connections and streams, number of requests.
    Status,
    /// The request log.
    Requests,
    /// [`Server::numbered`].
    Numbered,
}

/// The answer to one command: what it found out, or what went wrong.
pub type Outcome = std::result::Result<Value, String>;

/// Carries out one command, and waits until it has taken effect.
///
/// # Errors
/// The server could not do it.
pub async fn execute(server: &Server, command: Command) -> Result<Value> {
    match command {
        Command::Stop => server.stop().await?,
        Command::Start => server.start().await?,
        Command::Restart { minor } => server.restart(minor).await?,
        Command::Kill => server.kill().await,
        Command::Hang { on } => server.hang(on),
        Command::Slow { micros } => server.slow(Duration::from_micros(micros)),
        Command::ResetNext { requests } => server.reset_next(requests),
        Command::RefuseStreams { requests } => server.refuse_streams(requests),
        Command::Goaway => server.goaway().await,
        Command::NotReady { on } => server.not_ready(on),
        Command::Starting { on } => server.starting(on),
        Command::WarmUp { on } => server.warm_up(on),
        Command::RefuseFrontProxy { on } => server.refuse_front_proxy(on),
        Command::LackReviews { on } => server.lack_reviews(on),
        Command::Policy(policy) => server.set_policy(policy),
        Command::Status => {
            return Ok(json!({
                "connections": server.connections(),
                "streams": server.streams(),
                "requests": server.request_count(),
            }));
        }
        Command::Numbered => return Ok(serde_json::to_value(server.numbered())?),
        Command::Requests => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let all = server.requests().into_iter().map(|request| {
                let headers: Vec<_> = request
                    .headers
                    .iter()
                    .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
                    .collect();
                json!({
                    "method": request.method.as_str(), "target": request.target, "headers": headers,
                    "user": request.user, "how": request.how, "connection": request.connection,
                    "peer": request.peer, "http": format!("{:?}", request.version),
                })
            });
            return Ok(Value::Array(all.collect()));
        }
    }
    Ok(Value::Null)
}
