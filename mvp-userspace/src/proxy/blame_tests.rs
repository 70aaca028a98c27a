use proptest::prelude::*;

use super::*;
use crate::route::testing::server;

#[test]
fn every_ending_is_listed_once() {
    let mut seen = std::collections::HashSet::new();
    assert!(Ending::ALL.into_iter().all(|ending| seen.insert(ending)));
    // The names of the documentation differ as well.
    let names: std::collections::HashSet<_> = Ending::ALL.map(Ending::described).into();
    assert_eq!(names.len(), Ending::ALL.len());
}

#[test]
fn only_the_server_and_the_way_to_it_count() {
    for ending in Ending::ALL {
        let verdict = ending.verdict();
        if verdict.counts.is_some() {
            assert!(
                matches!(verdict.fault, Blame::Server | Blame::Way),
                "{ending:?}"
            );
        }
    }
}

#[test]
fn what_a_client_broke_is_not_tried_on_the_next_server() {
    for ending in [
        Ending::ClientGone,
        Ending::UploadBroken,
        Ending::RequestRejected,
    ] {
        assert_eq!(ending.verdict().retry, Retry::Never, "{ending:?}");
    }
}

#[test]
fn the_documentation_has_this_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/security.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let table = markdown_table();
    assert!(docs.contains(&table), "docs/security.md lacks:\n{table}");
}

/// Whether a client, or the agent itself, can bring an ending about as often as it likes. By what they can do and not by what the table
/// says: a wrong row must not take itself out of the test.
fn callers_can(ending: Ending) -> bool {
    match ending {
        Ending::Answered
        | Ending::ClientGone
        | Ending::UploadBroken
        | Ending::RequestRejected
        // A handler that a client made give up, or the answer of a backend of its own.
        | Ending::StreamAborted
        | Ending::AnswerMalformed
        | Ending::StreamRefused
        | Ending::GoingAway
        // A break that was reported once is not reported again.
        | Ending::SharedBreak
        | Ending::QuarantineBroken
        // What takes long.
        | Ending::NoAnswer
        | Ending::Shortage
        | Ending::OwnLimit
        | Ending::Unsendable => true,
        Ending::Unproved
        | Ending::ConnectRefused
        | Ending::ConnectReset
        | Ending::ConnectTimedOut
        | Ending::TlsFailed
        | Ending::ConnectProtocol
        | Ending::Unreachable
        | Ending::ConnectionBroken
        | Ending::PingUnanswered
        | Ending::ConnectionMalformed => false,
    }
}

#[test]
fn whatever_callers_can_do_has_a_row_that_does_not_count() {
    for ending in Ending::ALL
        .into_iter()
        .filter(|ending| callers_can(*ending))
    {
        assert_eq!(ending.verdict().counts, None, "{ending:?}");
    }
}

fn callers_endings() -> impl Strategy<Value = Ending> {
    let endings = Ending::ALL
        .into_iter()
        .filter(|ending| callers_can(*ending));
    proptest::sample::select(endings.collect::<Vec<_>>())
}

proptest! {
    /// Law 2: whatever callers do, in whatever order, no server is left for it.
    #[test]
    fn no_sequence_of_callers_endings_ejects_a_server(
        endings in proptest::collection::vec(callers_endings(), 0..200),
        // What the server itself did wrong before, short of being left.
        soft in 0..3_usize,
    ) {
        let server = server("cp-a", true);
        for _ in 0..soft.min(2) {
            server.failed(Failure::Reset);
        }
        for ending in endings {
            match ending.verdict().counts {
                Some(failure) => server.failed(failure),
                None if ending == Ending::Answered => server.succeeded(),
                None => {}
            }
            prop_assert!(server.available(), "{:?}", ending);
        }
        prop_assert_eq!(server.health().ejections, 0);
    }

    /// The agent's own shortages are recorded nowhere, even if somebody reports them as a failure.
    #[test]
    fn a_shortage_of_the_agents_own_is_no_failure(times in 0..100_usize) {
        let server = server("cp-a", false);
        for _ in 0..times {
            server.failed(Failure::Local);
            server.probed(crate::route::ReadyzOutcome::Failed(Failure::Local));
        }
        prop_assert!(server.available());
        prop_assert_eq!(server.health().last_failure, None);
    }
}
