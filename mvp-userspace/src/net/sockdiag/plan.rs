//! Which connections are to be retired, and when. Pure; time is passed in.

use std::time::{Duration, Instant};

use super::Established;

/// Silence in both directions after which ending a connection disturbs no request.
pub const SILENCE: Duration = Duration::from_secs(5);

/// A connection and when to retire it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Planned {
    pub at: Instant,
    pub connection: Established,
}

/// The silent ones of `connections`, evenly over `window` and in this order: a herd of clients that all reconnect at once would
/// hurt the server that the connections are taken from. Those silent longest come first.
///
/// Whoever carries it out asks [`super::SockDiag::retire`], which looks again, and plans anew after `window` for those that were
/// active. `connections` must not hold the agent's own ones to the server.
pub fn plan(
    connections: Vec<Established>,
    silence: Duration,
    now: Instant,
    window: Duration,
) -> Vec<Planned> {
    let mut silent: Vec<_> = connections
        .into_iter()
        .filter(|connection| connection.is_silent(silence))
        .collect();
    silent.sort_by_key(|connection| std::cmp::Reverse(connection.silent_for()));
    let step = window / u32::try_from(silent.len()).unwrap_or(u32::MAX).max(1);
    silent
        .into_iter()
        .zip(0u32..)
        .map(|(connection, index)| Planned {
            at: now + step.saturating_mul(index),
            connection,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_silent_ones_evenly(
            connections in prop::collection::vec((0u64..10_000, prop::option::weighted(0.2, 1u64..9)), 0..50),
            window in 0u64..60,
        ) {
            let now = Instant::now();
            let window = Duration::from_secs(window);
            let all: Vec<_> = connections
                .iter()
                .zip(1u16..)
                .map(|((silent, queued), port)| {
                    Established::example(port, Duration::from_millis(*silent), queued.unwrap_or(0))
                })
                .collect();
            let planned = plan(all.clone(), SILENCE, now, window);
            let silent = connections
                .iter()
                .filter(|(silent, queued)| *silent >= 5000 && queued.is_none())
                .count();
            prop_assert_eq!(planned.len(), silent);
            prop_assert!(planned.iter().all(|one| one.connection.is_silent(SILENCE)));
            prop_assert!(planned.iter().all(|one| all.contains(&one.connection)));
            prop_assert!(planned.first().is_none_or(|first| first.at == now));
            prop_assert!(planned.iter().all(|one| one.at <= now + window));
            let step = window / u32::try_from(silent.max(1)).unwrap();
            prop_assert!(planned.is_sorted_by(|a, b| b.at - a.at == step
                && a.connection.silent_for() >= b.connection.silent_for()));
            let mut ports: Vec<_> = planned.iter().map(|one| one.connection.remote().port()).collect();
            ports.sort_unstable();
            ports.dedup();
            prop_assert_eq!(ports.len(), silent);
        }
    }
}
