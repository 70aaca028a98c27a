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
                matches!(verdict.fault, Fault::Server | Fault::Way),
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

/// Endings that a client, or the agent itself, can bring about as often as it likes.
fn not_the_servers() -> impl Strategy<Value = Ending> {
    let endings: Vec<_> = Ending::ALL
        .into_iter()
        .filter(|ending| !matches!(ending.verdict().fault, Fault::Server | Fault::Way))
        // A client can also ask for what takes long, make a handler give up, or have its own backend answer nonsense, and a break
        // that was reported once is not reported again.
        .chain([
            Ending::NoAnswer,
            Ending::StreamAborted,
            Ending::AnswerMalformed,
            Ending::SharedBreak,
        ])
        .collect();
    proptest::sample::select(endings)
}

proptest! {
    /// Law 2: whatever callers do, in whatever order, no server is left for it.
    #[test]
    fn no_sequence_of_callers_endings_ejects_a_server(
        endings in proptest::collection::vec(not_the_servers(), 0..200),
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
            server.probed(crate::route::Probe::Failed(Failure::Local));
        }
        prop_assert!(server.available());
        prop_assert_eq!(server.health().last_failure, None);
    }
}
