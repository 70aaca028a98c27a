//! What a server says of itself at `/readyz`: whether it may be chosen, and whether it is about to stop.

use tracing::info;

use super::connection::DiscoveryConnection;
use super::entry::ServerEntry;
use crate::route::ReadyzOutcome;

/// The largest answer, which is a list of checks.
const MAX_ANSWER: usize = 64 << 10;

/// Asks, and takes the answer into the entry.
pub(super) async fn ask(connection: &DiscoveryConnection, entry: &ServerEntry) {
    match connection.get("/readyz", "*/*", None, MAX_ANSWER).await {
        Ok(answer) => match answer.status.as_u16() {
            200 => {
                entry.server.departure.end();
                entry.probed(ReadyzOutcome::Ready);
            }
            // Says nothing of the server, only of us; but one is there that answers.
            401 | 403 => {
                entry.server.departure.end();
                entry.not_told_whether_ready();
            }
            _ => {
                entry.probed(ReadyzOutcome::NotReady);
                if shuts_down(&answer.body) {
                    stopping(entry, "it says that it shuts down");
                }
            }
        },
        // The round that opens the next connection asks again, or says that there is none.
        Err(error) if error.ended() => {}
        Err(error) => {
            if let Some(failure) = error.failure() {
                entry.probed(ReadyzOutcome::Failed(failure));
            }
        }
    }
}

/// Makes everything that holds something open on the server let go of it.
pub(super) fn stopping(entry: &ServerEntry, why: &str) {
    if entry.server.departure.begin() {
        info!(
            server = &*entry.server.name,
            why, "the server stops: watches on it end and go on at others"
        );
    }
}

/// Whether `/readyz` names the check that fails from SIGTERM on (apiserver `server/genericapiserver.go`, `AddReadyzChecks`).
fn shuts_down(readyz: &[u8]) -> bool {
    const CHECK: &[u8] = b"[-]shutdown ";
    readyz.windows(CHECK.len()).any(|bytes| bytes == CHECK)
}
