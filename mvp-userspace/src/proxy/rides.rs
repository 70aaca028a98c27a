//! Connections to servers that the requests of one stranger share.
//!
//! A stranger's request rides no connection of somebody else (see [`super::lane`]), but those that come together on one client connection
//! with the same credentials are one caller's, and can cost a server one handshake instead of one for each. They part when the first
//! is answered: the server ends the connection behind that answer, and what is sent after it would be refused. All of them have one
//! place in quarantine: it is the connection and its handshake that others would have to wait for.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::client::conn::http1;
use rustls::ClientConfig;

use super::body::UploadBody;
use super::error::AttemptError;
use super::http2;
use super::quarantine::QuarantinePermit;
use crate::identity::Credentials;
use crate::net::OpenCount;

/// Sets of credentials on one client connection above which those that nobody rides with are forgotten.
const MANY: usize = 32;

/// Of one client connection.
#[derive(Default)]
pub struct Rides(Mutex<HashMap<(usize, Credentials), Arc<Slot>>>);

/// Held while the connection is made.
type Slot = tokio::sync::Mutex<Latest>;

#[derive(Default)]
struct Latest {
    /// It keeps no connection open: its riders do.
    ride: Weak<Ride>,
    /// The latest dial failed, or was given up, or is under way.
    failed: bool,
}

/// Who wants a connection.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub credentials: Credentials,
    /// Where the caller is.
    pub address: IpAddr,
    /// Of the client's connection. `None`: the request is to have a connection for itself, since one that it shared has failed.
    pub rides: Option<&'a Rides>,
}

/// One HTTP/2 connection for one stranger.
pub(super) struct Ride {
    pub(super) sender: http2::Sender,
    /// Of the server's end.
    pub(super) address: SocketAddr,
    /// The TLS configuration it was made with.
    pub(super) tls: Arc<ClientConfig>,
    /// No further request may get on.
    pub(super) left: AtomicBool,
    /// The connection's place in quarantine, until a server accepts the caller.
    pub(super) place: Mutex<Option<QuarantinePermit>>,
    /// Counts the connection.
    pub(super) _open: OpenCount,
}

impl Rides {
    /// A connection to the server with this place in memory: the one that others with these credentials wait for or were just given, else
    /// what `dial` makes.
    ///
    /// # Errors
    /// Those of `dial`. Whoever waited for a dial that failed, or was given up, dials for itself.
    pub(super) async fn together<T>(
        &self,
        server: usize,
        credentials: Credentials,
        tls: &Arc<ClientConfig>,
        dial: impl AsyncFnOnce() -> Result<Made<T>, AttemptError>,
    ) -> Result<Made<T>, AttemptError> {
        let slot = self.slot(server, credentials);
        let (mut latest, waited) = match slot.try_lock() {
            Ok(latest) => (latest, false),
            Err(_) => (slot.lock().await, true),
        };
        let ride = latest.ride.upgrade();
        if let Some(ride) = ride.filter(|ride| ride.takes(tls)) {
            return Ok(Made::Ride(ride));
        }
        if waited && latest.failed {
            drop(latest);
            return dial().await;
        }
        latest.failed = true;
        let made = dial().await?;
        latest.failed = false;
        if let Made::Ride(ride) = &made {
            latest.ride = Arc::downgrade(ride);
        }
        Ok(made)
    }

    fn slot(&self, server: usize, credentials: Credentials) -> Arc<Slot> {
        // Slots stay what they are after a panic elsewhere.
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MANY {
            // Nobody is in it, or on the way into it.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry((server, credentials)).or_default())
    }
}

/// What a dial made: HTTP/2 that can be ridden together, or something that cannot.
pub(super) enum Made<T> {
    Ride(Arc<Ride>),
    Other(T),
    /// It is not needed any more.
    Nothing,
}

/// An HTTP/1.1 connection for one request.
pub(super) struct Http1Alone {
    pub(super) sender: http1::SendRequest<UploadBody>,
    /// Of the server's end.
    pub(super) address: SocketAddr,
    pub(super) place: QuarantinePermit,
    /// Counts the connection.
    pub(super) open: OpenCount,
}

impl std::fmt::Debug for Ride {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = &self.address;
        f.debug_struct("Ride")
            .field("address", address)
            .finish_non_exhaustive()
    }
}

impl Ride {
    /// The server accepts the caller: nobody else waits for the end of this connection.
    pub(super) fn leave_quarantine(&self) {
        // A place stays what it is after a panic elsewhere.
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether one more request may get on.
    fn takes(self: &Arc<Self>, tls: &Arc<ClientConfig>) -> bool {
        let mut sender = self.sender.clone();
        !self.left.load(Ordering::Relaxed)
            && Arc::ptr_eq(&self.tls, tls)
            && !sender.is_closed()
            // This reference is one of those that are counted.
            && Arc::strong_count(self) <= sender.stream_limit()
    }
}

#[cfg(test)]
#[path = "rides_tests.rs"]
mod tests;
