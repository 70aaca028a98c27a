//! Pairs of sockets joined: in a real kernel by sockmap, by splice(2), and copied. No byte is lost and nothing hangs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mvp::kernel::Splice;
use mvp::splice::{
    Count, End, Limits, Mode, Outcome, Reason, Side, Signal, Splicer, calibrate, selftest,
};
use mvp_common::Counter;
use mvp_tests::netns::{Namespace, privileged};
use mvp_tests::pairs::{
    PATIENCE, PairProxy, WINDOW, eventually, pattern, receive, receive_acknowledging, send,
    send_acknowledged,
};
use socket2::SockRef;
use tokio::sync::watch;

const SHORT_CONNECTIONS: usize = 10_000;
const HALF_CLOSES: usize = 1_000;
/// Through the kernel; the other modes carry a part of it.
const BULK: u64 = 5_000_000_000;
const BULK_USERSPACE: u64 = 1_000_000_000;
/// A writer whose reader does not read is to be stopped far below this: its bytes are in the buffers of four sockets (at most
/// 4 and 6 MiB each, `tcp_wmem` and `tcp_rmem`), in the bounded backlog, and what came while a busy machine did not let the agent
/// run. Without a bound there is no end.
const UNBOUNDED: u64 = 256 << 20;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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
            Limits::default(),
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
                Outcome {
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
        // Three machines in a row.
        let [client, node, server] = [(); 3].map(|()| Namespace::new().unwrap());
        client
            .connect(("eth0", "10.78.1.2/24"), &node, ("eth0", "10.78.1.1/24"))
            .unwrap();
        server
            .connect(("eth0", "10.78.2.2/24"), &node, ("eth1", "10.78.2.1/24"))
            .unwrap();
        let bytes = if mode == Mode::Sockmap {
            BULK
        } else {
            BULK_USERSPACE
        };
        let (listener, address) = server.run(|| listen("10.78.2.2".parse().unwrap())).unwrap();
        let (splicer, proxy) = node
            .run(|| {
                let splicer = splicer(mode);
                let ip = "10.78.1.1".parse().unwrap();
                let proxy =
                    PairProxy::start(ip, address, Arc::clone(&splicer), mode, Limits::default());
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
}

#[test]
fn a_slow_reader_is_bounded_and_misses_nothing() {
    in_each_mode("a_slow_reader_is_bounded_and_misses_nothing", |mode| {
        let (listener, server) = listen(LOOPBACK);
        let splicer = splicer(mode);
        let proxy = PairProxy::start(
            LOOPBACK,
            server,
            Arc::clone(&splicer),
            mode,
            Limits::default(),
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
    });
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
            Limits::default(),
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

#[test]
fn a_reset_resets_the_other_side() {
    in_each_mode("a_reset_resets_the_other_side", |mode| {
        let (listener, server) = listen(LOOPBACK);
        let splicer = splicer(mode);
        let proxy = PairProxy::start(
            LOOPBACK,
            server,
            Arc::clone(&splicer),
            mode,
            Limits::default(),
        );
        // Who breaks off, and whether the other or the same side has half closed before.
        for (breaker, half_closed) in [
            (0, None),
            (1, None),
            (0, Some(1)),
            (1, Some(0)),
            (0, Some(0)),
            (1, Some(1)),
        ] {
            let mut sides = [connect(proxy.address), accept(&listener)];
            sides[0].write_all(b"x").unwrap();
            sides[1].read_exact(&mut [0; 1]).unwrap();
            joined(&splicer, mode);
            if let Some(side) = half_closed {
                sides[side].shutdown(Shutdown::Write).unwrap();
                let other: &mut TcpStream = &mut sides[1 - side];
                assert_eq!(other.read(&mut [0; 1]).unwrap(), 0);
            }
            let [client, server] = sides;
            let (broken, mut stays) = if breaker == 0 {
                (client, server)
            } else {
                (server, client)
            };
            SockRef::from(&broken)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(broken);
            let case = format!("{} breaks off, half closed {half_closed:?}", breaker);
            // Without a byte being written: nobody may have to try before it is told.
            let outcome = proxy.outcome();
            if half_closed != Some(breaker) {
                let error = stays.read(&mut [0; 1]).expect_err(&case);
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{case}");
            } else {
                // It has read the end before, and does not read on.
                eventually(&case, || stays.take_error().unwrap().is_some());
            }
            assert_eq!(outcome.ends[breaker], End::Broken, "{case}: {outcome:?}");
            assert_eq!(outcome.ends[1 - breaker], End::Reset, "{case}: {outcome:?}");
            assert_eq!(outcome.mode, mode, "{case}: {outcome:?}");
        }
    });
}

#[test]
fn bytes_read_before_come_first() {
    in_each_mode("bytes_read_before_come_first", |mode| {
        let (mut client, a) = connection();
        let (mut server, b) = connection();
        client.write_all(b" of the client").unwrap();
        server.write_all(b" of the server").unwrap();
        for end in [&client, &server] {
            end.shutdown(Shutdown::Write).unwrap();
        }
        let splicer = splicer(mode);
        let outcome = runtime().block_on(async {
            let side = |stream, early: &[u8]| Side {
                stream: tokio::net::TcpStream::from_std(stream).unwrap(),
                early: early.to_vec(),
            };
            let (_keep, signal) = watch::channel(Signal::Run);
            let limits = Limits::default();
            let (a, b) = (side(a, b"the rest"), side(b, b"and the rest"));
            tokio::time::timeout(PATIENCE, splicer.join(a, b, mode, &limits, signal))
                .await
                .unwrap()
        });
        let mut got = [String::new(), String::new()];
        server.read_to_string(&mut got[0]).unwrap();
        client.read_to_string(&mut got[1]).unwrap();
        assert_eq!(
            got,
            ["the rest of the client", "and the rest of the server"]
        );
        assert_eq!(outcome.ends, [End::Fin; 2]);
        // Both had ended before they could be joined.
        let reason = (mode == Mode::Sockmap).then_some(Reason::Ended);
        assert_eq!(outcome.reason, reason);
    });
}

#[test]
fn the_rest_of_a_segment_follows_what_was_read_of_it() {
    in_each_mode(
        "the_rest_of_a_segment_follows_what_was_read_of_it",
        |mode| {
            let (mut client, mut a) = connection();
            let (mut server, b) = connection();
            client.write_all(b"read before").unwrap();
            eventually("arrived", || {
                a.peek(&mut [0; 16]).is_ok_and(|bytes| bytes == 11)
            });
            let mut early = vec![0; 5];
            a.read_exact(&mut early).unwrap();
            let splicer = splicer(mode);
            runtime().block_on(async {
                let stream = |stream| tokio::net::TcpStream::from_std(stream).unwrap();
                let (a, b) = (
                    Side {
                        stream: stream(a),
                        early,
                    },
                    Side::from(stream(b)),
                );
                let (_keep, signal) = watch::channel(Signal::Run);
                let limits = Limits::default();
                let join = splicer.join(a, b, mode, &limits, signal);
                tokio::pin!(join);
                let in_kernel = async {
                    while mode == Mode::Sockmap && splicer.in_kernel() == 0 {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                tokio::select! {
                    outcome = &mut join => panic!("{outcome:?}"),
                    waited = tokio::time::timeout(PATIENCE, in_kernel) => waited.unwrap(),
                }
                client.write_all(b" and after").unwrap();
                for end in [&client, &server] {
                    end.shutdown(Shutdown::Write).unwrap();
                }
                let outcome = tokio::time::timeout(PATIENCE, join).await.unwrap();
                assert_eq!(outcome, ended([21, 0], mode));
            });
            let mut got = String::new();
            server.read_to_string(&mut got).unwrap();
            assert_eq!(got, "read before and after");
        },
    );
}

#[test]
fn sockets_that_the_kernel_refuses_are_copied() {
    in_namespace("sockets_that_the_kernel_refuses_are_copied", || {
        let splicer = splicer(Mode::Sockmap);
        let (mut client, a) = connection();
        let (mut server, b) = connection();
        let (_far, other) = connection();
        // A socket takes one verdict program (`sock_map_link` in net/core/sock_map.c: EBUSY), and this one has it.
        let taken = Splice::load().unwrap();
        let taken = taken.join([&a, &other]).unwrap();
        let outcome = runtime().block_on(async {
            let side = |stream| Side::from(tokio::net::TcpStream::from_std(stream).unwrap());
            let (_keep, signal) = watch::channel(Signal::Run);
            let limits = Limits::default();
            let join = splicer.join(side(a), side(b), Mode::Sockmap, &limits, signal);
            tokio::pin!(join);
            // Its first turn: both sockets are silent, so it tries to join them, and goes on to copy.
            assert!(futures_util::poll!(join.as_mut()).is_pending());
            drop(taken);
            client.write_all(b"ping").unwrap();
            server.write_all(b"pong").unwrap();
            for end in [&client, &server] {
                end.shutdown(Shutdown::Write).unwrap();
            }
            tokio::time::timeout(PATIENCE, join).await.unwrap()
        });
        let mut got = [String::new(), String::new()];
        server.read_to_string(&mut got[0]).unwrap();
        client.read_to_string(&mut got[1]).unwrap();
        assert_eq!(got, ["ping", "pong"]);
        assert_eq!(
            (outcome.mode, outcome.reason, outcome.ends),
            (Mode::Copy, Some(Reason::Refused), [End::Fin; 2])
        );
        assert_eq!(splicer.counts().get(Count::Refused), 1);
    });
}

#[test]
fn above_the_cap_pairs_are_copied() {
    in_namespace("above_the_cap_pairs_are_copied", || {
        let (listener, server) = listen(LOOPBACK);
        let splicer = Arc::new(Splicer::new(Some(Splice::load().unwrap()), 1));
        let proxy = PairProxy::start(
            LOOPBACK,
            server,
            Arc::clone(&splicer),
            Mode::Sockmap,
            Limits::default(),
        );
        let open = || {
            let (mut client, mut server) = (connect(proxy.address), accept(&listener));
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0; 1]).unwrap();
            (client, server)
        };
        let close = |(client, server)| {
            drop::<(TcpStream, TcpStream)>((client, server));
            let outcome = proxy.outcome();
            (outcome.mode, outcome.reason)
        };
        let first = open();
        joined(&splicer, Mode::Sockmap);
        let second = open();
        assert_eq!(close(second), (Mode::Copy, Some(Reason::Cap)));
        assert_eq!(close(first), (Mode::Sockmap, None));
        let third = open();
        joined(&splicer, Mode::Sockmap);
        assert_eq!(close(third), (Mode::Sockmap, None));
        assert_eq!(splicer.in_kernel(), 0);
        assert_eq!(splicer.counts().get(Count::Cap), 1);
    });
}

#[test]
fn pairs_end_when_they_are_told_to() {
    in_each_mode("pairs_end_when_they_are_told_to", |mode| {
        let (listener, server) = listen(LOOPBACK);
        let limits = Limits {
            silence: Duration::from_millis(20),
            ..Limits::default()
        };
        for signal in [Signal::Retire, Signal::Stop] {
            let splicer = splicer(mode);
            let proxy = PairProxy::start(LOOPBACK, server, Arc::clone(&splicer), mode, limits);
            let (mut client, mut server) = (connect(proxy.address), accept(&listener));
            client.write_all(b"x").unwrap();
            server.read_exact(&mut [0; 1]).unwrap();
            joined(&splicer, mode);
            proxy.signal(signal);
            for end in [&mut client, &mut server] {
                assert_eq!(end.read(&mut [0; 1]).unwrap(), 0);
            }
            let outcome = proxy.outcome();
            assert_eq!(outcome.ends, [End::Stopped; 2]);
            assert_eq!((outcome.mode, outcome.bytes), (mode, [1, 0]));
        }
    });
}

fn in_namespace(test: &str, work: impl FnOnce() + Send) {
    if privileged(test, true) {
        Namespace::new().unwrap().run(work).unwrap();
    }
}

fn in_each_mode(test: &str, work: impl Fn(Mode) + Sync) {
    for mode in Mode::ALL {
        in_namespace(test, || work(mode));
    }
}

fn splicer(mode: Mode) -> Arc<Splicer> {
    let kernel = (mode == Mode::Sockmap).then(|| Splice::load().unwrap());
    Arc::new(Splicer::new(kernel, usize::MAX))
}

/// Waits until the one pair is where its mode puts it.
fn joined(splicer: &Splicer, mode: Mode) {
    if mode == Mode::Sockmap {
        eventually("joined in the kernel", || splicer.in_kernel() == 1);
    }
}

/// In order, by the mode that was asked for.
fn ended(bytes: [u64; 2], mode: Mode) -> Outcome {
    Outcome {
        bytes,
        ends: [End::Fin; 2],
        mode,
        reason: None,
    }
}

/// Whatever the kernel moved found its target, and there was something.
fn nothing_missed(splicer: &Splicer, mode: Mode) {
    if mode == Mode::Sockmap {
        let counters = splicer.kernel().unwrap().counters().unwrap();
        assert!(counters.get(Counter::SpliceRedirected) > 0);
        assert_eq!(counters.get(Counter::SpliceMissing), 0);
    }
}

fn listen(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
}

fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// A test that would hang fails instead.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection; the second end is non-blocking.
fn connection() -> (TcpStream, TcpStream) {
    let (listener, address) = listen(LOOPBACK);
    let (far, near) = (connect(address), accept(&listener));
    near.set_nonblocking(true).unwrap();
    (far, near)
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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
