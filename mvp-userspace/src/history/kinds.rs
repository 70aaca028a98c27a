//! The one table of what is noted. `docs/report.md` lists it; a test compares.

use serde::{Deserialize, Serialize};

use crate::codes::codes;

codes! {
    /// What an event is about. The codes are stable: they are in `-o json`, and in the file that a restarted agent reads.
    #[derive(Deserialize, Serialize)]
    #[serde(rename_all = "snake_case")]
    Kind {
        AgentStarted "agent_started" "an agent started on this node",
        AgentTookOver "agent_took_over" "an agent took the place of another one that ran on this node",
        AgentEnds "agent_ends" "the agent drains, or another one has taken its place",
        FilesReloaded "files_reloaded" "a changed certificate, key or CA file was taken into use",
        ReloadFailed "reload_failed" "a changed file could not be used; the old content stays in use",
        RestartNeeded "restart_needed" "kube-apiserver's manifest has changed in what takes effect only when the agent is started again",
        ServerSeen "server_seen" "the agent learned a server's version for the first time",
        ServerLeft "server_left" "a server is no longer a member of the control plane",
        ServerVersion "server_version" "a server runs another version than before",
        ServerUnavailable "server_unavailable" "no request can be sent to a server",
        ServerAvailable "server_available" "requests can be sent to a server again",
        ServerStopping "server_stopping" "a server says that it shuts down",
        ProofFailed "proof_failed" "a server was not, or no longer, shown to accept this agent and the users that it asserts",
        ProofOk "proof_ok" "a server was shown to accept this agent and the users that it asserts",
        GuardArmed "guard_armed" "a sign of an upgrade: new connections are inspected",
        GuardIdle "guard_idle" "no sign of an upgrade holds any more",
        PassingBy "passing_by" "new connections pass to kube-apiserver itself, though the agent runs",
        TakesConnections "takes_connections" "no reason to pass by holds any more",
        RetirementBegan "retirement_began" "connections that clients had made with kube-apiserver itself are being ended",
        RetirementEnded "retirement_ended" "none of those connections is left, or they are no longer to be ended",
        CertificateNearEnd "certificate_near_end" "a certificate ends within a week",
    }
}

impl Kind {
    /// The kind of a code; `None`: another version of the agent wrote it.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::assert_documented;

    #[test]
    fn documentation_lists_every_kind_and_no_other() {
        let codes = Kind::ALL.iter().map(|kind| (kind.as_str(), kind.meaning()));
        assert_documented("report.md", "Events", codes);
    }

    #[test]
    fn a_code_is_the_same_in_json_and_in_text() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Some(*kind));
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.as_str()));
        }
        assert_eq!(Kind::parse("of_another_version"), None);
    }
}
