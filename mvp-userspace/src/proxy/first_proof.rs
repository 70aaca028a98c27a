//! Requests that arrive before any server is proved. An agent that takes over receives connections as long as the kernel
//! believes the last heartbeat of the agent before it, which is up to a second. Their requests wait for the first proof instead
//! of failing.

use std::time::Duration;

use super::Shared;
use crate::tls::IdentityClass;

/// From when clients may come. A proof takes a few round trips; a server that has not answered by then is not waited for. What the
/// agent does before it takes over is not counted: trying out the kernel takes seconds on a busy node.
const WITHIN: Duration = Duration::from_secs(3);

/// Returns once a server is proved for this class, or when the time for it is over.
pub(super) async fn first_proof(shared: &Shared, class: IdentityClass) {
    let left = WITHIN.saturating_sub(shared.open_since.elapsed());
    if left.is_zero() {
        return;
    }
    let mut judged = shared.discovery.judged();
    let proved = || {
        let table = shared.table.load();
        let mut members = table.members().iter();
        members.any(|member| member.server.proved(class))
    };
    let waiting = async {
        while !proved() {
            // An error means that discovery has ended, and that nothing will be proved any more.
            if judged.changed().await.is_err() {
                return;
            }
        }
    };
    let _over = tokio::time::timeout(left, waiting).await;
}
