//! Commands that query a running agent or change something in it.

use std::io::Write;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{self, ClientError, Question, Reply};
use super::command::{Ask, At};
use super::output::print;
use crate::admin::{StatusView, encode};
use crate::text::table;

/// The time between two checks whether the agent has drained.
const LOOK: Duration = Duration::from_millis(200);

/// Shows the answer as data, or as text for people.
pub(super) fn show<T: DeserializeOwned>(
    ask: &Ask,
    target: &str,
    out: &mut dyn Write,
    human: impl FnOnce(&T, bool) -> String,
) -> Result<(), ClientError> {
    let body = get(&ask.at, target)?.success()?;
    // The whole document is passed on, with fields that this program does not know.
    let value: Value = parse(&body)?;
    let view: T = parse(&body)?;
    print(ask.form.output, &value, |wide| human(&view, wide), out)
}

pub(super) fn get(at: &At, target: &str) -> Result<Reply, ClientError> {
    let question = Question {
        method: "GET",
        target,
        body: "",
    };
    client::ask(at.admin.as_ref(), question)
}

/// Sends a POST, and shows the line of the answer.
pub(super) fn tell(ask: &Ask, target: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let question = Question {
        method: "POST",
        target,
        body: "",
    };
    let body = client::ask(ask.at.admin.as_ref(), question)?.success()?;
    say(
        ask,
        &table::clean(String::from_utf8_lossy(&body).trim()),
        out,
    )
}

pub(super) fn loglevel(ask: &Ask, level: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let question = Question {
        method: "PUT",
        target: "/loglevel",
        body: level,
    };
    client::ask(ask.at.admin.as_ref(), question)?.success()?;
    say(ask, &format!("the log level is {level}"), out)
}

/// Shows the server's own answer, whatever it is; an error unless its status is a success.
pub(super) fn probe(
    ask: &Ask,
    server: &str,
    path: &str,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let target = format!(
        "/mvp/servers/{}/{}",
        encode(server),
        path.trim_start_matches('/')
    );
    let body = get(&ask.at, &target)?.success()?;
    let _ = out.write_all(&body);
    if !body.ends_with(b"\n") {
        let _ = out.write_all(b"\n");
    }
    Ok(())
}

/// Has the agent drain. With `wait` it returns when the agent is gone, which happens within `drain.deadline`.
pub(super) fn drain(
    ask: &Ask,
    target: &str,
    wait: bool,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    if !wait {
        return tell(ask, target, out);
    }
    let before: StatusView = parse(&get(&ask.at, "/status")?.success()?)?;
    tell(ask, target, out)?;
    let _ = out.flush();
    let mut uptime = before.uptime_ms;
    loop {
        match get(&ask.at, "/status").and_then(Reply::success) {
            Ok(body) => {
                let view: StatusView = parse(&body)?;
                // A supervisor may have started the agent again, or another agent may have taken its place.
                if view.uptime_ms < uptime || view.drain == "running" {
                    break;
                }
                uptime = view.uptime_ms;
            }
            Err(ClientError::Unreachable { .. }) => break,
            Err(error) => return Err(error),
        }
        std::thread::sleep(LOOK);
    }
    say(ask, "drained", out)
}

fn say(ask: &Ask, message: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let text = |_| format!("{message}\n");
    print(ask.form.output, &json!({ "message": message }), text, out)
}

pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Unexpected(error.to_string()))
}

impl Reply {
    pub(super) fn success(self) -> Result<bytes::Bytes, ClientError> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let body = String::from_utf8_lossy(&self.body);
        Err(ClientError::Refused {
            status: self.status,
            body: table::clean(body.trim()),
        })
    }
}
