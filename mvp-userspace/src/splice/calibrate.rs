//! Which mode pays on this machine for messages, and which for bulk: three loads over loopback, each mode by turns. Takes about a second.
//!
//! Elapsed time is what is measured. CPU time of the process would flatter sockmap, whose work is done by the kernel's workers;
//! under load, time is what all of them together cost.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use super::flow::Flowing;
use super::rig::{Rig, pattern, send};
use super::{Mode, PairLimits, Signal, Splicer};

/// What one mode takes. Less is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationFigures {
    /// What was measured.
    pub mode: Mode,
    /// A message and its answer, one at a time: the median.
    pub talk: Duration,
    /// A message and its answer among many connections that all talk: elapsed time by messages.
    pub loaded: Duration,
    /// A MiB one way.
    pub bulk: Duration,
}

/// Measures these modes; `Copy` should be among them, since [`choose`] compares with it.
///
/// # Errors
/// Loopback connections could not be made or broke off.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub async fn run(splicer: &Splicer, modes: &[Mode]) -> io::Result<Vec<CalibrationFigures>> {
    let mut rounds: Vec<Vec<CalibrationFigures>> = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let mut figures = Vec::with_capacity(modes.len());
        for at in 0..modes.len() {
            // Another one begins in each round: none always meets a cold or a warm machine.
            let Some(&mode) = modes.get((at + round) % modes.len()) else {
                continue;
            };
            figures.push(CalibrationFigures {
                mode,
                talk: talk(splicer, mode, 1, TALKS).await?.median,
                loaded: talk(splicer, mode, LOADED, LOADED_TALKS).await?.each,
                bulk: bulk(splicer, mode).await?,
            });
        }
        rounds.push(figures);
    }
    Ok(modes.iter().map(|&mode| median(&rounds, mode)).collect())
}

/// The mode for what flows: the best one, if it is better than copying by a twentieth for messages or a quarter for bulk. Copying is the mode
/// with the fewest surprises.
/// Modes without figures are not chosen.
pub fn choose(figures: &[CalibrationFigures], flowing: Flowing) -> Mode {
    let Some(copy) = figures.iter().find(|f| f.mode == Mode::Copy) else {
        return Mode::Copy;
    };
    let worth_it = match flowing {
        Flowing::Messages => WORTH_IT,
        Flowing::Bulk => BULK_WORTH_IT,
    };
    let cost = |f: &CalibrationFigures| {
        let ratio = |of: fn(&CalibrationFigures) -> Duration| {
            // Equal where there is nothing to compare.
            let (this, copy) = (of(f).as_secs_f64(), of(copy).as_secs_f64());
            if this > 0.0 && copy > 0.0 {
                this / copy
            } else {
                1.0
            }
        };
        let (talk, loaded, bulk) = (ratio(|f| f.talk), ratio(|f| f.loaded), ratio(|f| f.bulk));
        // Geometric means: twice as fast here and half as fast there is no gain.
        match flowing {
            Flowing::Messages => (talk * loaded).sqrt(),
            Flowing::Bulk => bulk,
        }
    };
    figures
        .iter()
        .map(|f| (cost(f), f.mode))
        .filter(|(cost, mode)| *mode == Mode::Copy || *cost <= worth_it)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map_or(Mode::Copy, |(_, mode)| mode)
}

const ROUNDS: usize = 3;
const TALKS: usize = 150;
const LOADED: usize = 16;
const LOADED_TALKS: usize = 60;
const BULK: usize = 24 << 20;
const MESSAGE: usize = 64;
const WORTH_IT: f64 = 0.95;
/// One transfer alone is measured. splice(2) was a tenth better than a copy there, and took 1.24 times as long with 64 lists at once
/// (`docs/benchmarks.md`).
const BULK_WORTH_IT: f64 = 0.75;

struct Talk {
    median: Duration,
    each: Duration,
}

/// The clients and the servers are on threads of their own, as they are in other processes in earnest.
async fn talk(
    splicer: &Splicer,
    mode: Mode,
    connections: usize,
    messages: usize,
) -> io::Result<Talk> {
    let mut rigs = Vec::with_capacity(connections);
    for _ in 0..connections {
        rigs.push(Rig::new().await?);
    }
    let (mut ends, mut joins) = (Ends::default(), Vec::with_capacity(connections));
    for rig in rigs {
        ends.clients.push(rig.client.into_std()?);
        ends.servers.push(rig.server.into_std()?);
        joins.push((rig.a, rig.b));
    }
    let servers = elsewhere(ends.servers, |mut server| async move {
        let mut message = [0; MESSAGE];
        while server.read_exact(&mut message).await.is_ok() {
            server.write_all(&message).await?;
        }
        Ok(())
    });
    let clients = elsewhere(ends.clients, move |mut client| async move {
        let mut times = Vec::with_capacity(messages);
        let mut message = [7; MESSAGE];
        for _ in 0..messages {
            let started = Instant::now();
            client.write_all(&message).await?;
            client.read_exact(&mut message).await?;
            times.push(started.elapsed());
        }
        Ok(times)
    });
    let (times, elapsed) = joined(splicer, mode, joins, clients, servers).await?;
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort_unstable();
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX).max(1);
    Ok(Talk {
        median: times.get(times.len() / 2).copied().unwrap_or_default(),
        each: elapsed / count,
    })
}

async fn bulk(splicer: &Splicer, mode: Mode) -> io::Result<Duration> {
    let rig = Rig::new().await?;
    let pattern = pattern();
    let servers = elsewhere(vec![rig.server.into_std()?], |mut server| async move {
        let mut buffer = vec![0; 256 << 10];
        while server.read(&mut buffer).await? > 0 {}
        server.shutdown().await
    });
    let clients = elsewhere(vec![rig.client.into_std()?], move |mut client| {
        let pattern = pattern.clone();
        async move {
            send(&mut client, &pattern, BULK).await?;
            client.shutdown().await?;
            // Until all of it has arrived.
            client.read(&mut [0; 1]).await
        }
    });
    let (_, elapsed) = joined(splicer, mode, vec![(rig.a, rig.b)], clients, servers).await?;
    Ok(elapsed / (BULK >> 20) as u32)
}

#[derive(Default)]
struct Ends {
    clients: Vec<std::net::TcpStream>,
    servers: Vec<std::net::TcpStream>,
}

/// Joins the pairs while the clients do what they do; gives what they found and how long they took.
async fn joined<T>(
    splicer: &Splicer,
    mode: Mode,
    pairs: Vec<(TcpStream, TcpStream)>,
    clients: Elsewhere<T>,
    servers: Elsewhere<()>,
) -> io::Result<(Vec<T>, Duration)> {
    // All of the bulk fits: a pair that is taken out of the kernel would measure copying.
    let limits = PairLimits {
        backlog: 2 * BULK as u64,
        ..PairLimits::default()
    };
    let (_keep, signal) = watch::channel(Signal::Run);
    let joins = pairs.into_iter().map(|(a, b)| {
        let (limits, signal) = (&limits, signal.clone());
        async move {
            splicer.join(a.into(), b.into(), mode, limits, signal).await;
            Ok(())
        }
    });
    let (_, (found, elapsed), _) = tokio::try_join!(try_join_all(joins), clients, servers)?;
    Ok((found, elapsed))
}

type Elsewhere<T> = std::pin::Pin<Box<dyn Future<Output = io::Result<(Vec<T>, Duration)>> + Send>>;

/// Does `work` for each socket, all at once, on a thread with a runtime of its own.
fn elsewhere<T, F>(
    sockets: Vec<std::net::TcpStream>,
    work: impl Fn(TcpStream) -> F + Send + 'static,
) -> Elsewhere<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>>,
{
    let (done, result) = oneshot::channel();
    let started = thread::Builder::new()
        .name("mvp-calibrate".into())
        .spawn(move || {
            let run = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build()?;
                runtime.block_on(async {
                    let started = Instant::now();
                    let streams = sockets.into_iter().map(TcpStream::from_std);
                    let streams = streams.collect::<io::Result<Vec<_>>>()?;
                    let found = try_join_all(streams.into_iter().map(work)).await?;
                    Ok((found, started.elapsed()))
                })
            };
            // The other end is gone when the calibration has been given up.
            let _ = done.send(run());
        });
    Box::pin(async move {
        started?;
        result
            .await
            .unwrap_or_else(|_| Err(io::Error::other("a thread of the calibration is gone")))
    })
}

fn median(rounds: &[Vec<CalibrationFigures>], mode: Mode) -> CalibrationFigures {
    let of = |what: fn(&CalibrationFigures) -> Duration| {
        let mut values: Vec<Duration> = rounds
            .iter()
            .flatten()
            .filter(|f| f.mode == mode)
            .map(what)
            .collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    CalibrationFigures {
        mode,
        talk: of(|f| f.talk),
        loaded: of(|f| f.loaded),
        bulk: of(|f| f.bulk),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn figures(mode: Mode, talk: u64, loaded: u64, bulk: u64) -> CalibrationFigures {
        let us = Duration::from_micros;
        CalibrationFigures {
            mode,
            talk: us(talk),
            loaded: us(loaded),
            bulk: us(bulk),
        }
    }

    #[test]
    fn each_kind_gets_what_is_best_for_it() {
        let figures = [
            figures(Mode::Sockmap, 50, 60, 2000),
            figures(Mode::Splice, 110, 70, 500),
            figures(Mode::Copy, 100, 60, 1000),
        ];
        assert_eq!(choose(&figures, Flowing::Messages), Mode::Sockmap);
        assert_eq!(choose(&figures, Flowing::Bulk), Mode::Splice);
    }

    #[test]
    fn a_small_gain_is_not_worth_it() {
        let close = [
            figures(Mode::Sockmap, 97, 97, 97),
            figures(Mode::Copy, 100, 100, 100),
        ];
        let clear = [
            figures(Mode::Sockmap, 94, 94, 74),
            figures(Mode::Copy, 100, 100, 100),
        ];
        for flowing in [Flowing::Messages, Flowing::Bulk] {
            assert_eq!(choose(&close, flowing), Mode::Copy);
            assert_eq!(choose(&clear, flowing), Mode::Sockmap);
            assert_eq!(choose(&clear[..1], flowing), Mode::Copy);
            assert_eq!(choose(&[], flowing), Mode::Copy);
        }
    }

    proptest! {
        /// Whatever was measured: the choice was measured, and is not worse than copying.
        #[test]
        fn the_choice_is_never_worse_than_copying(
            values in prop::collection::vec((0u64..1_000_000, 0u64..1_000_000, 0u64..1_000_000), 3),
        ) {
            let all: Vec<CalibrationFigures> = Mode::ALL.into_iter().zip(values)
                .map(|(mode, (talk, loaded, bulk))| figures(mode, talk, loaded, bulk))
                .collect();
            let mode = choose(&all, Flowing::Bulk);
            let of = |mode| all.iter().find(|f| f.mode == mode).unwrap().bulk;
            prop_assert!(mode == Mode::Copy || of(mode) < of(Mode::Copy) || of(mode).is_zero());
            if of(Mode::Copy).is_zero() {
                prop_assert_eq!(mode, Mode::Copy);
            }
        }
    }
}
