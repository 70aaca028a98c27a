//! Steering in a real kernel, between real network namespaces: who gets which connection, and what happens when the agent
//! hangs, dies, is overrun or is replaced.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    net::TcpListener,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use crate::common::*;
use mvp::kernel::{Error, LocalSource, Reason, Steering, Targets, room};
use mvp_common::Counter;
use mvp_tests::netns::Namespace;
use socket2::SockRef;

#[test]
fn while_idle_only_clients_on_the_node_reach_the_agent() {
    Net::run(
        "while_idle_only_clients_on_the_node_reach_the_agent",
        |net, path| {
            let server = Greeter::everywhere(b'S', PORT);
            let agent = Greeter::everywhere(b'A', 0);
            let mut steering = Steering::install(path).unwrap();
            let _beating = Beating::start(&mut steering);
            steering.set_listeners(&[agent.fd()]).unwrap();
            let network = |address: &str, prefix, steered| LocalSource {
                address: address.parse().unwrap(),
                prefix,
                steered,
            };
            let mut targets = Targets {
                ports: vec![PORT],
                own_sources: vec!["127.66.0.1".parse().unwrap()],
                local_sources: vec![
                    network("127.0.0.0", 8, true),
                    network("::1", 128, true),
                    network("10.78.0.1", 32, true),
                ],
                peers: vec![],
                peer_ports: 700..=799,
            };
            steering.configure(&targets).unwrap();
            let count = |steering: &Steering, counter| steering.counters().unwrap().get(counter);
            // The first three are asked from elsewhere, the others from the node itself.
            assert_eq!(net.answers(), "SSSAAAA");
            assert_eq!(count(&steering, Counter::Steered), 0);
            assert!(count(&steering, Counter::SteeredLocal) >= 4);
            assert!(count(&steering, Counter::PassIdle) >= 3);
            assert_eq!(server.seen().len(), 3);
            // The agent's own connections are never given to the agent.
            assert_eq!(
                ask_from(Some("127.66.0.1:0"), "127.0.0.1:6443").unwrap(),
                'S'
            );

            // A network in a network: the smaller one decides, in both families, and what is not named any more is gone.
            targets.local_sources = vec![
                network("10.78.0.0", 24, true),
                network("10.78.0.3", 32, false),
                network("127.0.0.12", 32, true),
                network("fd78::", 64, true),
            ];
            steering.configure(&targets).unwrap();
            assert_eq!(net.ask_from(Some("10.78.0.2:0"), FAR[0]), 'A');
            assert_eq!(net.ask_from(Some("10.78.0.3:0"), FAR[0]), 'S');
            assert_eq!(net.ask_from(None, FAR[2]), 'A');
            assert_eq!(ask(NEAR[0]), 'S');
            assert_eq!(ask_from(Some("127.0.0.12:0"), NEAR[1]).unwrap(), 'A');

            // Fail open holds for them as for everyone: without a listener, and without a sign of life.
            drop(agent);
            assert_eq!(net.ask_from(Some("10.78.0.2:0"), FAR[0]), 'S');
            assert!(count(&steering, Counter::PassNoListener) >= 1);
            targets.local_sources.clear();
            steering.configure(&targets).unwrap();
            assert_eq!(net.answers(), "SSSSSSS");
        },
    );
}

#[test]
fn the_guard_decides_who_gets_new_connections() {
    Net::run("the_guard_decides_who_gets_new_connections", |net, path| {
        let server = Greeter::everywhere(b'S', PORT);
        let other = Greeter::everywhere(b'O', PORT + 1);
        let agent = Greeter::everywhere(b'A', 0);
        let mut steering = Steering::install(path).unwrap();
        let _beating = Beating::start(&mut steering);
        assert!(steering.take_heartbeat().is_none());
        let count = |steering: &Steering, counter| steering.counters().unwrap().get(counter);

        // Idle, though everything else is ready: the server answers, and sees who asks.
        steer_port(&mut steering);
        steering.set_listeners(&[agent.fd()]).unwrap();
        assert_eq!(net.answers(), "SSSSSSS");
        let seen = server.seen();
        // The client may use either of its IPv6 addresses.
        for any in [
            &["10.78.0.2"][..],
            &["fd78::2", "fd78::3"],
            &["127.0.0.1"],
            &["::1"],
        ] {
            let saw = |address: &&str| seen.contains(&address.parse().unwrap());
            assert!(any.iter().any(saw), "none of {any:?} in {seen:?}");
        }
        assert!(agent.seen().is_empty());
        assert!(count(&steering, Counter::PassIdle) >= 7);
        assert_eq!(count(&steering, Counter::Steered), 0);

        // Armed: the agent answers, on that port only.
        steering.arm(Reason::VersionsDiffer).unwrap();
        assert_eq!(net.answers(), "AAAAAAA");
        assert_eq!(server.seen().len(), 7);
        assert!(agent.seen().contains(&"10.78.0.2".parse().unwrap()));
        assert_eq!(ask(&format!("127.0.0.1:{}", PORT + 1)), 'O');
        assert!(count(&steering, Counter::PassPort) >= 1);
        assert!(count(&steering, Counter::Steered) >= 7);
        let guard = steering.guard().unwrap();
        assert!(guard.armed && guard.alive && guard.reason == Reason::VersionsDiffer);
        assert_eq!(guard.steered, count(&steering, Counter::Steered));

        // No longer a port of ours, and back.
        let none = Targets {
            ports: vec![],
            own_sources: vec![],
            local_sources: vec![],
            peers: vec![],
            peer_ports: 0..=0,
        };
        steering.configure(&none).unwrap();
        assert_eq!(ask(NEAR[0]), 'S');
        steer_port(&mut steering);
        assert_eq!(ask(NEAR[0]), 'A');

        steering.disarm(Reason::Settled).unwrap();
        assert_eq!(net.answers(), "SSSSSSS");
        // Nothing happened that the programs were not told to count.
        let counters = steering.counters().unwrap();
        let outcomes = counters.iter().filter(|(c, _)| *c != Counter::Lookups);
        assert_eq!(
            outcomes.map(|(_, n)| n).sum::<u64>(),
            counters.get(Counter::Lookups)
        );
        assert_eq!(counters.get(Counter::PassAssignError), 0);
        drop(other);
    });
}

#[test]
fn families_have_slots_of_their_own() {
    Net::run("families_have_slots_of_their_own", |_, path| {
        let _server = Greeter::everywhere(b'S', PORT);
        let v4 = Greeter::on(b'4', listen("0.0.0.0:0", 64));
        let (mut steering, _beating) = armed(path, &v4);
        assert_eq!((ask("127.0.0.1:6443"), ask("[::1]:6443")), ('4', 'S'));
        let v6 = TcpListener::from(
            socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap(),
        );
        SockRef::from(&v6).set_only_v6(true).unwrap();
        SockRef::from(&v6)
            .bind(&"[::]:0".parse::<std::net::SocketAddr>().unwrap().into())
            .unwrap();
        SockRef::from(&v6).listen(64).unwrap();
        let v6 = Greeter::on(b'6', v6);
        steering.set_listeners(&[v4.fd(), v6.fd()]).unwrap();
        assert_eq!((ask("127.0.0.1:6443"), ask("[::1]:6443")), ('4', '6'));
        steering.set_listeners(&[v6.fd()]).unwrap();
        assert_eq!((ask("127.0.0.1:6443"), ask("[::1]:6443")), ('S', '6'));
        steering.clear_listeners().unwrap();
        steering.clear_listeners().unwrap();
        assert_eq!((ask("127.0.0.1:6443"), ask("[::1]:6443")), ('S', 'S'));
        // A socket that does not listen is refused.
        let connected = std::net::TcpStream::connect("127.0.0.1:6443").unwrap();
        let idle =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        idle.bind(
            &"127.0.0.1:0"
                .parse::<std::net::SocketAddr>()
                .unwrap()
                .into(),
        )
        .unwrap();
        assert!(steering.set_listeners(&[idle.as_fd()]).is_err());
        drop(connected);
    });
}

#[test]
fn the_agents_own_connections_and_its_peers_pass() {
    Net::run(
        "the_agents_own_connections_and_its_peers_pass",
        |net, path| {
            let _server = Greeter::everywhere(b'S', PORT);
            let agent = Greeter::everywhere(b'A', 0);
            let (mut steering, _beating) = armed(path, &agent);
            let targets = Targets {
                ports: vec![PORT],
                own_sources: vec!["127.66.0.1".parse().unwrap()],
                local_sources: vec![],
                peers: vec!["10.78.0.2".parse().unwrap(), "fd78::2".parse().unwrap()],
                peer_ports: 700..=709,
            };
            steering.configure(&targets).unwrap();

            let own = |source| ask_from(Some(source), "127.0.0.1:6443").unwrap();
            assert_eq!(own("127.66.0.1:0"), 'S');
            assert_eq!(own("127.66.0.1:705"), 'S');
            assert_eq!(own("127.66.0.2:0"), 'A');
            assert_eq!(own("127.66.0.2:705"), 'A');

            let (v4, v6) = (FAR[0], FAR[2]);
            for (source, address, who) in [
                ("10.78.0.2:700", v4, 'S'),
                ("10.78.0.2:709", v4, 'S'),
                ("10.78.0.2:710", v4, 'A'),
                ("10.78.0.2:699", v4, 'A'),
                ("10.78.0.2:0", v4, 'A'),
                ("10.78.0.3:700", v4, 'A'),
                ("[fd78::2]:700", v6, 'S'),
                ("[fd78::2]:710", v6, 'A'),
                ("[fd78::3]:700", v6, 'A'),
            ] {
                assert_eq!(net.ask_from(Some(source), address), who, "{source}");
            }
            let counters = steering.counters().unwrap();
            assert!(counters.get(Counter::PassExemptOwn) >= 2);
            assert!(counters.get(Counter::PassExemptPeer) >= 3);

            // A server that left is a client like any other.
            steering
                .configure(&Targets {
                    peers: vec!["10.78.0.3".parse().unwrap()],
                    ..targets.clone()
                })
                .unwrap();
            assert_eq!(net.ask_from(Some("10.78.0.2:701"), v4), 'A');
            assert_eq!(net.ask_from(Some("10.78.0.3:701"), v4), 'S');

            // Too much is refused before anything changes.
            let many = Targets {
                peers: (0..600_u32)
                    .map(|i| std::net::Ipv4Addr::from(0x0a63_0000 + i).into())
                    .collect(),
                ..targets
            };
            assert!(matches!(
                steering.configure(&many),
                Err(Error::NoRoom { .. })
            ));
            assert_eq!(net.ask_from(Some("10.78.0.3:702"), v4), 'S');
        },
    );
}

#[test]
fn an_agent_that_hangs_is_passed_by() {
    Net::run("an_agent_that_hangs_is_passed_by", |net, path| {
        let (written, _guard) = capture();
        let _server = Greeter::everywhere(b'S', PORT);
        let agent = Greeter::everywhere(b'A', 0);
        let (mut steering, mut beating) = armed(path, &agent);
        let mut log = steering.take_log().unwrap();
        assert_eq!(ask(NEAR[0]), 'A');
        for round in 1..=2 {
            let heartbeat = beating.stop();
            eventually("a stale heartbeat", || !steering.guard().unwrap().alive);
            assert_eq!(net.answers(), "SSSSSSS");
            assert!(steering.guard().unwrap().armed);
            // Logged once a transition, whatever the number of connections.
            log.flush();
            assert_eq!(
                written.text().matches("no sign of life").count(),
                round,
                "{}",
                written.text()
            );
            beating = Beating::with(heartbeat);
            assert_eq!(ask(NEAR[0]), 'A');
        }
        assert!(steering.counters().unwrap().get(Counter::PassStale) >= 14);
    });
}

#[test]
fn a_listener_that_is_gone_is_passed_by() {
    Net::run("a_listener_that_is_gone_is_passed_by", |net, path| {
        let (written, _guard) = capture();
        let _server = Greeter::everywhere(b'S', PORT);
        let agent = Greeter::everywhere(b'A', 0);
        let (mut steering, _beating) = armed(path, &agent);
        let mut log = steering.take_log().unwrap();
        assert_eq!(net.answers(), "AAAAAAA");
        drop(agent);
        assert_eq!(net.answers(), "SSSSSSS");
        assert!(steering.counters().unwrap().get(Counter::PassNoListener) >= 7);
        log.flush();
        assert_eq!(
            written.text().matches("does not listen").count(),
            1,
            "{}",
            written.text()
        );
        let agent = Greeter::everywhere(b'B', 0);
        steering.set_listeners(&[agent.fd()]).unwrap();
        assert_eq!(net.answers(), "BBBBBBB");
    });
}

#[test]
fn no_more_is_steered_than_the_accept_queue_takes() {
    Net::run(
        "no_more_is_steered_than_the_accept_queue_takes",
        |_, path| {
            let _server = Greeter::everywhere(b'S', PORT);
            // Listens, and does not come to accept.
            let agent = listen("127.0.0.1:0", 8);
            let mut steering = Steering::install(path).unwrap();
            steer_port(&mut steering);
            steering.set_listeners(&[agent.as_fd()]).unwrap();
            steering.arm(Reason::Operator).unwrap();
            let mut heartbeat = steering.take_heartbeat().unwrap();
            let mut waiting = Vec::new();
            let mut answered = 0;
            // Beats as a live agent does, until there is no room at all, and goes on.
            for _ in 0..12 {
                heartbeat.beat(room(&[agent.as_fd()]).unwrap()).unwrap();
                for _ in 0..4 {
                    let before = steering.guard().unwrap().steered;
                    let stream = std::net::TcpStream::connect("127.0.0.1:6443").unwrap();
                    if steering.guard().unwrap().steered > before {
                        waiting.push(stream);
                    } else {
                        let mut letter = [0];
                        stream.set_read_timeout(Some(PATIENCE)).unwrap();
                        std::io::Read::read_exact(&mut &stream, &mut letter).unwrap();
                        assert_eq!(&letter, b"S");
                        answered += 1;
                    }
                }
            }
            assert!(
                (4..=8).contains(&waiting.len()),
                "{} in a queue for 8",
                waiting.len()
            );
            assert_eq!(waiting.len() + answered, 48);
            let counters = steering.counters().unwrap();
            // On a machine that stood still for a second also for want of a heartbeat.
            let passed = counters.get(Counter::PassFull) + counters.get(Counter::PassStale);
            assert!(counters.get(Counter::PassFull) > 0 && passed >= answered as u64);

            // The agent comes to accept again: every one that waits is served, and new ones come.
            let _agent = Greeter::on(b'A', agent);
            for stream in waiting {
                let mut letter = [0];
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                std::io::Read::read_exact(&mut &stream, &mut letter).unwrap();
                assert_eq!(&letter, b"A");
            }
            let _beating = Beating::with(heartbeat);
            assert_eq!(ask("127.0.0.1:6443"), 'A');
        },
    );
}

#[test]
fn a_connection_refused_by_a_full_queue_reaches_the_server_on_its_next_try() {
    let name = "a_connection_refused_by_a_full_queue_reaches_the_server_on_its_next_try";
    Net::run(name, |_, path| {
        let _server = Greeter::everywhere(b'S', PORT);
        let agent = listen("127.0.0.1:0", 1);
        let mut steering = Steering::install(path).unwrap();
        steer_port(&mut steering);
        steering.set_listeners(&[agent.as_fd()]).unwrap();
        steering.arm(Reason::Operator).unwrap();
        // An agent that promised room which it has not, and then hangs.
        let beating = Beating::start(&mut steering);
        let dialled = [(); 2].map(|()| std::net::TcpStream::connect("127.0.0.1:6443").unwrap());
        eventually("a full queue", || steering.guard().unwrap().steered >= 2);
        beating.stop();
        // Its SYN is dropped; the kernel sends it again after a second, when the heartbeat is too old.
        assert_eq!(ask("127.0.0.1:6443"), 'S');
        drop(dialled);
    });
}

#[test]
fn a_slot_changes_hands_without_a_lost_connection() {
    let name = "a_slot_changes_hands_without_a_lost_connection";
    Net::run(name, |net, path| {
        let server = Greeter::everywhere(b'S', PORT);
        let mut agent = Greeter::everywhere(b'A', 0);
        let (mut steering, _beating) = armed(path, &agent);
        let stop = AtomicBool::new(false);
        let dialled = [(); 3].map(|()| AtomicUsize::new(0));
        let dial = |from: &Namespace, address: &str, dialled: &AtomicUsize| {
            let work = || {
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(ask(address), 'A');
                    dialled.fetch_add(1, Ordering::SeqCst);
                }
            };
            from.run(work).unwrap();
        };
        thread::scope(|scope| {
            let from = [
                (&net.client, FAR[0]),
                (&net.client, FAR[2]),
                (&net.node, NEAR[0]),
            ];
            let clients = from.iter().zip(&dialled);
            let clients: Vec<_> = clients
                .map(|((from, address), dialled)| scope.spawn(|| dial(from, address, dialled)))
                .collect();
            for _ in 0..25 {
                let new = Greeter::everywhere(b'A', 0);
                steering.set_listeners(&[new.fd()]).unwrap();
                let old = std::mem::replace(&mut agent, new);
                // Drained: each client, which dials one connection at a time, has since finished the one that it was at and
                // another one, so that no handshake of the old listener is under way.
                let count = |d: &AtomicUsize| d.load(Ordering::SeqCst);
                let before = dialled.each_ref().map(count);
                eventually("every client's next connections", || {
                    let broken = clients.iter().any(|client| client.is_finished());
                    broken
                        || dialled
                            .iter()
                            .zip(before)
                            .all(|(d, before)| count(d) >= before + 2)
                });
                assert!(agent.seen().len() >= 3);
                drop(old);
            }
            stop.store(true, Ordering::SeqCst);
            for client in clients {
                client.join().unwrap();
            }
        });
        assert!(server.seen().is_empty());
    });
}
