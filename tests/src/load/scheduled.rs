//! The open loop on the connections of a session: what clients see whose requests do not wait for one another.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::closed::exchange;
use super::{Answer, Answers, Get, Latency, Outcome, Session, open_loop};

/// An answer that has not come so long after the last request was due does not come.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Seen {
    answers: Answers,
    latency: Latency,
    bytes: u64,
}

impl Session {
    /// Sends `rate` requests each second for this long, each on the next connection, whether or not earlier ones were answered.
    /// Latency counts from the moment at which a request was due.
    pub async fn open_loop(&self, get: &Get, rate: f64, duration: Duration) -> Outcome {
        let start = Instant::now();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let get = Arc::new(get.clone());
        let mut under_way = JoinSet::new();
        let sent = open_loop(rate, sleep(duration), |due| {
            while under_way.try_join_next().is_some() {}
            let at = due.number as usize % self.connections.len().max(1);
            let Some(connection) = self.connections.get(at).cloned() else {
                return;
            };
            let (seen, get) = (Arc::clone(&seen), Arc::clone(&get));
            under_way.spawn(async move {
                let result = exchange(connection, &get).await;
                let latency = due.at.elapsed();
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.latency.record(latency);
                match result {
                    Ok((answer, bytes)) => {
                        seen.answers.count(answer);
                        seen.bytes += bytes;
                    }
                    Err(_) => seen.answers.count(Answer::Transport),
                }
            });
        })
        .await;
        let elapsed = start.elapsed();
        let all = async { while under_way.join_next().await.is_some() {} };
        let _ = timeout(PATIENCE, all).await;
        under_way.shutdown().await;
        let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        // What hangs is not left out: that would be the omission that the open loop exists against.
        for _ in seen.answers.total()..sent {
            seen.answers.count(Answer::Transport);
            seen.latency.record(PATIENCE);
        }
        Outcome {
            answers: seen.answers,
            latency: seen.latency,
            elapsed,
            bytes: seen.bytes,
        }
    }
}
