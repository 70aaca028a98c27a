//! What client-go does above its transport: it waits and sends again what a server asked it to send again, whatever the method, and a GET
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
    /// The last answer, or why there is none.
    pub outcome: Result<Reply, Failure>,
    /// How often an answer said that it is to be sent again.
    pub deferred: u32,
    /// How often its connection was lost.
    pub lost: u32,
}

/// `rest.Request.maxRetries`.
const MOST: u32 = 10;
/// Before a GET is sent again whose connection was lost.
const LOST: Duration = Duration::from_secs(1);

impl Sent {
    /// How often it was sent again.
    pub fn repeats(&self) -> u32 {
        let last = match &self.outcome {
            Err(failure) if is_lost(failure) => 1,
            _ => 0,
        };
        self.deferred + self.lost - last
    }
}

impl Persistent {
    /// Sends by this transport.
    pub fn new(client: Client) -> Self {
        Self(client)
    }

    /// The transport alone, which sends nothing again that a server may have seen.
    pub fn transport(&self) -> &Client {
        &self.0
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, call: &Call) -> Sent {
        let (mut deferred, mut lost) = (0, 0);
        loop {
            let outcome = self.0.send(call).await;
            let told = outcome.as_ref().ok().and_then(told_to_wait);
            let broken = outcome.as_ref().err().is_some_and(is_lost);
            lost += u32::from(broken);
            let wait = told.or((broken && call.method == Method::GET).then_some(LOST));
            match wait {
                Some(wait) if deferred + lost <= MOST => tokio::time::sleep(wait).await,
                _ => {
                    return Sent {
                        outcome,
                        deferred,
                        lost,
                    };
                }
            }
            deferred += u32::from(told.is_some());
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
pub fn is_lost(failure: &Failure) -> bool {
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
