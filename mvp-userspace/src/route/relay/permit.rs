//! Whether one new connection is relayed, and to which server.

use std::net::IpAddr;
use std::time::Duration;

use super::hot::HotClient;
use crate::codes::codes;
use crate::route::{Knowledge, Member, RouteTable, ServerSet};
use crate::tls::ProbeView;

/// A probe older than this proves nothing.
pub(super) const PROBE_AGE: Duration = Duration::from_secs(60);

codes! {
    /// Why a connection is inspected, in the order in which the conditions are asked: of several servers, the reason is that
    /// of the one which came furthest. `docs/relay.md` lists them; a test compares.
    InspectReason {
        RelayOff "relay_off" "relay.mode is off",
        InteroperabilityOff "interoperability_off" "the feature is switched off: everything is answered by the local server",
        Draining "draining" "the agent is draining",
        NoClientHello "no_client_hello" "the client sent no TLS ClientHello that could be read in time",
        NoServerName "no_server_name" "the client names no server in TLS, and relay.withoutServerName is false",
        AsksAboutServer "asks_about_server" "the client's address asked for probes, /version or the like within ten minutes: what is about this server stays with it",
        NotHot "not_hot" "few of this client's requests were forwarded",
        LocalSuffices "local_suffices" "the local server serves all that any other does",
        OthersUnknown "others_unknown" "some server's knowledge is not confirmed: it may serve what no other does",
        NoSuperset "no_superset" "no other server serves all that any does, verbs and subresources included",
        ServerNotConfirmed "server_not_confirmed" "what the server serves is not freshly confirmed",
        ServerUnavailable "server_unavailable" "the server cannot be used now",
        NotProbed "not_probed" "no handshake with this name was tried on the server within a minute",
        OtherCa "other_ca" "the server's certificate for this name is not of the CA that issued the agent's own",
        NameNotCovered "name_not_covered" "the server's certificate is not valid for this name",
        CertificateChanged "certificate_changed" "the server's certificate for this name changed within the last minute",
        Share "share" "relay.maxShare of this node's connections are relayed already",
    }
}

/// What is known of a client whose connection has just been accepted.
#[derive(Clone, Copy, Debug)]
pub struct ClientHelloFacts<'a> {
    /// False if what the client sent is no ClientHello that could be read whole.
    pub readable: bool,
    /// The name that it asks for, in lower case; `None`: it names none.
    pub server_name: Option<&'a str>,
    /// Whether its address asked about this very server lately ([`super::AboutThisServer`]).
    pub asks_about_server: bool,
    /// Whether the client is hot now ([`HotClient::is_hot`]).
    pub hot: bool,
    /// The client's memory, if there is one.
    pub client: Option<&'a HotClient>,
}

/// What the last probe of one server with the client's server name showed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProbeFacts {
    /// Time since that probe succeeded.
    pub age: Duration,
    /// How long the certificate has been the same.
    pub unchanged_for: Duration,
    /// The chain leads to the CA that issued the certificate which the agent itself shows for the name.
    pub same_ca: bool,
    /// True also for a client that names no server: there is no name to check.
    pub valid_for_name: bool,
}

impl From<ProbeView> for ProbeFacts {
    fn from(view: ProbeView) -> Self {
        Self {
            age: view.age,
            unchanged_for: view.unchanged_for,
            same_ca: view.same_ca,
            valid_for_name: view.valid_for_name,
        }
    }
}

/// What is known of the rest of the world.
#[derive(Clone, Copy, Debug)]
pub struct RelayConditions<'a> {
    /// `relay.mode` is not `off`.
    pub enabled: bool,
    /// `--feature-gates=UnknownVersionInteroperabilityProxy`; false: everything stays with the local server.
    pub interoperability: bool,
    /// The agent is ending, and takes nothing new.
    pub draining: bool,
    /// `relay.withoutServerName`.
    pub without_server_name: bool,
    /// `relay.maxShare`.
    pub max_share: f64,
    /// For how long a certificate must have been the same: [`crate::config::CERTIFICATE_AGE`].
    pub certificate_age: Duration,
    /// Who serves what, and who may be chosen.
    pub table: &'a RouteTable,
    /// By the index of the table's members; what is missing was not probed.
    pub probes: &'a [Option<ProbeFacts>],
    /// Relayed connections to each server, by the index of the table's members.
    pub relayed: &'a [usize],
    /// Relayed connections to any server, those that left the membership included.
    pub relayed_total: usize,
    /// Open client connections of this node, relayed ones and this one included.
    pub open: usize,
}

/// What happens to a new connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RelayDecision {
    /// Relay to the member of the table with this index.
    Relay {
        /// An index into the table's members.
        server: usize,
    },
    /// The agent terminates TLS, for this reason.
    Inspect(InspectReason),
}

/// Decides. Nothing of the connection has been consumed, so that a relay which fails can still be inspected.
pub fn decide(hello: &ClientHelloFacts<'_>, view: &RelayConditions<'_>) -> RelayDecision {
    match permit(hello, view) {
        Ok(server) => RelayDecision::Relay { server },
        Err(reason) => RelayDecision::Inspect(reason),
    }
}

/// Why no connection at all could be relayed now, as far as the servers' sets and health say; `None`: one could, and is worth a
/// look. Costs a few loads.
pub fn impossible(table: &RouteTable) -> Option<InspectReason> {
    let fit = peers(table).filter(|(index, _)| table.is_superset(*index));
    let (mut any, mut confirmed, mut available) = (false, false, false);
    for (_, member) in fit {
        any = true;
        confirmed |= member.knowledge == Knowledge::Confirmed;
        available |= member.knowledge == Knowledge::Confirmed && member.server.available();
    }
    [
        (!local_suffices(table), InspectReason::LocalSuffices),
        (all_known(table), InspectReason::OthersUnknown),
        (any, InspectReason::NoSuperset),
        (confirmed, InspectReason::ServerNotConfirmed),
        (available, InspectReason::ServerUnavailable),
    ]
    .into_iter()
    .find_map(|(holds, reason)| (!holds).then_some(reason))
}

/// Whether one more relayed connection stays within `share` of `open` connections.
pub(super) fn within_share(relayed: usize, open: usize, share: f64) -> bool {
    relayed as f64 <= share * open as f64
}

/// Whether the sets of all servers are known well enough to say that one contains the others'. A server where nothing listens
/// serves nothing now.
pub(super) fn all_known(table: &RouteTable) -> bool {
    table
        .members()
        .iter()
        .all(|member| matches!(member.knowledge, Knowledge::Confirmed | Knowledge::Down))
}

/// Whether nothing needs to be forwarded.
pub(super) fn local_suffices(table: &RouteTable) -> bool {
    let superset = |index| table.is_superset(index);
    let local = table.local_set();
    table.available(local).iter().any(superset)
}

/// What one server lacks to be relayed to; `None`: nothing but room.
pub(super) fn lacks(
    index: usize,
    member: &Member,
    view: &RelayConditions<'_>,
) -> Option<InspectReason> {
    if !view.table.is_superset(index) {
        return Some(InspectReason::NoSuperset);
    }
    if member.knowledge != Knowledge::Confirmed {
        return Some(InspectReason::ServerNotConfirmed);
    }
    if !member.server.available() {
        return Some(InspectReason::ServerUnavailable);
    }
    let probe = view.probes.get(index).copied().flatten();
    let Some(probe) = probe.filter(|probe| probe.age <= PROBE_AGE) else {
        return Some(InspectReason::NotProbed);
    };
    [
        (probe.same_ca, InspectReason::OtherCa),
        (probe.valid_for_name, InspectReason::NameNotCovered),
        (
            probe.unchanged_for >= view.certificate_age,
            InspectReason::CertificateChanged,
        ),
    ]
    .into_iter()
    .find_map(|(holds, reason)| (!holds).then_some(reason))
}

fn permit(
    hello: &ClientHelloFacts<'_>,
    view: &RelayConditions<'_>,
) -> Result<usize, InspectReason> {
    let table = view.table;
    let named = hello.server_name.is_some();
    for (holds, reason) in [
        (view.enabled, InspectReason::RelayOff),
        (view.interoperability, InspectReason::InteroperabilityOff),
        (!view.draining, InspectReason::Draining),
        (hello.readable, InspectReason::NoClientHello),
        (
            named || view.without_server_name,
            InspectReason::NoServerName,
        ),
        (!hello.asks_about_server, InspectReason::AsksAboutServer),
        (hello.hot, InspectReason::NotHot),
        (!local_suffices(table), InspectReason::LocalSuffices),
        (all_known(table), InspectReason::OthersUnknown),
    ] {
        if !holds {
            return Err(reason);
        }
    }
    let mut furthest = InspectReason::NoSuperset;
    let mut fit = ServerSet::EMPTY;
    for (index, member) in peers(table) {
        match lacks(index, member, view) {
            None => fit.insert(index),
            Some(reason) => furthest = furthest.max(reason),
        }
    }
    let relayed_to = |index: usize| view.relayed.get(index).copied().unwrap_or(0);
    let prefers = |index: usize| {
        let server = table.member(index).map(|member| &member.server);
        server.is_some_and(|server| hello.client.is_some_and(|client| client.prefers(server)))
    };
    let best = fit
        .iter()
        .min_by_key(|&index| (!prefers(index), relayed_to(index)));
    match best {
        None => Err(furthest),
        Some(_) if !within_share(view.relayed_total + 1, view.open, view.max_share) => {
            Err(InspectReason::Share)
        }
        Some(server) => Ok(server),
    }
}

/// All servers but the local one, with their index.
pub(super) fn peers(table: &RouteTable) -> impl Iterator<Item = (usize, &Member)> {
    table
        .members()
        .iter()
        .enumerate()
        .filter(|(_, member)| !member.server.local)
}

/// An address and the name asked for, as people read them.
pub(super) fn who(address: IpAddr, server_name: Option<&str>) -> String {
    match server_name {
        Some(name) => format!("{address} asking for {name}"),
        None => format!("{address} naming no server"),
    }
}

#[cfg(test)]
#[path = "permit_tests.rs"]
mod tests;
