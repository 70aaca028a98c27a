//! What the status and the log say about the list of servers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::MAX_MEMBERS;

/// Where the list comes from and what is wrong with it, in one line for the status. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct MembershipLine(Arc<Mutex<MembershipFacts>>);

/// What the line is made of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MembershipFacts {
    /// Servers beside the local one.
    pub peers: usize,
    /// Servers that there is no room for.
    pub ignored: usize,
    /// Where the list comes from.
    pub source: MembershipSource,
    /// The name of this node's Node object, if this agent calls the local server by another.
    pub misnamed: Option<String>,
    /// Why Nodes cannot be read.
    pub nodes_error: Option<String>,
    /// Why StorageVersions cannot be read.
    pub published_error: Option<String>,
    /// Why the list itself cannot be read; what was last known stands.
    pub error: Option<String>,
}

/// Where a list of servers comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MembershipSource {
    /// `peers.static` alone.
    #[default]
    Static,
    /// The EndpointSlice, not read yet.
    Awaited,
    /// The EndpointSlice `default/kubernetes`, and `peers.static`.
    Kubernetes,
}

impl MembershipLine {
    /// Takes in new facts; true if what is worth a warning of them differs from before. That a list cannot be read for a moment, since
    /// a server restarts, is not: it is in the line.
    pub fn set(&self, facts: MembershipFacts) -> bool {
        let mut known = self.lock();
        let changed = known.alarm() != facts.alarm();
        *known = facts;
        changed
    }

    /// The line.
    pub fn get(&self) -> String {
        self.lock().line()
    }

    fn lock(&self) -> MutexGuard<'_, MembershipFacts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MembershipFacts {
    /// True if an operator should look: there is nobody to forward to, or there are more servers than can be used.
    pub fn warns(&self) -> bool {
        self.alarm().is_some()
    }

    /// What an operator should look at.
    fn alarm(&self) -> Option<(MembershipSource, bool, usize)> {
        let alone = self.peers == 0;
        (self.source != MembershipSource::Awaited && (alone || self.ignored > 0)).then_some((
            self.source,
            alone,
            self.ignored,
        ))
    }

    /// All of it in one line.
    pub fn line(&self) -> String {
        let from = match self.source {
            MembershipSource::Static => "peers.static",
            MembershipSource::Awaited => "EndpointSlice default/kubernetes, not read yet",
            MembershipSource::Kubernetes => "EndpointSlice default/kubernetes",
        };
        let mut line = match (self.peers, self.source) {
            (0, MembershipSource::Static) => "only the local server is known: peers.static is empty and \
                                    peers.kubernetes.enabled is false"
                .to_owned(),
            (0, MembershipSource::Kubernetes) => {
                "only the local server is known: the EndpointSlice default/kubernetes lists no other".to_owned()
            }
            (0, MembershipSource::Awaited) => format!("only the local server is known ({from})"),
            (peers, _) => format!("{} servers ({from})", peers + 1),
        };
        if self.ignored > 0 {
            line += &format!(
                "; {} more are ignored, since at most {} servers can be routed to",
                self.ignored,
                MAX_MEMBERS + 1
            );
        }
        if let Some(error) = &self.error {
            line += &format!("; the list cannot be read, and what was last known stands: {error}");
        }
        if let Some(error) = &self.nodes_error {
            line += &format!(
                "; Nodes cannot be read, so that servers are named by their Leases or addresses: {error}"
            );
        }
        if let Some(error) = &self.published_error {
            line += &format!(
                "; StorageVersions cannot be read, so that of a server that cannot be asked only its own last word is known: {error}"
            );
        }
        if let Some(name) = &self.misnamed {
            line += &format!(
                "; other nodes call the local server {name}, the name of its Node object: set node, or --node, to it"
            );
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_and_too_many_are_said() {
        let alone = MembershipFacts::default();
        assert!(alone.warns());
        assert!(alone.line().starts_with("only the local server is known"));
        let awaited = MembershipFacts {
            source: MembershipSource::Awaited,
            ..MembershipFacts::default()
        };
        assert!(!awaited.warns());
        let many = MembershipFacts {
            peers: MAX_MEMBERS,
            ignored: 6,
            source: MembershipSource::Kubernetes,
            ..MembershipFacts::default()
        };
        assert!(many.warns());
        assert_eq!(
            many.line(),
            "64 servers (EndpointSlice default/kubernetes); 6 more are ignored, since at most 64 servers can be routed to"
        );
        let line = MembershipLine::default();
        assert!(line.set(many.clone()));
        assert!(!line.set(many.clone()));
        let unread = MembershipFacts {
            error: Some("connection refused".to_owned()),
            ..many
        };
        assert!(!line.set(unread));
        assert!(line.get().ends_with("connection refused"));
    }
}
