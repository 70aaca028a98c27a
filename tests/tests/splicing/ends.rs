//! How joined pairs begin and end: resets, signals, what was read before, what the kernel refuses, the cap.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::common::*;
use mvp::kernel::Splice;
use mvp::splice::{Count, End, Mode, PairLimits, Reason, Side, Signal, Splicer};
use mvp_tests::pairs::{PATIENCE, PairProxy, eventually};
use socket2::SockRef;
use tokio::sync::watch;

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
            PairLimits::default(),
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
            let limits = PairLimits::default();
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
                let limits = PairLimits::default();
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
            let limits = PairLimits::default();
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
            PairLimits::default(),
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
        let limits = PairLimits {
            silence: Duration::from_millis(20),
            ..PairLimits::default()
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
