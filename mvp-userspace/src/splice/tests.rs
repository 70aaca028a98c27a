//! The userspace modes, on real sockets and without privileges. What the kernel does is tried in `tests/tests/splicing`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::pump::{self, Conduit, Pump, Stop};
use super::rig::Rig;
use super::traffic::Traffic;
use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { timeout(PATIENCE, future).await.expect("hung") })
}

fn block() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), 1usize..100_000)
        .prop_map(|(first, length)| (0..length).map(|i| first.wrapping_add(i as u8)).collect())
}

/// Writes the blocks, ends, and reads to the end, all at once.
async fn talk(stream: TcpStream, blocks: Vec<Vec<u8>>) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let writing = async move {
        for block in blocks {
            write.write_all(&block).await.unwrap();
            tokio::task::yield_now().await;
        }
        write.shutdown().await.unwrap();
    };
    let mut got = Vec::new();
    let ((), result) = tokio::join!(writing, read.read_to_end(&mut got));
    result.unwrap();
    got
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is sent in whatever pieces, with whatever read before, and however small the buffers: it arrives, in order.
    #[test]
    fn everything_arrives_in_order(
        mode in prop_oneof![Just(Mode::Splice), Just(Mode::Copy), Just(Mode::Sockmap)],
        early in [prop::collection::vec(any::<u8>(), 0..5000), prop::collection::vec(any::<u8>(), 0..5000)],
        blocks in [prop::collection::vec(block(), 0..6), prop::collection::vec(block(), 0..6)],
        buffer in prop_oneof![Just(None), (1usize..20_000).prop_map(Some)],
    ) {
        let expected: [Vec<u8>; 2] =
            [0, 1].map(|side: usize| [early[side].clone(), blocks[side].concat()].concat());
        let (outcome, at_server, at_client) = block_on(async {
            let rig = Rig::new().await.unwrap();
            if let Some(bytes) = buffer {
                for stream in [&rig.client, &rig.a, &rig.b, &rig.server] {
                    SockRef::from(stream).set_send_buffer_size(bytes).unwrap();
                }
            }
            let [early_a, early_b] = early;
            let [from_client, from_server] = blocks;
            let splicer = Splicer::new(None, 1);
            let (_keep, signal) = watch::channel(Signal::Run);
            let limits = PairLimits::default();
            let a = Side { stream: rig.a, early: early_a };
            let b = Side { stream: rig.b, early: early_b };
            let join = splicer.join(a, b, mode, &limits, signal);
            tokio::join!(join, talk(rig.server, from_server), talk(rig.client, from_client))
        });
        prop_assert!(at_server == expected[0], "{} of {} bytes", at_server.len(), expected[0].len());
        prop_assert!(at_client == expected[1], "{} of {} bytes", at_client.len(), expected[1].len());
        // Without the kernel part sockmap is copying, and says why.
        let (used, reason) = match mode {
            Mode::Sockmap => (Mode::Copy, Some(Reason::Unavailable)),
            other => (other, None),
        };
        prop_assert_eq!(outcome, PairOutcome {
            bytes: expected.map(|bytes| bytes.len() as u64),
            ends: [End::Fin; 2],
            mode: used,
            reason,
        });
    }
}

#[test]
fn an_owner_that_is_gone_changes_nothing() {
    block_on(async {
        let mut rig = Rig::new().await.unwrap();
        let splicer = Splicer::new(None, 1);
        let (owner, signal) = watch::channel(Signal::Run);
        drop(owner);
        let limits = PairLimits {
            silence: Duration::from_millis(1),
            ..PairLimits::default()
        };
        let join = splicer.join(rig.a.into(), rig.b.into(), Mode::Copy, &limits, signal);
        let talking = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                rig.client.write_all(b"x").await.unwrap();
                rig.server.read_exact(&mut [0; 1]).await.unwrap();
            }
            drop((rig.client, rig.server));
        };
        let (outcome, ()) = tokio::join!(join, talking);
        assert_eq!(outcome.bytes, [3, 0]);
        assert_eq!(outcome.ends, [End::Fin; 2]);
    });
}

/// The kernel sends a segment that was read in part once more from its beginning.
#[test]
fn no_moment_is_clean_while_a_part_of_a_segment_is_unread() {
    block_on(async {
        let mut rig = Rig::new().await.unwrap();
        // More than the first buffer takes.
        rig.client.write_all(&[7; 1500]).await.unwrap();
        rig.a.readable().await.unwrap();
        // Registered anew: the runtime does not know that there is something to read.
        let a = TcpStream::from_std(rig.a.into_std().unwrap()).unwrap();
        let mut pumps = [0, 1].map(|from| Pump::new(from, Vec::new(), Conduit::Buffer));
        let traffic = Traffic::default();
        let open = [const { AtomicBool::new(true) }; 2];
        let stop = pump::run([&a, &rig.b], &mut pumps, &traffic, &open, true, None).await;
        assert_eq!(stop, Ok(Stop::Clean));
        assert_eq!(rustix::io::ioctl_fionread(&a).unwrap(), 0);
        assert_eq!(traffic.get(), [1500, 0]);
    });
}
