//! Reads what TCP counted for a pair's two sockets, for [`Judge`].

use std::future::pending;
use std::os::fd::AsFd;
use std::time::Duration;

use tokio::time::Instant;

use super::flow::{Flowing, Judge, RUN, Sample};
use crate::net::TcpInfo;

/// Follows what flows over one pair, whatever moves it: the counts are TCP's own.
pub(super) struct Sensor {
    started: Instant,
    judge: Judge,
    /// Bytes that userspace had moved at the last look, by direction.
    looked: [u64; 2],
}

impl Sensor {
    pub(super) fn new(sockets: [&impl AsFd; 2], calm: Duration) -> Self {
        let started = Instant::now();
        Self {
            started,
            judge: Judge::new(sample(started, sockets), calm),
            looked: [0; 2],
        }
    }

    pub(super) fn flowing(&self) -> Flowing {
        self.judge.flowing()
    }

    /// When to look again even if nothing moves.
    pub(super) fn due(&self) -> Option<Instant> {
        self.started.checked_add(self.judge.due()?)
    }

    /// Says what flows if that has changed.
    pub(super) fn look(&mut self, sockets: [&impl AsFd; 2]) -> Option<Flowing> {
        self.judge.see(sample(self.started, sockets))
    }

    /// As [`Self::look`], if userspace has moved enough since the last look to be worth one.
    pub(super) fn moved(&mut self, moved: [u64; 2], sockets: [&impl AsFd; 2]) -> Option<Flowing> {
        let mut directions = moved.iter().zip(self.looked);
        if !directions.any(|(moved, looked)| moved.saturating_sub(looked) >= RUN) {
            return None;
        }
        self.looked = moved;
        self.look(sockets)
    }
}

/// Never without a moment.
pub(super) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => pending().await,
    }
}

/// A socket that is gone has received nothing: the pair is about to end.
fn sample(started: Instant, sockets: [&impl AsFd; 2]) -> Sample {
    let [first, second] = sockets.map(|socket| TcpInfo::read(socket).ok());
    Sample {
        at: started.elapsed(),
        bytes: [first, second].map(|info| info.map_or(0, |info| info.received)),
        segments: [first, second].map(|info| info.map_or(0, |info| info.data_segments)),
    }
}
