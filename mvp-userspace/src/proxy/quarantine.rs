//! Places for connections that unknown callers do not share with others. They are few, and one client address has only some of them, so that
//! an unknown caller costs a server few connections and other unknown callers little time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::blame::Ending;
use super::error::AttemptError;
use super::lane::Lane;

/// Connections at a time, for each data thread, server and lane.
const PLACES: usize = 16;
/// The same for one client address.
const PER_ADDRESS: usize = 6;
/// The number of addresses above which those that no request waits for are forgotten.
const MANY: usize = 1024;

/// The places of one data thread.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<Semaphores>);

#[derive(Debug, Default)]
struct Semaphores {
    servers: HashMap<(usize, Lane), Arc<Semaphore>>,
    addresses: HashMap<(usize, Lane, IpAddr), Arc<Semaphore>>,
}

/// A place; dropping this gives it back.
#[derive(Debug)]
pub(super) struct QuarantinePermit {
    _server: OwnedSemaphorePermit,
    _address: OwnedSemaphorePermit,
}

impl Quarantine {
    /// Waits for a place at the server that has this address in memory, until `deadline`. Who came first is served first.
    ///
    /// # Errors
    /// No place became free in time.
    pub(super) async fn enter(
        &self,
        server: usize,
        lane: Lane,
        address: IpAddr,
        deadline: Instant,
    ) -> Result<QuarantinePermit, AttemptError> {
        let (of_server, of_address) = self.semaphores(server, lane, address);
        let places = async {
            // This order makes the requests of an address wait for each other.
            let own = of_address.acquire_owned().await.ok()?;
            let place = of_server.acquire_owned().await.ok()?;
            Some(QuarantinePermit {
                _server: place,
                _address: own,
            })
        };
        match tokio::time::timeout_at(deadline, places).await {
            Ok(Some(place)) => Ok(place),
            _ => Err(AttemptError::new(
                Ending::Shortage,
                "too many requests of callers who are not known to be authenticated are under way",
            )),
        }
    }

    fn semaphores(
        &self,
        server: usize,
        lane: Lane,
        address: IpAddr,
    ) -> (Arc<Semaphore>, Arc<Semaphore>) {
        let mut places = lock(&self.0);
        if places.addresses.len() > MANY {
            places
                .addresses
                .retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
            places
                .servers
                .retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        }
        let server_places = places
            .servers
            .entry((server, lane))
            .or_insert_with(|| Arc::new(Semaphore::new(PLACES)));
        let server_places = Arc::clone(server_places);
        let own = places
            .addresses
            .entry((server, lane, address))
            .or_insert_with(|| Arc::new(Semaphore::new(PER_ADDRESS)));
        (server_places, Arc::clone(own))
    }
}

fn lock(places: &Mutex<Semaphores>) -> MutexGuard<'_, Semaphores> {
    // Semaphores stay what they are after a panic elsewhere.
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(30)
    }

    #[tokio::test]
    async fn one_address_leaves_places_to_others() {
        let quarantine = Quarantine::default();
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let mut held = Vec::new();
        for _ in 0..PER_ADDRESS {
            held.push(
                quarantine
                    .enter(1, Lane::Anonymous, address(1), soon())
                    .await
                    .unwrap(),
            );
        }
        let next = quarantine.enter(1, Lane::Anonymous, address(1), soon());
        let mut next = std::pin::pin!(next);
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        // Another address, lane or server is not concerned.
        quarantine
            .enter(1, Lane::Anonymous, address(2), soon())
            .await
            .unwrap();
        quarantine
            .enter(1, Lane::UnknownToken, address(1), soon())
            .await
            .unwrap();
        quarantine
            .enter(2, Lane::Anonymous, address(1), soon())
            .await
            .unwrap();
        held.pop();
        next.await.unwrap();
    }

    #[tokio::test]
    async fn addresses_are_forgotten() {
        let quarantine = Quarantine::default();
        for n in 0..MANY as u32 * 2 {
            let address = IpAddr::from(n.to_be_bytes());
            drop(
                quarantine
                    .enter(1, Lane::Anonymous, address, soon())
                    .await
                    .unwrap(),
            );
        }
        assert!(lock(&quarantine.0).addresses.len() <= MANY + 1);
    }
}
