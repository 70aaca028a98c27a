//! Pairs of sockets joined: in a real kernel by sockmap, by splice(2), and copied. No byte is lost and nothing hangs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::*;
use mvp::kernel::Splice;
use mvp::splice::{Count, End, Mode, PairLimits, PairOutcome, Reason, calibrate, selftest};
use mvp_common::Counter;
use mvp_tests::netns::{Namespace, privileged};
use mvp_tests::pairs::{
    PATIENCE, PairProxy, WINDOW, pattern, receive, receive_acknowledging, send, send_acknowledged,
};

const SHORT_CONNECTIONS: usize = 10_000;
const HALF_CLOSES: usize = 1_000;
/// Through the kernel; the other modes carry a part of it.
const BULK: u64 = 5_000_000_000;
const BULK_USERSPACE: u64 = 1_000_000_000;
/// A writer whose reader does not read is to be stopped far below this: its bytes are in the buffers of four sockets (at most
/// 4 and 6 MiB each, `tcp_wmem` and `tcp_rmem`), in the bounded backlog, and what came while a busy machine did not let the agent
/// run. Without a bound there is no end.
const UNBOUNDED: u64 = 256 << 20;

#[test]
fn the_self_test_passes() {
    in_namespace("the_self_test_passes", || {
        let splice = Splice::load().unwrap();
        let report = runtime().block_on(selftest::run(&splice));
        println!("{report}, in {:?}", report.took);
        assert_eq!(report.failure(), None, "{:?}", report.cases);
        assert_eq!(report.cases.len(), selftest::Case::ALL.len());
    });
}

#[test]
fn every_mode_is_calibrated() {
    in_namespace("every_mode_is_calibrated", || {
        let splicer = splicer(Mode::Sockmap);
        let started = Instant::now();
        let figures = runtime().block_on(calibrate::run(&splicer, &Mode::ALL));
        let figures = figures.unwrap();
        println!("{figures:#?} in {:?}", started.elapsed());
        assert_eq!(
            figures.iter().map(|f| f.mode).collect::<Vec<_>>(),
            Mode::ALL
        );
        for f in &figures {
            for figure in [f.talk, f.loaded, f.bulk] {
                assert!(!figure.is_zero(), "{f:?}");
            }
        }
        let counts = splicer.counts();
        for count in [Count::Sockmap, Count::Splice, Count::Copy] {
            assert!(counts.get(count) > 0, "{}", count.name());
        }
        // What is called sockmap was in the kernel all the time.
        for count in [Count::Busy, Count::Backlog, Count::Refused] {
            assert_eq!(counts.get(count), 0, "{}", count.name());
        }
    });
}

#[test]
fn ten_thousand_short_connections_with_early_bytes() {
    in_each_mode("ten_thousand_short_connections_with_early_bytes", |mode| {
        let (listener, server) = listen(LOOPBACK);
        let splicer = splicer(mode);
        let proxy = PairProxy::start(
            LOOPBACK,
            server,
            Arc::clone(&splicer),
            mode,
            PairLimits::default(),
        );
        let serve = thread::spawn(move || {
            for _ in 0..SHORT_CONNECTIONS {
                let mut stream = accept(&listener);
                let mut request = [0; 32];
                stream.read_exact(&mut request).unwrap();
                request.reverse();
                stream.write_all(&request).unwrap();
                assert_eq!(stream.read(&mut request).unwrap(), 0);
            }
        });
        for i in 0..SHORT_CONNECTIONS {
            let mut stream = connect(proxy.address);
            let mut request = [0; 32];
            request[..8].copy_from_slice(&i.to_le_bytes());
            stream.write_all(&request).unwrap();
            let mut answer = [0; 32];
            stream.read_exact(&mut answer).unwrap();
            answer.reverse();
            assert_eq!(answer, request);
            // By turns the end comes when the pair is in the kernel, and while it may be on its way there.
            let in_kernel = i % 2 == 0;
            if in_kernel {
                joined(&splicer, mode);
            }
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut answer).unwrap(), 0);
            match proxy.outcome() {
                PairOutcome {
                    bytes: [32, 32],
                    ends: [End::Fin, End::Fin],
                    mode: Mode::Copy,
                    reason: Some(Reason::Ended),
                } if mode == Mode::Sockmap && !in_kernel => {}
                outcome => assert_eq!(outcome, ended([32, 32], mode)),
            }
        }
        serve.join().unwrap();
        nothing_missed(&splicer, mode);
    });
}

#[test]
fn gigabytes_arrive_as_they_were_sent() {
    for mode in Mode::ALL {
        if !privileged("gigabytes_arrive_as_they_were_sent", true) {
            return;
        }
        let bytes = if mode == Mode::Sockmap {
            BULK
        } else {
            BULK_USERSPACE
        };
        bulk(mode, bytes);
    }
}

/// So many bytes, through three machines in a row.
pub(crate) fn bulk(mode: Mode, bytes: u64) {
    let [client, node, server] = [(); 3].map(|()| Namespace::new().unwrap());
    client
        .connect(("eth0", "10.78.1.2/24"), &node, ("eth0", "10.78.1.1/24"))
        .unwrap();
    server
        .connect(("eth0", "10.78.2.2/24"), &node, ("eth1", "10.78.2.1/24"))
        .unwrap();
    let (listener, address) = server.run(|| listen("10.78.2.2".parse().unwrap())).unwrap();
    let (splicer, proxy) = node
        .run(|| {
            let splicer = splicer(mode);
            let ip = "10.78.1.1".parse().unwrap();
            let proxy = PairProxy::start(
                ip,
                address,
                Arc::clone(&splicer),
                mode,
                PairLimits::default(),
            );
            (splicer, proxy)
        })
        .unwrap();
    let pattern = pattern();
    let started = Instant::now();
    let sender = thread::spawn({
        let (mut stream, pattern) = (
            client.run(|| connect(proxy.address)).unwrap(),
            Arc::clone(&pattern),
        );
        move || {
            send_acknowledged(&mut stream, &pattern, bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
        }
    });
    let mut stream = accept(&listener);
    receive_acknowledging(&mut stream, &pattern, bytes).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    drop(stream);
    sender.join().unwrap();
    println!("{}: {bytes} bytes in {:?}", mode.name(), started.elapsed());
    assert_eq!(proxy.outcome(), ended([bytes, bytes / WINDOW], mode));
    if mode == Mode::Sockmap {
        // All but what came before the two sockets were joined.
        let counters = splicer.kernel().unwrap().counters().unwrap();
        assert!(counters.get(Counter::SpliceBytes) > bytes - (64 << 20));
        assert_eq!(counters.get(Counter::SpliceMissing), 0);
    }
}

#[test]
fn a_slow_reader_is_bounded_and_misses_nothing() {
    in_each_mode("a_slow_reader_is_bounded_and_misses_nothing", slow_reader);
}

/// In a namespace of its own.
pub(crate) fn slow_reader(mode: Mode) {
    let (listener, server) = listen(LOOPBACK);
    let splicer = splicer(mode);
    let proxy = PairProxy::start(
        LOOPBACK,
        server,
        Arc::clone(&splicer),
        mode,
        PairLimits::default(),
    );
    let pattern = pattern();
    let mut client = connect(proxy.address);
    let mut server = accept(&listener);
    joined(&splicer, mode);
    let sent = flood(&mut client, &pattern);
    println!("{}: {sent} bytes without a reader", mode.name());
    assert!(sent < UNBOUNDED, "no back-pressure: {sent} bytes");

    // The other direction goes on meanwhile, although this one waits.
    server.write_all(b"are you there?").unwrap();
    let mut answer = [0; 14];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"are you there?");

    // And when it is read after all, everything is there, and more can follow.
    let more = 3 * pattern.len() as u64 - sent % pattern.len() as u64;
    let sender = thread::spawn({
        let pattern = Arc::clone(&pattern);
        move || {
            let at = (sent % pattern.len() as u64) as usize;
            client.write_all(&pattern[at..]).unwrap();
            send(&mut client, &pattern, 2 * pattern.len() as u64).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
        }
    });
    assert_eq!(receive(&mut server, &pattern).unwrap(), sent + more);
    drop(server);
    sender.join().unwrap();
    let outcome = proxy.outcome();
    assert_eq!(outcome.bytes, [sent + more, 14]);
    assert_eq!(outcome.ends, [End::Fin; 2]);
    assert_eq!(outcome.unspliced(), mode == Mode::Sockmap, "{outcome:?}");
    nothing_missed(&splicer, mode);
}

#[test]
fn a_half_close_never_overtakes_its_data() {
    in_each_mode("a_half_close_never_overtakes_its_data", |mode| {
        let (listener, server) = listen(LOOPBACK);
        let splicer = splicer(mode);
        let proxy = PairProxy::start(
            LOOPBACK,
            server,
            Arc::clone(&splicer),
            mode,
            PairLimits::default(),
        );
        let pattern = pattern();
        for i in 0..HALF_CLOSES {
            let mut client = connect(proxy.address);
            let mut server = accept(&listener);
            // Joined before the first FIN, so that it is the kernel's part that is tried.
            client.write_all(&pattern[..1]).unwrap();
            server.read_exact(&mut [0; 1]).unwrap();
            joined(&splicer, mode);
            // By turns the client and the server end first, with data of both directions on their way.
            let (mut first, mut second) = if i % 2 == 0 {
                (client, server)
            } else {
                (server, client)
            };
            let bytes = [1, 1_500, 70_000, 200_000][i / 2 % 4];
            let ending = thread::spawn({
                let pattern = Arc::clone(&pattern);
                move || {
                    send(&mut first, &pattern, bytes).unwrap();
                    first.shutdown(Shutdown::Write).unwrap();
                    assert_eq!(receive(&mut first, &pattern).unwrap(), 2 * bytes);
                }
            });
            send(&mut second, &pattern, bytes).unwrap();
            assert_eq!(receive(&mut second, &pattern).unwrap(), bytes, "round {i}");
            // Its own direction is still open. The pattern goes on where it was.
            let at = bytes as usize;
            let rest: Vec<u8> = pattern.iter().cycle().skip(at).take(at).copied().collect();
            second.write_all(&rest).unwrap();
            drop(second);
            ending.join().unwrap();
            let (from_first, from_second) = (bytes, 2 * bytes);
            let bytes = if i % 2 == 0 {
                [from_first + 1, from_second]
            } else {
                [from_second + 1, from_first]
            };
            assert_eq!(proxy.outcome(), ended(bytes, mode), "round {i}");
        }
        nothing_missed(&splicer, mode);
    });
}

/// Sends until nothing more is taken for two seconds, or far too much was.
fn flood(stream: &mut TcpStream, pattern: &[u8]) -> u64 {
    stream
        .set_write_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut sent = 0;
    while sent < UNBOUNDED {
        let at = (sent % pattern.len() as u64) as usize;
        match stream.write(&pattern[at..]) {
            Ok(bytes) => sent += bytes as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("after {sent} bytes: {error}"),
        }
    }
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    sent
}
