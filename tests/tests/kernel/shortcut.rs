//! The short-cut between two sockets of one machine, in a real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use mvp::kernel::{Error, Shortcut};
use mvp::splice::shortcut::{TrialError, cgroup_root, try_out};
use mvp_common::Counter;
use mvp_tests::netns::{Namespace, privileged};
use mvp_tests::pairs::{PATIENCE, eventually, pattern, receive_acknowledging, send_acknowledged};
use socket2::{Domain, Protocol, Socket, Type};

/// What `kernel.shortcut: auto` does at the agent's start.
#[test]
fn it_works_or_says_why_not() {
    if !privileged("it_works_or_says_why_not", true) {
        return;
    }
    let work = || match try_out(AGENT, &cgroup_root().unwrap()) {
        Ok(trial) => {
            assert!(trial.handed_over > 0);
            println!(
                "note: {}helps: {trial}",
                if trial.helps() { "" } else { "does not " }
            );
            in_order("127.0.0.1:0", 10_000_000);
            in_order("[::]:0", 1_000_000);
        }
        // The kernel's own answer, and what it lacks.
        Err(TrialError::Kernel(Error::Unsupported { needs, .. })) => {
            assert!(needs.contains("bpf_get_netns_cookie"), "{needs}");
            println!("falls back: {needs}");
        }
        Err(error) => panic!("{error}"),
    };
    Namespace::new().unwrap().run(work).unwrap();
}

const AGENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
const BYTES: u64 = 200_000_000;

#[test]
fn what_takes_the_short_cut_arrives_in_order() {
    if !privileged("what_takes_the_short_cut_arrives_in_order", true) {
        return;
    }
    let work = || in_order("127.0.0.1:0", BYTES);
    Namespace::new().unwrap().run(work).unwrap();
}

/// As kube-apiserver listens: its end of the agent's IPv4 connection is an IPv6 socket with mapped addresses.
#[test]
fn a_server_that_listens_for_both_families_takes_it_too() {
    if !privileged("a_server_that_listens_for_both_families_takes_it_too", true) {
        return;
    }
    let work = || in_order("[::]:0", 20_000_000);
    Namespace::new().unwrap().run(work).unwrap();
}

/// Connections of IPv6 have no IPv4 address, whatever the kernel keeps in that place (127.0.0.6: `LOOPBACK4_IPV6` in
/// include/net/ipv6.h).
#[test]
fn connections_of_the_other_family_are_left_alone() {
    if !privileged("connections_of_the_other_family_are_left_alone", true) {
        return;
    }
    let work = || {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let server = listener.local_addr().unwrap();
        let agent = Ipv4Addr::new(127, 0, 0, 6);
        let shortcut = Shortcut::load(agent, server.port(), cgroup_root().unwrap()).unwrap();
        let near = SocketAddr::from((Ipv6Addr::LOCALHOST, server.port()));
        let client = patient(TcpStream::connect(near).unwrap());
        round_trip(client, accept(&listener));
        let counters = shortcut.counters().unwrap();
        assert_eq!(counters.get(Counter::ShortcutNoted), 0);
        round_trip(connect(agent, 0, at_loopback(&listener)), accept(&listener));
        let counters = shortcut.counters().unwrap();
        assert_eq!(counters.get(Counter::ShortcutNoted), 2);
    };
    Namespace::new().unwrap().run(work).unwrap();
}

fn at_loopback(listener: &TcpListener) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr().unwrap().port()))
}

fn in_order(listen: &str, bytes: u64) {
    let listener = TcpListener::bind(listen).unwrap();
    let server = at_loopback(&listener);
    let mut shortcut = Shortcut::load(AGENT, server.port(), cgroup_root().unwrap()).unwrap();

    // What is sent before the server accepts is there when it does.
    for i in 0..200_u32 {
        let mut client = connect(AGENT, 0, server);
        client.write_all(&i.to_le_bytes()).unwrap();
        client.write_all(b"and more").unwrap();
        let mut near = accept(&listener);
        let mut got = [0; 12];
        near.read_exact(&mut got).unwrap();
        assert_eq!(
            (&got[..4], &got[4..]),
            (&i.to_le_bytes()[..], &b"and more"[..])
        );
        near.write_all(&got).unwrap();
        client.read_exact(&mut got).unwrap();
        // An end comes after what was sent before it, and the other direction goes on.
        client.write_all(b"last").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"last");
        near.write_all(b"answer").unwrap();
        drop(near);
        rest.clear();
        client.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"answer");
    }
    let counters = shortcut.counters().unwrap();
    assert_eq!(counters.get(Counter::ShortcutNoted), 400);
    // Four messages there, two back; those of a connection whose other end was late go by TCP.
    let (fast, slow) = (
        counters.get(Counter::ShortcutRedirected),
        counters.get(Counter::ShortcutSlow),
    );
    assert!(fast > 0, "{slow} messages by TCP, none by the short-cut");

    // Much, both ways, byte by byte the same.
    let pattern = pattern();
    let mut client = connect(AGENT, 0, server);
    let mut near = accept(&listener);
    let sender = thread::spawn({
        let pattern = Arc::clone(&pattern);
        move || {
            send_acknowledged(&mut client, &pattern, bytes).unwrap();
            client
        }
    });
    receive_acknowledging(&mut near, &pattern, bytes).unwrap();
    let mut client = sender.join().unwrap();
    let receiver = thread::spawn({
        let pattern = Arc::clone(&pattern);
        move || receive_acknowledging(&mut client, &pattern, bytes).unwrap()
    });
    send_acknowledged(&mut near, &pattern, bytes).unwrap();
    receiver.join().unwrap();

    // Another source address, and then the agent's own after the end: not noted.
    let noted = |shortcut: &Shortcut| shortcut.counters().unwrap().get(Counter::ShortcutNoted);
    let before = noted(&shortcut);
    round_trip(connect(Ipv4Addr::LOCALHOST, 0, server), accept(&listener));
    assert_eq!(noted(&shortcut), before);
    round_trip(connect(AGENT, 0, server), accept(&listener));
    assert_eq!(noted(&shortcut), before + 2);
    shortcut.stop().unwrap();
    round_trip(connect(AGENT, 0, server), accept(&listener));
    assert_eq!(noted(&shortcut), before + 2);
}

#[test]
fn equal_addresses_in_two_namespaces_never_meet() {
    if !privileged("equal_addresses_in_two_namespaces_never_meet", true) {
        return;
    }
    const SERVER: u16 = 6443;
    const CLIENT: u16 = 40_000;
    let namespaces = [(); 2].map(|()| Namespace::new().unwrap());
    let shortcut = namespaces[0]
        .run(|| Shortcut::load(AGENT, SERVER, cgroup_root().unwrap()).unwrap())
        .unwrap();
    // The same four numbers in both.
    let mut pairs = namespaces.each_ref().map(|namespace| {
        let open = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, SERVER)).unwrap();
            let client = connect(AGENT, CLIENT, listener.local_addr().unwrap());
            (client, accept(&listener))
        };
        namespace.run(open).unwrap()
    });
    let counters = shortcut.counters().unwrap();
    assert_eq!(
        counters.get(Counter::ShortcutNoted),
        2,
        "the other namespace's too"
    );
    for round in 0..100_u8 {
        for (which, (client, _)) in pairs.iter_mut().enumerate() {
            client.write_all(&[which as u8, round]).unwrap();
        }
        for (which, (_, server)) in pairs.iter_mut().enumerate() {
            let mut got = [0; 2];
            server.read_exact(&mut got).unwrap();
            assert_eq!(got, [which as u8, round]);
        }
    }
}

/// The client's end is noted when it has got the SYN's answer, the server's when it has got the last ACK of the handshake. Between
/// the two the client can send already.
#[test]
fn nothing_overtakes_what_was_sent_before_the_other_end_was_noted() {
    if !privileged(
        "nothing_overtakes_what_was_sent_before_the_other_end_was_noted",
        true,
    ) {
        return;
    }
    Namespace::new().unwrap().run(noted_late).unwrap();
}

fn noted_late() {
    // A loopback of 1 kB/s: each segment of a handshake takes some 70 ms.
    let slow = "qdisc add dev lo root tbf rate 8kbit burst 1600 latency 10s";
    let slowed = Command::new("tc").args(slow.split(' ')).output();
    if !slowed.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: loopback cannot be slowed down: {slowed:?}");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let shortcut = Shortcut::load(AGENT, server.port(), cgroup_root().unwrap()).unwrap();
    let get = |counter| shortcut.counters().unwrap().get(counter);
    // Uses up what may pass at once.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(&[0; 1500], udp.local_addr().unwrap()).unwrap();

    let mut client = connect(AGENT, 0, server);
    client.write_all(b"first").unwrap();
    assert_eq!(
        (get(Counter::ShortcutNoted), get(Counter::ShortcutSlow)),
        (1, 1)
    );
    eventually("the server's end noted", || {
        get(Counter::ShortcutNoted) == 2
    });
    client.write_all(b"second").unwrap();
    let mut near = accept(&listener);
    let mut got = [0; 11];
    near.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"firstsecond");
    assert_eq!(get(Counter::ShortcutSlow), 2);
    // The other direction was not late.
    near.write_all(b"answer").unwrap();
    client.read_exact(&mut got[..6]).unwrap();
    assert_eq!(&got[..6], b"answer");
    assert_eq!(get(Counter::ShortcutRedirected), 1);
}

fn round_trip(mut client: TcpStream, mut server: TcpStream) {
    client.write_all(b"ping").unwrap();
    let mut got = [0; 4];
    server.read_exact(&mut got).unwrap();
    server.write_all(&got).unwrap();
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
}

fn connect(from: Ipv4Addr, port: u16, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::from((from, port)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    patient(socket.into())
}

fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
