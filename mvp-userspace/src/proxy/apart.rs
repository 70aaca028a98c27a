//! Connections to servers for strangers: callers of whom it is not known that a server accepts them. What they ask shares no connection with
//! other callers' requests, since a server ends a connection behind an answer to somebody whom it does not know.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::checkout::{Alone, Checkout, Lease, Sender};
use super::connect::{Connected, Purpose, connect};
use super::error::AttemptError;
use super::lane::Lane;
use super::pool::{Pool, key_of};
use super::quarantine::QuarantinePermit;
use super::rides::{Asking, Http1Alone, Made, Ride};
use crate::net::OpenCount;
use crate::route::Server;
use crate::tls::Alpn;

/// A request for which no connection was found within this is refused.
const PATIENCE: Duration = Duration::from_secs(30);

impl Pool {
    /// A connection apart from all others': one that requests of the same stranger share, if there is any, else a new one. `None`: the server
    /// has accepted the caller meanwhile, who may share connections now. Clients of a server that went come here all at once, and a handshake
    /// for each of them would overload this one.
    ///
    /// # Errors
    /// There is none, or none within [`PATIENCE`].
    pub(super) async fn checkout_apart(
        &self,
        server: &Arc<Server>,
        lane: Lane,
        caller: Asking<'_>,
        uploads: bool,
    ) -> Result<Option<Checkout>, AttemptError> {
        let deadline = Instant::now() + PATIENCE;
        let tls = self.tls().config(lane.class(), Alpn::H2OrHttp1);
        let dial = async || {
            let address = caller.address.to_canonical();
            let place = self
                .quarantine()
                .enter(key_of(server), lane, address, deadline);
            let place = place.await?;
            match self.lane_now(server, caller.credentials).is_quarantine() {
                true => self.dial_apart(server, lane, &tls, place).await,
                false => Ok(Made::Nothing),
            }
        };
        // What cannot be sent twice may not be refused because of what came before it on a shared connection.
        let made = match caller.rides.filter(|_| !uploads) {
            Some(rides) => {
                let together = rides.together(key_of(server), caller.credentials, &tls, dial);
                together.await?
            }
            None => dial().await?,
        };
        Ok(match made {
            Made::Ride(ride) => {
                let lease = Lease::new(server, ride.address, None);
                let sender = Sender::Alone(Alone::Http2(ride));
                Some(Checkout {
                    upload: None,
                    lease,
                    sender,
                })
            }
            Made::Other(alone) => {
                let lease = Lease::new(server, alone.address, None);
                Some(Checkout {
                    upload: None,
                    lease: lease.quarantined(alone.place, alone.open),
                    sender: Sender::Alone(Alone::Http1(alone.sender)),
                })
            }
            Made::Nothing => None,
        })
    }

    async fn dial_apart(
        &self,
        server: &Arc<Server>,
        lane: Lane,
        tls: &Arc<rustls::ClientConfig>,
        place: QuarantinePermit,
    ) -> Result<Made<Http1Alone>, AttemptError> {
        let name = self.tls().server_name();
        let (endpoint, settings) = (&server.endpoint, self.settings());
        let made = connect(endpoint, Arc::clone(tls), name, settings, Purpose::Alone).await?;
        let open = OpenCount::new(&self.counter(server, lane));
        Ok(match made {
            Connected::Http2 {
                sender, address, ..
            } => Made::Ride(Arc::new(Ride {
                sender,
                address,
                tls: Arc::clone(tls),
                left: AtomicBool::new(false),
                place: Mutex::new(Some(place)),
                _open: open,
            })),
            Connected::Http1 { sender, address } => Made::Other(Http1Alone {
                sender,
                address,
                place,
                open,
            }),
        })
    }
}
