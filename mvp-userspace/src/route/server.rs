//! One kube-apiserver as every thread sees it.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::Departure;
use super::health::{Failure, Health, HealthState, HealthView, ReadyzOutcome};
use crate::config::Endpoint;
use crate::tls::IdentityClass;

/// Shared by all threads and by every route table that mentions the server.
#[derive(Debug)]
pub struct Server {
    /// As in routes, metrics and logs.
    pub name: Arc<str>,
    /// Where it is dialled.
    pub endpoint: Endpoint,
    /// It is the kube-apiserver of this node.
    pub local: bool,
    /// Whether it is about to stop.
    pub departure: Departure,
    /// Requests sent to it and not yet finished, over all threads.
    pub outstanding: AtomicUsize,
    /// Identity classes that nothing may be sent with yet: bits of [`unproved_bit`], and [`NO_UID`].
    unproved: AtomicU8,
    /// `AVAILABLE` and `SPOTLESS`, written under the lock of `health`, so that the data path reads one byte.
    flags: AtomicU8,
    /// [`Release`], as a number; 0 while it is not known.
    release: AtomicU64,
    health: Mutex<Health>,
}

/// Major and minor version. What a server knows of the API does not depend on the patch.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Release {
    /// 1 for every Kubernetes so far.
    pub major: u32,
    /// The number by which servers of one control plane differ while it is upgraded.
    pub minor: u32,
}

/// It does not take a uid from a front proxy.
const NO_UID: u8 = 4;
const AVAILABLE: u8 = 1;
/// Available and without a failure to forget: a success changes nothing.
const SPOTLESS: u8 = 2;

impl Server {
    /// A server that nothing speaks against yet.
    pub fn new(endpoint: Endpoint, local: bool) -> Self {
        Self {
            name: Arc::from(endpoint.name.as_str()),
            endpoint,
            local,
            departure: Departure::default(),
            outstanding: AtomicUsize::new(0),
            unproved: AtomicU8::new(0),
            flags: AtomicU8::new(AVAILABLE | SPOTLESS),
            release: AtomicU64::new(0),
            health: Mutex::new(Health::new(SystemTime::now())),
        }
    }

    /// The same, with what is known of the address.
    pub fn with_departure(self, departure: Departure) -> Self {
        Self { departure, ..self }
    }

    /// True if the server may be chosen now. One atomic load; relaxed, because no other data hangs on it.
    pub fn available(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & AVAILABLE != 0
    }

    /// Nobody can use it, as far as is known: it cannot be used, and not only because of how this agent is met by it. Who shows it a
    /// certificate that it cannot verify serves others as before. Takes the lock unless the server is available.
    pub fn is_down(&self) -> bool {
        if self.available() {
            return false;
        }
        let health = self.health();
        let ours = health.state == HealthState::Ejected
            && health
                .last_failure
                .is_some_and(|(failure, _)| failure == Failure::Tls);
        !ours
    }

    /// Whether requests of this class may be sent to it: it was shown to accept them. One atomic load.
    pub fn proved(&self, class: IdentityClass) -> bool {
        self.unproved.load(Ordering::Acquire) & unproved_bit(class) == 0
    }

    /// A server is taken for proved until somebody who proves says otherwise: first of all that nothing is proved yet.
    pub fn set_proved(&self, class: IdentityClass, proved: bool) {
        let bit = unproved_bit(class);
        if proved {
            self.unproved.fetch_and(!bit, Ordering::Release);
        } else {
            self.unproved.fetch_or(bit, Ordering::Release);
        }
    }

    /// What it said of its version last; `None`: nothing yet.
    pub fn release(&self) -> Option<Release> {
        let release = self.release.load(Ordering::Relaxed);
        (release != 0).then_some(Release {
            major: (release >> 32) as u32,
            minor: release as u32,
        })
    }

    /// Noted by discovery after each `/version`.
    pub fn set_release(&self, release: Release) {
        let number = u64::from(release.major) << 32 | u64::from(release.minor);
        self.release.store(number, Ordering::Relaxed);
    }

    /// Whether an asserted user's uid arrives.
    pub fn takes_uid(&self) -> bool {
        self.unproved.load(Ordering::Acquire) & NO_UID == 0
    }

    /// Noted by discovery after each proof.
    pub fn set_takes_uid(&self, takes: bool) {
        match takes {
            true => self.unproved.fetch_and(!NO_UID, Ordering::Release),
            false => self.unproved.fetch_or(NO_UID, Ordering::Release),
        };
    }

    /// A request, connection or PING failed through the server's or the network's fault. A status code is no failure.
    pub fn failed(&self, failure: Failure) {
        self.update(|health, now| health.failed(failure, now));
    }

    /// A response head arrived. Takes no lock while the server is sound.
    pub fn succeeded(&self) {
        if self.flags.load(Ordering::Relaxed) & SPOTLESS == 0 {
            self.update(Health::succeeded);
        }
    }

    /// The active prober's result.
    pub fn probed(&self, probe: ReadyzOutcome) {
        self.update(|health, now| health.probed(probe, now));
    }

    /// The health as people see it; takes the lock.
    pub fn health(&self) -> HealthView {
        // A panic cannot leave `Health` half-written: its methods do not panic.
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.view().clone()
    }

    fn update(&self, event: impl FnOnce(&mut Health, SystemTime)) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        event(&mut health, SystemTime::now());
        let mut flags = 0;
        if health.is_available() {
            flags |= AVAILABLE;
        }
        if health.is_spotless() {
            flags |= SPOTLESS;
        }
        self.flags.store(flags, Ordering::Relaxed);
    }
}

fn unproved_bit(class: IdentityClass) -> u8 {
    match class {
        IdentityClass::FrontProxy => 1,
        IdentityClass::Bare => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::testing::server;

    #[test]
    fn classes_are_proved_apart() {
        let server = server("cp-a", true);
        server.set_proved(IdentityClass::FrontProxy, false);
        assert!(!server.proved(IdentityClass::FrontProxy) && server.proved(IdentityClass::Bare));
        server.set_proved(IdentityClass::Bare, false);
        server.set_proved(IdentityClass::FrontProxy, true);
        assert!(server.proved(IdentityClass::FrontProxy) && !server.proved(IdentityClass::Bare));
    }

    #[test]
    fn flags_follow_health() {
        let server = server("cp-a", true);
        assert_eq!(&*server.name, "cp-a");
        assert!(server.available());
        server.failed(Failure::Reset);
        assert!(server.available());
        server.succeeded();
        server.failed(Failure::Reset);
        server.failed(Failure::Reset);
        assert!(server.available(), "the success was forgotten");
        server.failed(Failure::Refused);
        assert!(!server.available());
        assert_eq!(server.health().state, HealthState::Ejected);
        assert_eq!(server.health().ejections, 1);
        server.probed(ReadyzOutcome::NotReady);
        server.succeeded();
        assert!(!server.available());
        server.probed(ReadyzOutcome::Ready);
        assert!(server.available());
        assert!(server.health().last_failure.is_some());
    }
}
