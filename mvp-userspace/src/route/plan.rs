//! The plan of a request: which servers are asked, in which order, and why. Forwarding follows it, and `mvp explain` prints it.

use std::sync::Arc;

use super::choose::choose;
use super::decide::{Context, Decision, Target, decide, usable};
use super::{Reason, RouteTable, Server, ServerSet};
use crate::request::{PathClass, RequestInfo, classify};

/// Servers in the order in which they are asked, and why. It is about one moment: after an attempt failed, health and knowledge may be
/// others, and a new plan is made.
///
/// The order is not written down but drawn: only the first server is needed for most requests, and among equals the one with the fewest
/// requests under way goes first.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    info: &'a RequestInfo<'a>,
    table: &'a RouteTable,
    context: Context,
    decision: Decision,
    /// Asked before all others, for a reason of their own.
    preferred: Option<(ServerSet, Reason)>,
}

/// Decides where a request goes. Pure but for the servers' health and load; no allocation.
pub fn plan<'a>(info: &'a RequestInfo<'a>, table: &'a RouteTable, context: Context) -> Plan<'a> {
    Plan {
        info,
        table,
        context,
        decision: decide(info, table, context),
        preferred: None,
    }
}

impl<'a> Plan<'a> {
    /// The same, but `servers` are asked first, for `reason`.
    #[must_use]
    pub fn preferring(self, servers: &[Arc<Server>], reason: Reason) -> Self {
        let members = servers.iter().map(|server| self.table.set_of(server));
        let set = members.fold(ServerSet::EMPTY, ServerSet::union);
        let set = self.table.proved(set, self.context.class);
        Self {
            preferred: Some((set, reason)),
            ..self
        }
    }

    /// The next server, and why it. Never one of `tried`; `None` if nobody is left.
    pub fn next(&self, tried: ServerSet) -> Option<(Arc<Server>, Reason)> {
        let (set, reason) = self.front(tried)?;
        let random = match set.len() {
            1 => 0,
            _ => fastrand::u64(..),
        };
        Some((choose(self.table, set, random)?, reason))
    }

    /// Why the first server is asked; if there is none, why nobody is.
    pub fn reason(&self) -> Reason {
        self.front(ServerSet::EMPTY)
            .map_or(Reason::CapableServerUnreachable, |(_, reason)| reason)
    }

    /// Those of which one is asked first: by load, and among equals at random.
    pub fn first(&self) -> ServerSet {
        let Some((set, _)) = self.front(ServerSet::EMPTY) else {
            return ServerSet::EMPTY;
        };
        let available = self.table.available(set);
        match available.is_empty() {
            true => set,
            false => available,
        }
    }

    /// True if no server is known to serve the type: a 404 may not be passed on before all servers were queried again. If the type is
    /// still unknown then, [`super::verdict_unknown`].
    pub fn is_unknown(&self) -> bool {
        self.decision.target == Target::Unknown
    }

    /// The snapshot by which it was made.
    pub fn table(&self) -> &'a RouteTable {
        self.table
    }

    pub(super) fn info(&self) -> &'a RequestInfo<'a> {
        self.info
    }

    /// What is left of the first group of servers of which something is left. Nothing that is only needed later is looked up.
    fn front(&self, tried: ServerSet) -> Option<(ServerSet, Reason)> {
        let left = |set: ServerSet| Some(set.difference(tried)).filter(|set| !set.is_empty());
        if let Some((set, reason)) = self.preferred
            && let Some(set) = left(set)
        {
            return Some((set, reason));
        }
        let set = left(self.before_others()).or_else(|| left(self.others()))?;
        Some((set, self.decision.reason))
    }

    /// The local server, if it goes before all others. One that is not proved is told apart by the attempt, if nobody stands in for it.
    fn before_others(&self) -> ServerSet {
        let local = self.table.local_set();
        match self.decision.target {
            Target::Local => local,
            Target::Unknown => usable(self.table, local, self.context.class),
            Target::Servers(_) | Target::Unavailable => ServerSet::EMPTY,
        }
    }

    fn others(&self) -> ServerSet {
        let (table, context) = (self.table, self.context);
        let set = match self.decision.target {
            Target::Servers(set) => set,
            Target::Unknown => table.all(),
            Target::Unavailable => ServerSet::EMPTY,
            // What is the local server's alone is nobody's if there is none.
            Target::Local if table.local_set().is_empty() => ServerSet::EMPTY,
            Target::Local if context.hop_marked || !context.interoperability => ServerSet::EMPTY,
            Target::Local if self.info.is_resource => table
                .lookup(self.info.key())
                .map_or(ServerSet::EMPTY, |entry| entry.servers()),
            Target::Local => match classify(&self.info.path) {
                // Probes are about this very server; nobody else can answer for it.
                PathClass::Probe => ServerSet::EMPTY,
                _ => table.all(),
            },
        };
        table.proved(set, context.class)
    }
}

#[cfg(test)]
mod tests;
