//! A control plane in the middle of an upgrade, in which a client is relayed; tests then break one thing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{ClientHelloFacts, HotClient, HotSettings, HotTable, ProbeFacts, RelayConditions};
use crate::config::CERTIFICATE_AGE;
use crate::route::testing::{member, table};
use crate::route::{Member, RouteTable};

pub(super) const SETTINGS: HotSettings = HotSettings {
    after: 20,
    window: Duration::from_secs(10),
};

pub(super) const GOOD: ProbeFacts = ProbeFacts {
    age: Duration::from_secs(10),
    unchanged_for: Duration::from_secs(90),
    same_ca: true,
    valid_for_name: true,
};

pub(super) const OLD: &[&str] = &["v1 pods get,list"];
pub(super) const NEW: &[&str] = &["v1 pods get,list,watch", "v1 pods/resize get,patch"];

pub(super) struct World {
    pub enabled: bool,
    pub interoperability: bool,
    pub draining: bool,
    pub without_server_name: bool,
    pub max_share: f64,
    pub table: RouteTable,
    pub probes: Vec<Option<ProbeFacts>>,
    pub relayed: Vec<usize>,
    pub open: usize,
    pub readable: bool,
    pub asks_about_server: bool,
    pub hot: bool,
    pub client: Arc<HotClient>,
}

impl World {
    /// cp-a is local and old, cp-b new, cp-c old.
    pub(super) fn upgrade() -> Self {
        Self::of([
            member("cp-a", true, OLD),
            member("cp-b", false, NEW),
            member("cp-c", false, OLD),
        ])
    }

    /// With good probes of all of them, and room.
    pub(super) fn of(members: impl IntoIterator<Item = Member>) -> Self {
        let table = table(members);
        let now = Instant::now();
        Self {
            enabled: true,
            interoperability: true,
            draining: false,
            without_server_name: false,
            max_share: 0.5,
            probes: vec![Some(GOOD); table.members().len()],
            relayed: vec![0; table.members().len()],
            table,
            open: 10,
            readable: true,
            asks_about_server: false,
            hot: true,
            client: HotTable::new(SETTINGS, now).client([10, 0, 0, 9].into(), None, now),
        }
    }

    pub(super) fn hello<'a>(&'a self, server_name: Option<&'a str>) -> ClientHelloFacts<'a> {
        ClientHelloFacts {
            readable: self.readable,
            server_name,
            asks_about_server: self.asks_about_server,
            hot: self.hot,
            client: Some(&self.client),
        }
    }

    pub(super) fn view(&self) -> RelayConditions<'_> {
        RelayConditions {
            enabled: self.enabled,
            interoperability: self.interoperability,
            draining: self.draining,
            without_server_name: self.without_server_name,
            max_share: self.max_share,
            certificate_age: CERTIFICATE_AGE,
            table: &self.table,
            probes: &self.probes,
            relayed: &self.relayed,
            relayed_total: self.relayed.iter().sum(),
            open: self.open,
        }
    }
}
