//! What is shown of one server, and whose fault it is that a poll failed.

use std::time::Duration;

use crate::api::GroupVersion;
use crate::document::DiscoveryForm;
use crate::identity::proof::Proofs;
use crate::route::Knowledge;

/// What an operator sees of one server.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// As in routes, metrics and logs.
    pub name: String,
    /// Where the agent connects to it.
    pub url: String,
    /// It is the kube-apiserver of this node.
    pub local: bool,
    /// `gitVersion` of `/version`, read once for each connection.
    pub version: Option<String>,
    /// What `/readyz` last said; `None`: nothing yet, or not to us.
    pub ready: Option<bool>,
    /// It says that it shuts down, or takes no connection any more.
    pub stopping: bool,
    /// Whether what is known of it may be relied on.
    pub knowledge: Knowledge,
    /// Since the server last confirmed what is known of it.
    pub age: Option<Duration>,
    /// The form of the document that is known; `None`: none is.
    pub source: Option<DiscoveryForm>,
    /// (group, version, resource, subresource) keys in the set.
    pub keys: usize,
    /// Keys that it published (StorageVersion), while these are used; 0 otherwise.
    pub published: usize,
    /// Group versions the server itself could not confirm.
    pub stale: Vec<GroupVersion>,
    /// Entries of its documents that no request path can name, left out.
    pub refused: usize,
    /// The ETag of `/apis`.
    pub etag: Option<String>,
    /// The error of the last round, if it failed.
    pub last_error: Option<String>,
    /// Why the last round failed, as far as it matters to others.
    pub trouble: PollTrouble,
    /// What was proved of it.
    pub proofs: Proofs,
    /// How many rounds there were.
    pub polls: Polls,
}

/// Whose fault the end of a round is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum PollTrouble {
    /// The last round succeeded, or none has ended yet.
    #[default]
    None,
    /// The server, or the way to it.
    Unreachable,
    /// The server refuses this agent alone: it answers 401 or 403, or its certificate does not verify. Says nothing of how it serves
    /// others.
    Refused(String),
    /// 401 or 403 from a server that is not ready: in the first second after its start it has no RBAC yet.
    Starting,
    /// The server answers, but not with something of use.
    Other,
}

/// Rounds by outcome, since the server became a member.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Polls {
    /// The server reported something new.
    pub changed: u64,
    /// What was known was confirmed.
    pub not_modified: u64,
    /// It was not reached, or its answer could not be used.
    pub failed: u64,
}
