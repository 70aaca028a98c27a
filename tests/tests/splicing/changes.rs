//! Pairs that change over in mid-stream: nothing is lost, doubled or reordered.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use mvp::kernel::Splice;
use mvp::splice::flow::LONGEST;
use mvp::splice::{Count, End, Mode, PairLimits, Plan, Splicer};
use mvp_common::Counter;
use mvp_tests::pairs::{PATIENCE, PairProxy, pattern, receive};

use crate::common::{LOOPBACK, accept, connect, in_namespace, listen};

/// Changes in each direction that every plan has to go through.
const CHANGES: u64 = 12;
/// Short, so that the changes are many.
const CALM: Duration = Duration::from_millis(1);

#[test]
fn whoever_changes_over_loses_nothing() {
    for messages in Mode::ALL {
        for bulk in Mode::ALL {
            let plan = Plan { messages, bulk };
            if messages != bulk && plan.sound() == plan {
                in_namespace("whoever_changes_over_loses_nothing", || changes(plan));
            }
        }
    }
}

fn changes(plan: Plan) {
    let (listener, server) = listen(LOOPBACK);
    let splicer = Arc::new(Splicer::new(Some(Splice::load().unwrap()), 1));
    let limits = PairLimits {
        calm: CALM,
        ..PairLimits::default()
    };
    let proxy = PairProxy::start(LOOPBACK, server, Arc::clone(&splicer), plan, limits);
    let client = connect(proxy.address);
    let server = accept(&listener);
    let together = Arc::new(Together {
        splicer: Arc::clone(&splicer),
        barrier: Barrier::new(2),
        done: AtomicBool::new(false),
        deadline: Instant::now() + PATIENCE,
    });
    // Both sides write what they like while they read all that comes.
    let talk = |stream: TcpStream, seed| {
        let together = Arc::clone(&together);
        thread::spawn(move || {
            let pattern = pattern();
            let mut reading = stream.try_clone().unwrap();
            let received = thread::spawn({
                let pattern = Arc::clone(&pattern);
                move || receive(&mut reading, &pattern).unwrap()
            });
            let sent = together.write(stream, &pattern, seed);
            (sent, received.join().unwrap())
        })
    };
    let (first, second) = (talk(client, 0x9e37_79b9), talk(server, 0x7f4a_7c15));
    let (from_client, at_client) = first.join().unwrap();
    let (from_server, at_server) = second.join().unwrap();
    assert_eq!(
        (at_server, at_client),
        (from_client, from_server),
        "{plan:?}"
    );
    let changes = [Count::ToBulk, Count::ToMessages].map(|count| splicer.counts().get(count));
    assert!(
        changes.iter().all(|&n| n >= CHANGES),
        "{plan:?}: {changes:?}"
    );
    let outcome = proxy.outcome();
    assert_eq!(outcome.bytes, [from_client, from_server], "{plan:?}");
    assert_eq!(outcome.ends, [End::Fin; 2], "{plan:?}");
    let counters = splicer.kernel().unwrap().counters().unwrap();
    assert_eq!(counters.get(Counter::SpliceMissing), 0, "{plan:?}");
    let kernel = outcome.mode == Mode::Sockmap;
    assert_eq!(kernel, plan.needs_kernel(), "{plan:?}: {outcome:?}");
    assert_eq!(counters.get(Counter::SpliceBytes) > 0, kernel, "{plan:?}");
}

/// Pairs that are taken out of the kernel, and bytes of each direction: several times what the kernel may hold.
const SLOW: usize = 30;
const SLOW_BYTES: u64 = 6 << 20;

#[test]
fn whoever_is_taken_out_for_a_slow_reader_loses_nothing() {
    in_namespace(
        "whoever_is_taken_out_for_a_slow_reader_loses_nothing",
        || {
            let (listener, server) = listen(LOOPBACK);
            let splicer = Arc::new(Splicer::new(Some(Splice::load().unwrap()), 1));
            let limits = PairLimits {
                backlog: 64 << 10,
                ..PairLimits::default()
            };
            let (mode, at) = (Mode::Sockmap, Arc::clone(&splicer));
            let proxy = PairProxy::start(LOOPBACK, server, at, mode, limits);
            let pattern = pattern();
            for number in 0..SLOW {
                let sides = [connect(proxy.address), accept(&listener)];
                let talk = |(stream, seed): (TcpStream, u64)| {
                    let pattern = Arc::clone(&pattern);
                    thread::spawn(move || {
                        let mut reading = Slow(stream.try_clone().unwrap());
                        let received = thread::spawn({
                            let pattern = Arc::clone(&pattern);
                            move || receive(&mut reading, &pattern).unwrap()
                        });
                        write_all(stream, &pattern, seed + number as u64);
                        received.join().unwrap()
                    })
                };
                let talks = sides.into_iter().zip([0x9e37_79b9, 0x7f4a_7c15]).map(talk);
                for talk in talks.collect::<Vec<_>>() {
                    assert_eq!(talk.join().unwrap(), SLOW_BYTES);
                }
                let outcome = proxy.outcome();
                assert_eq!(outcome.bytes, [SLOW_BYTES; 2], "{outcome:?}");
                assert_eq!(outcome.ends, [End::Fin; 2], "{outcome:?}");
            }
            let taken_out = splicer.counts().get(Count::Backlog);
            assert!(taken_out > 0);
            let counters = splicer.kernel().unwrap().counters().unwrap();
            assert_eq!(counters.get(Counter::SpliceMissing), 0);
        },
    );
}

/// Reads with a pause before each read: the reader's pace, in which nothing is waited for.
struct Slow(TcpStream);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_micros(500));
        self.0.read(buffer)
    }
}

fn write_all(mut stream: TcpStream, pattern: &[u8], seed: u64) {
    let (mut random, mut sent) = (Random(seed), 0);
    while sent < SLOW_BYTES {
        let length = (1 + random.below(200_000)).min(SLOW_BYTES - sent);
        write_on(&mut stream, pattern, sent, length as usize).unwrap();
        sent += length;
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

/// What both writers of a pair have in common.
struct Together {
    splicer: Arc<Splicer>,
    barrier: Barrier,
    done: AtomicBool,
    deadline: Instant,
}

impl Together {
    /// Writes the pattern in blocks of many sizes, with and without pauses, until the pair has changed often enough. Says how much it was.
    fn write(&self, mut stream: TcpStream, pattern: &[u8], seed: u64) -> u64 {
        let mut random = Random(seed);
        let mut sent = 0;
        while !self.done.load(Ordering::Relaxed) {
            for _ in 0..random.below(40) {
                let length = match random.below(4) {
                    0 => 1 + random.below(200),
                    1 => 200 + random.below(20_000),
                    2 => 20_000 + random.below(280_000),
                    _ => 300_000 + random.below(700_000),
                };
                write_on(&mut stream, pattern, sent, length as usize).unwrap();
                sent += length;
                // The traffic's own pauses; nothing is waited for.
                if random.below(3) == 0 {
                    thread::sleep(Duration::from_micros(random.below(4_000)));
                }
            }
            self.pause();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        sent
    }

    /// Both are silent for longer than any silence of bulk that is waited for, and then know whether to go on.
    fn pause(&self) {
        let decides = self.barrier.wait().is_leader();
        thread::sleep(CALM * (LONGEST + 4));
        if decides {
            let enough = self.splicer.counts().get(Count::ToMessages) >= CHANGES;
            let late = Instant::now() > self.deadline;
            self.done.store(enough || late, Ordering::Relaxed);
        }
        self.barrier.wait();
    }
}

/// xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Goes on with the pattern where it was after `sent` bytes.
fn write_on(stream: &mut TcpStream, pattern: &[u8], sent: u64, length: usize) -> io::Result<()> {
    let (mut at, mut left) = ((sent % pattern.len() as u64) as usize, length);
    while left > 0 {
        let block = left.min(pattern.len() - at);
        stream.write_all(&pattern[at..at + block])?;
        left -= block;
        at = (at + block) % pattern.len();
    }
    Ok(())
}
