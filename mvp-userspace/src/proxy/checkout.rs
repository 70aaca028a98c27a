//! One request's place on a connection to a server, from the moment it is found one until its answer has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http::{Response, Version};
use hyper::client::conn::http1;

use super::attempt::attempt_error;
use super::blame::Ending;
use super::body::UploadBody;
use super::error::AttemptError;
use super::http2;
use super::outgoing::UpstreamRequest;
use super::pool::{Host, Http1, lock};
use super::quarantine::QuarantinePermit;
use super::rides::Ride;
use super::tunnels::PeerPlace;
use super::wire_body::WireBody;
use crate::net::OpenCount;
use crate::route::Server;

/// A place on a connection, taken for one request until its answer has ended.
#[derive(Debug)]
pub struct Lease {
    pub address: SocketAddr,
    server: Arc<Server>,
    active: Option<Arc<AtomicUsize>>,
    /// A request's own place in quarantine.
    place: Option<QuarantinePermit>,
    /// A tunnel's place among those to other nodes.
    _tunnel: Option<PeerPlace>,
    /// A connection for this request alone.
    _open: Option<OpenCount>,
    /// A connection for one stranger's requests. It stays open, and counted, until their answers have ended.
    ride: Option<Arc<Ride>>,
}

/// A connection taken for one request.
pub struct Checkout {
    pub lease: Lease,
    pub(super) sender: Sender,
    /// Counts as an upload under way until the head of the answer, and until the body has been sent.
    pub(super) upload: Option<Arc<OpenCount>>,
}

pub(super) enum Sender {
    Http2(http2::Sender),
    /// A connection for one stranger only.
    Alone(Alone),
    Http1 {
        connection: Http1,
        host: Arc<Host>,
    },
}

pub(super) enum Alone {
    Http2(Arc<Ride>),
    Http1(http1::SendRequest<UploadBody>),
}

impl Lease {
    pub(super) fn new(
        server: &Arc<Server>,
        address: SocketAddr,
        active: Option<&Arc<AtomicUsize>>,
    ) -> Self {
        server.outstanding.fetch_add(1, Ordering::Relaxed);
        if let Some(active) = active {
            active.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            address,
            server: Arc::clone(server),
            active: active.cloned(),
            place: None,
            _tunnel: None,
            _open: None,
            ride: None,
        }
    }

    /// With a connection for this request alone.
    pub(super) fn quarantined(mut self, place: QuarantinePermit, open: OpenCount) -> Self {
        self.place = Some(place);
        self._open = Some(open);
        self
    }

    /// Whether others may wait for its end.
    pub(super) fn is_quarantined(&self) -> bool {
        self.place.is_some() || self.ride.is_some()
    }

    /// The server accepts the caller.
    pub(super) fn leave_quarantine(&mut self) {
        self.place = None;
        if let Some(ride) = &self.ride {
            ride.leave_quarantine();
        }
    }

    /// For a connection outside the pool (an upgrade), with its place if it goes to another node.
    pub fn of_tunnel(server: &Arc<Server>, address: SocketAddr, tunnel: Option<PeerPlace>) -> Self {
        let mut lease = Self::new(server, address, None);
        lease._tunnel = tunnel;
        lease
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.server.outstanding.fetch_sub(1, Ordering::Relaxed);
        if let Some(active) = &self.active {
            active.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Checkout {
    pub fn version(&self) -> Version {
        match self.sender {
            Sender::Http2(_) | Sender::Alone(Alone::Http2(_)) => Version::HTTP_2,
            Sender::Http1 { .. } | Sender::Alone(Alone::Http1(_)) => Version::HTTP_11,
        }
    }

    /// What counts the request's body among the uploads of its connection.
    pub fn upload(&self) -> Option<Arc<OpenCount>> {
        self.upload.clone()
    }

    /// Sends one request and waits for the head of its answer. Dropping the future cancels the request at the server.
    pub async fn send(
        self,
        request: UpstreamRequest,
    ) -> Result<(Response<WireBody>, Lease), AttemptError> {
        let _upload = self.upload;
        match self.sender {
            Sender::Http2(mut sender) => match sender.send(request).await {
                Ok(response) => Ok((response, self.lease)),
                Err(error) => Err(once(error, || sender.breaks_first())),
            },
            Sender::Alone(alone) => {
                let mut lease = self.lease;
                let sent = match alone {
                    Alone::Http2(ride) => {
                        let sent = ride.sender.clone().send(request).await;
                        ride.left.store(true, Ordering::Relaxed);
                        lease.ride = Some(ride);
                        sent
                    }
                    Alone::Http1(mut sender) => {
                        match sender.try_send_request(request.into_http()).await {
                            Ok(response) => Ok(response.map(WireBody::Http1)),
                            Err(error) => Err(attempt_error(error.into_error())),
                        }
                    }
                };
                match sent {
                    Ok(response) => Ok((response, lease)),
                    Err(error) => Err(quarantined(error)),
                }
            }
            Sender::Http1 {
                mut connection,
                host,
            } => match connection
                .sender
                .try_send_request(request.into_http())
                .await
            {
                Ok(response) => {
                    tokio::spawn(async move {
                        // Ready once the answer's body has been read to its end; an error means that it closed.
                        if connection.sender.ready().await.is_ok() {
                            connection.since = Instant::now();
                            lock(&host.state).http1.push(connection);
                        }
                    });
                    Ok((response.map(WireBody::Http1), self.lease))
                }
                Err(error) => Err(attempt_error(error.into_error())),
            },
        }
    }
}

/// One connection's break is one failure of its server, however many requests were under way on it.
fn once(error: AttemptError, breaks_first: impl FnOnce() -> bool) -> AttemptError {
    let breaks = matches!(
        error.ending,
        Ending::ConnectionBroken | Ending::ConnectionMalformed
    );
    match breaks && !breaks_first() {
        true => error.becomes(Ending::SharedBreak),
        false => error,
    }
}

/// If a connection breaks that was used for the requests of one unknown caller, it says nothing about the server.
fn quarantined(error: AttemptError) -> AttemptError {
    match error.ending {
        Ending::ConnectionBroken | Ending::ConnectionMalformed => {
            error.becomes(Ending::QuarantineBroken)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_break_is_one_failure_however_many_requests_notice_it() {
        let broken = std::cell::Cell::new(false);
        let notice = |ending| once(AttemptError::bare(ending), || !broken.replace(true)).ending;
        assert_eq!(notice(Ending::RequestRejected), Ending::RequestRejected);
        assert_eq!(notice(Ending::ConnectionBroken), Ending::ConnectionBroken);
        for _ in 0..10 {
            assert_eq!(notice(Ending::ConnectionBroken), Ending::SharedBreak);
            assert_eq!(notice(Ending::ConnectionMalformed), Ending::SharedBreak);
        }
        assert_eq!(notice(Ending::GoingAway), Ending::GoingAway);
    }

    #[test]
    fn a_strangers_connection_says_nothing_of_its_server() {
        for ending in Ending::ALL {
            let seen = quarantined(AttemptError::bare(ending)).ending;
            let broke = matches!(
                ending,
                Ending::ConnectionBroken | Ending::ConnectionMalformed
            );
            assert_eq!(
                seen,
                if broke {
                    Ending::QuarantineBroken
                } else {
                    ending
                }
            );
        }
    }
}
