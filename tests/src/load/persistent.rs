//! What client-go does above its transport: it waits and sends again what a server told it to send again, whatever the method, and a GET
//! whose connection was lost (`client-go/rest/with_retry.go`, `rest/request.go`).

use std::io;
use std::time::Duration;

use http::{Method, StatusCode, header};

use super::{Call, Client, Failure, Reply};

/// A client that does not give up at once.
pub struct Persistent(Client);

/// What became of a request.
#[derive(Debug)]
pub struct Sent {
    pub outcome: Result<Reply, Failure>,
    /// How often it was sent again.
    pub repeats: u32,
}

/// `rest.Request.maxRetries`.
const MOST: u32 = 10;
/// Before a GET is sent again whose connection was lost.
const LOST: Duration = Duration::from_secs(1);

impl Persistent {
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, call: &Call) -> Sent {
        let mut repeats = 0;
        loop {
            let outcome = self.0.send(call).await;
            let wait = match &outcome {
                Ok(reply) => told_to_wait(reply),
                Err(failure) if call.method == Method::GET => lost(failure).then_some(LOST),
                Err(_) => None,
            };
            match wait {
                Some(wait) if repeats < MOST => tokio::time::sleep(wait).await,
                _ => return Sent { outcome, repeats },
            }
            repeats += 1;
        }
    }
}

/// `checkWait`: 429 and 5xx with a whole number of seconds in Retry-After.
fn told_to_wait(reply: &Reply) -> Option<Duration> {
    let asks = reply.status == StatusCode::TOO_MANY_REQUESTS || reply.status.is_server_error();
    let seconds = reply.headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    let seconds = seconds.parse().ok()?;
    asks.then(|| Duration::from_secs(seconds))
}

/// `IsConnectionReset` and `IsProbableEOF`: not a stream that was reset, which leaves the connection as it is.
fn lost(failure: &Failure) -> bool {
    let error = match failure {
        Failure::Connect(error) => {
            return matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof
            );
        }
        Failure::Broken(error) => error,
        Failure::Timeout(_) | Failure::Request(_) => return false,
    };
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return !h2.is_reset();
        }
        next = error.source();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, after: Option<&str>) -> Reply {
        let mut headers = http::HeaderMap::new();
        if let Some(after) = after {
            headers.insert(header::RETRY_AFTER, after.parse().unwrap());
        }
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
            body: bytes::Bytes::new(),
        }
    }

    #[test]
    fn only_what_says_when_is_sent_again() {
        let second = Some(Duration::from_secs(1));
        for (status, after, expected) in [
            (503, Some("1"), second),
            (429, Some("1"), second),
            (504, Some("1"), second),
            (503, None, None),
            (404, Some("1"), None),
            (200, Some("1"), None),
            (503, Some("soon"), None),
        ] {
            assert_eq!(told_to_wait(&reply(status, after)), expected, "{status}");
        }
    }
}
