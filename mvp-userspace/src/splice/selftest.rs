//! Whether sockmap works on this kernel: every trap that is known, tried once on loopback before a client's connection is
//! trusted to it. Takes about one and a half seconds.

use std::fmt;
use std::os::fd::AsFd as _;
use std::time::Duration;

use mvp_common::Counter;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::rig::{Rig, no_more, pattern, receive, reset, send};
use super::{End, Mode, PairLimits, PairOutcome, Plan, Signal, Splicer};
use crate::kernel::Splice;
use crate::net::{Mute, TcpInfo, offer_again};

/// A trap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Case {
    /// Bytes that were in the receive queue before the sockets were joined.
    EarlyBytes,
    /// 5 MiB there and back, byte by byte the same.
    Echo,
    /// A FIN right behind data, twenty times: it must not overtake them.
    FinWithData,
    /// One direction ends, the other goes on.
    HalfClose,
    /// The first side resets the connection: the second one is reset too.
    ResetByFirst,
    /// The second side resets the connection: the first one is reset too.
    ResetBySecond,
    /// A reader that does not read: what is held for it is bounded, and it misses nothing when it reads after all.
    SlowReader,
    /// A segment that begins with bytes which have come before, as one that is sent again may: they must not be passed on twice.
    Overlap,
}

/// What was found, case by case.
#[derive(Clone, Debug)]
pub struct SelfTestReport {
    /// Every case that was tried; the error says what went wrong.
    pub cases: Vec<(Case, Result<(), String>)>,
    /// The time that all cases took.
    pub took: Duration,
}

impl Case {
    /// Every case, in the order in which they are tried.
    pub const ALL: [Self; 8] = [
        Self::EarlyBytes,
        Self::Echo,
        Self::FinWithData,
        Self::HalfClose,
        Self::ResetByFirst,
        Self::ResetBySecond,
        Self::SlowReader,
        Self::Overlap,
    ];

    /// The text for logs and `mvp doctor`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EarlyBytes => "early bytes",
            Self::Echo => "echo of 5 MiB",
            Self::FinWithData => "end behind data",
            Self::HalfClose => "half-close",
            Self::ResetByFirst => "reset by the first side",
            Self::ResetBySecond => "reset by the second side",
            Self::SlowReader => "slow reader",
            Self::Overlap => "bytes that come twice",
        }
    }
}

impl SelfTestReport {
    /// The first case that failed, and why. `None`: sockmap can be used.
    pub fn failure(&self) -> Option<(Case, &str)> {
        self.cases
            .iter()
            .find_map(|(case, result)| result.as_ref().err().map(|reason| (*case, reason.as_str())))
    }
}

impl fmt::Display for SelfTestReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure() {
            None => write!(f, "sockmap works ({} cases)", self.cases.len()),
            Some((case, reason)) => {
                write!(f, "sockmap cannot be used here: {}: {reason}", case.name())
            }
        }
    }
}

/// Tries every case, whatever the ones before it gave.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
pub async fn run(splice: &Splice) -> SelfTestReport {
    let started = Instant::now();
    let splicer = Splicer::new(Some(splice.clone()), 4);
    let mut cases = Vec::with_capacity(Case::ALL.len());
    for case in Case::ALL {
        let result = match timeout(PATIENCE, try_case(case, splice, &splicer)).await {
            Ok(result) => result,
            Err(_) => Err(format!("hung for {} s", PATIENCE.as_secs())),
        };
        cases.push((case, result));
    }
    SelfTestReport {
        cases,
        took: started.elapsed(),
    }
}

/// A case that works takes a few milliseconds, those of slow readers and bytes that come twice some hundred.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bounds the slow reader's case: so much is sent at most, and a kernel that takes all of it without a reader has no bound.
const FLOOD: usize = 64 << 20;
/// A writer that is not let go on for so long is taken to be stopped. TCP's first retransmission comes after 200 ms.
const STOPPED: Duration = Duration::from_millis(500);
/// Tries to have a segment sent that begins with bytes which came before: the probe of the tail may come at the wrong moment.
const OVERLAPS: usize = 3;

async fn try_case(case: Case, splice: &Splice, splicer: &Splicer) -> Result<(), String> {
    let rig = Rig::new().await.map_err(|e| format!("loopback: {e}"))?;
    let pattern = pattern();
    match case {
        Case::EarlyBytes => early_bytes(rig, splice).await,
        Case::Echo => echo(rig, splicer, &pattern).await,
        Case::FinWithData => {
            let mut rig = rig;
            for _ in 0..20 {
                fin_with_data(rig, splicer, &pattern).await?;
                rig = Rig::new().await.map_err(|e| format!("loopback: {e}"))?;
            }
            Ok(())
        }
        Case::HalfClose => half_close(rig, splicer, &pattern).await,
        Case::ResetByFirst => reset_by(rig, splicer, 0).await,
        Case::ResetBySecond => reset_by(rig, splicer, 1).await,
        Case::SlowReader => slow_reader(rig, splicer, &pattern).await,
        Case::Overlap => {
            let repeated = || {
                let counters = splice.counters().map_err(|error| error.to_string());
                counters.map(|counters| counters.get(Counter::SpliceRepeated))
            };
            let (before, mut rig) = (repeated()?, rig);
            for _ in 0..OVERLAPS {
                overlap(rig, splicer).await?;
                if repeated()? > before {
                    return Ok(());
                }
                rig = Rig::new().await.map_err(|e| format!("loopback: {e}"))?;
            }
            Err("TCP sends no segments of this kind here, or the program does not see it (net.ipv4.tcp_retrans_collapse)".into())
        }
    }
}

/// Without [`Splicer`], which would copy them before it joins.
async fn early_bytes(mut rig: Rig, splice: &Splice) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    rig.client.write_all(b"early").await.map_err(io)?;
    rig.a.readable().await.map_err(io)?;
    let (a, b) = (rig.a.into_std().map_err(io)?, rig.b.into_std().map_err(io)?);
    let _joined = splice.join([&a, &b]).map_err(|e| e.to_string())?;
    offer_again(&a).map_err(io)?;
    let mut bytes = [0; 5];
    rig.server.read_exact(&mut bytes).await.map_err(io)?;
    if &bytes == b"early" {
        Ok(())
    } else {
        Err("other bytes than sent".into())
    }
}

async fn echo(rig: Rig, splicer: &Splicer, pattern: &[u8]) -> Result<(), String> {
    const BYTES: usize = 5 << 20;
    let Rig {
        client,
        a,
        b,
        mut server,
    } = rig;
    let (mut read, mut write) = client.into_split();
    let sending = async {
        send(&mut write, pattern, BYTES)
            .await
            .map_err(|e| format!("sending: {e}"))?;
        drop(write);
        Ok(())
    };
    let receiving = async {
        receive(&mut read, pattern, BYTES).await?;
        no_more(&mut read).await
    };
    let echoing = async {
        let (mut read, mut write) = server.split();
        tokio::io::copy(&mut read, &mut write)
            .await
            .map_err(|e| format!("echo: {e}"))?;
        write.shutdown().await.map_err(|e| format!("echo: {e}"))
    };
    // More than there is: on a busy machine any reader is slow for a moment, and that is another case.
    let limits = PairLimits {
        backlog: 2 * BYTES as u64,
        ..PairLimits::default()
    };
    let joining = join(splicer, a, b, Mode::Sockmap, limits);
    let (outcome, ..) = tokio::try_join!(joining, sending, receiving, echoing)?;
    in_order(outcome, [BYTES as u64; 2])
}

async fn fin_with_data(rig: Rig, splicer: &Splicer, pattern: &[u8]) -> Result<(), String> {
    const BYTES: usize = 200_000;
    let Rig {
        mut client,
        a,
        b,
        mut server,
    } = rig;
    let sending = async {
        send(&mut client, pattern, BYTES)
            .await
            .map_err(|e| format!("sending: {e}"))?;
        client.shutdown().await.map_err(|e| e.to_string())?;
        no_more(&mut client).await
    };
    let receiving = async {
        receive(&mut server, pattern, BYTES).await?;
        no_more(&mut server).await?;
        server.shutdown().await.map_err(|e| e.to_string())
    };
    let joining = join(splicer, a, b, Mode::Sockmap, PairLimits::default());
    let (outcome, ..) = tokio::try_join!(joining, sending, receiving)?;
    in_order(outcome, [BYTES as u64, 0])
}

async fn half_close(rig: Rig, splicer: &Splicer, pattern: &[u8]) -> Result<(), String> {
    const BYTES: usize = 300_000;
    let Rig {
        mut client,
        a,
        b,
        mut server,
    } = rig;
    let asking = async {
        client.write_all(b"?").await.map_err(|e| e.to_string())?;
        client.shutdown().await.map_err(|e| e.to_string())?;
        receive(&mut client, pattern, BYTES).await?;
        no_more(&mut client).await
    };
    let answering = async {
        let mut question = Vec::new();
        server
            .read_to_end(&mut question)
            .await
            .map_err(|e| e.to_string())?;
        send(&mut server, pattern, BYTES)
            .await
            .map_err(|e| format!("the other direction: {e}"))?;
        server.shutdown().await.map_err(|e| e.to_string())
    };
    let joining = join(splicer, a, b, Mode::Sockmap, PairLimits::default());
    let (outcome, ..) = tokio::try_join!(joining, asking, answering)?;
    in_order(outcome, [1, BYTES as u64])
}

async fn reset_by(rig: Rig, splicer: &Splicer, side: usize) -> Result<(), String> {
    let Rig {
        mut client,
        a,
        b,
        mut server,
    } = rig;
    let breaking = async {
        // A round trip first, so that the sockets are joined.
        client.write_all(b"x").await.map_err(|e| e.to_string())?;
        let mut byte = [0; 1];
        server
            .read_exact(&mut byte)
            .await
            .map_err(|e| e.to_string())?;
        let (breaks, mut stays) = if side == 0 {
            (client, server)
        } else {
            (server, client)
        };
        SockRef::from(&breaks)
            .set_linger(Some(Duration::ZERO))
            .map_err(|e| e.to_string())?;
        drop(breaks);
        reset(&mut stays).await
    };
    let joining = join(splicer, a, b, Mode::Sockmap, PairLimits::default());
    let (outcome, ()) = tokio::try_join!(joining, breaking)?;
    let [first, second] = outcome.ends;
    let end = if side == 0 { first } else { second };
    if outcome.mode == Mode::Sockmap && end == End::Broken {
        Ok(())
    } else {
        Err(format!("ended as {outcome:?}"))
    }
}

async fn slow_reader(rig: Rig, splicer: &Splicer, pattern: &[u8]) -> Result<(), String> {
    let limits = PairLimits {
        backlog: 256 << 10,
        ..PairLimits::default()
    };
    let Rig {
        mut client,
        a,
        b,
        mut server,
    } = rig;
    let flooding = async {
        let mut sent = 0;
        // Byte by byte the same as `send` would send: a write may take a part of a block.
        while sent < FLOOD {
            let block = pattern.get(sent % pattern.len()..).unwrap_or(pattern);
            match timeout(STOPPED, client.write(block)).await {
                Ok(Ok(bytes)) => sent += bytes,
                Ok(Err(error)) => return Err(format!("sending: {error}")),
                Err(_) => break,
            }
        }
        if sent >= FLOOD {
            return Err(format!("{sent} bytes were taken without a reader"));
        }
        let receiving = async {
            receive(&mut server, pattern, sent).await?;
            no_more(&mut server).await?;
            server.shutdown().await.map_err(|e| e.to_string())
        };
        let ending = async {
            client.shutdown().await.map_err(|e| e.to_string())?;
            no_more(&mut client).await
        };
        tokio::try_join!(receiving, ending).map(|_| sent)
    };
    let joining = join(splicer, a, b, Mode::Sockmap, limits);
    let (outcome, sent) = tokio::try_join!(joining, flooding)?;
    if !outcome.unspliced() {
        return Err(format!("not taken out of the kernel: {outcome:?}"));
    }
    if outcome.bytes != [sent as u64, 0] {
        return Err(format!("{sent} bytes sent, counted as {outcome:?}"));
    }
    Ok(())
}

/// The client does not hear that `first` has arrived, and `second` is lost. At the second timeout TCP sends both in one segment
/// (`tcp_retrans_try_collapse` of net/ipv4/tcp_output.c); at the first, which may be a probe of the tail, perhaps `second` alone.
async fn overlap(rig: Rig, splicer: &Splicer) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    let Rig {
        mut client,
        a,
        b,
        mut server,
    } = rig;
    let ear = a.as_fd().try_clone_to_owned().map_err(io)?;
    let sending = async {
        let mut expect = async |bytes: &[u8]| -> Result<(), String> {
            let mut read = vec![0; bytes.len()];
            server.read_exact(&mut read).await.map_err(io)?;
            match read == bytes {
                true => Ok(()),
                false => Err(format!("{read:?} instead of {bytes:?}")),
            }
        };
        // A round trip, so that the sockets are joined.
        client.write_all(b"joined").await.map_err(io)?;
        expect(b"joined").await?;
        let client_fd = client.as_fd().try_clone_to_owned().map_err(io)?;
        let unheard = Mute::new([&client_fd]).await.map_err(io)?;
        client.write_all(b"first").await.map_err(io)?;
        expect(b"first").await?;
        let lost = Mute::new([&ear]).await.map_err(io)?;
        client.write_all(b"second").await.map_err(io)?;
        while TcpInfo::read(&client).map_err(io)?.retransmitted == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(lost);
        expect(b"second").await?;
        drop(unheard);
        client.shutdown().await.map_err(io)?;
        no_more(&mut server).await?;
        server.shutdown().await.map_err(io)?;
        no_more(&mut client).await
    };
    let joining = join(splicer, a, b, Mode::Sockmap, PairLimits::default());
    let (outcome, ()) = tokio::try_join!(joining, sending)?;
    in_order(outcome, [17, 0])
}

async fn join(
    splicer: &Splicer,
    a: TcpStream,
    b: TcpStream,
    plan: impl Into<Plan>,
    limits: PairLimits,
) -> Result<PairOutcome, String> {
    let (_keep, signal) = watch::channel(Signal::Run);
    Ok(splicer
        .join(a.into(), b.into(), plan, &limits, signal)
        .await)
}

fn in_order(outcome: PairOutcome, bytes: [u64; 2]) -> Result<(), String> {
    let expected = PairOutcome {
        bytes,
        ends: [End::Fin, End::Fin],
        mode: Mode::Sockmap,
        reason: None,
    };
    if outcome == expected {
        Ok(())
    } else {
        Err(format!("ended as {outcome:?}"))
    }
}
