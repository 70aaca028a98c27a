//! The open loop: requests are due at fixed moments, whether or not earlier ones were answered.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// One request's moment.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Counts the requests, from 0.
    pub number: u64,
    /// When the request should start. Latency counted from here is free of coordinated omission: a stall of the client or
    /// of the server delays no later measurement's beginning.
    pub at: Instant,
}

/// Calls `send` for requests due `rate` times per second until `until` is ready, and returns their number.
/// `send` must not wait for an answer: it spawns.
///
/// The clock is a thread of its own, since tokio's timer counts in milliseconds and a busy runtime would be late by more.
pub async fn open_loop(
    rate: f64,
    until: impl Future<Output = ()>,
    mut send: impl FnMut(Due),
) -> u64 {
    let (ticks, mut due) = mpsc::unbounded_channel();
    let clock = std::thread::spawn(move || tick(rate, &ticks));
    let mut sent = 0;
    let mut until = std::pin::pin!(until);
    loop {
        tokio::select! {
            biased;
            () = &mut until => break,
            tick = due.recv() => match tick {
                Some(tick) => {
                    send(tick);
                    sent += 1;
                }
                None => break,
            },
        }
    }
    // The clock sees at its next tick that nobody listens.
    drop(due);
    drop(clock);
    sent
}

fn tick(rate: f64, ticks: &mpsc::UnboundedSender<Due>) {
    let start = Instant::now();
    for number in 0.. {
        let at = start + Duration::from_secs_f64(number as f64 / rate);
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if ticks.send(Due { number, at }).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn requests_are_due_at_equal_distances_even_when_the_sender_was_blocked() {
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        let mut done = Some(done);
        let mut seen = Vec::new();
        let sent = open_loop(1000.0, async { drop(ended.await) }, |due| {
            if due.number == 3 {
                // The runtime stands still; the moments after it must not move.
                std::thread::sleep(Duration::from_millis(20));
            }
            seen.push(due);
            if due.number == 50 {
                done.take();
            }
        })
        .await;
        assert_eq!(sent, 51);
        for pair in seen.windows(2) {
            assert_eq!(pair[1].number, pair[0].number + 1);
            let distance = (pair[1].at - pair[0].at).as_secs_f64();
            assert!((distance - 0.001).abs() < 1e-6, "{distance}");
        }
    }
}
