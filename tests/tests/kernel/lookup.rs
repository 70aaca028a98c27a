//! The sk_lookup program in a real kernel: it sees every lookup of its namespace, changes none, and logs.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::common::capture;
use mvp::kernel::{Availability, Counters, Error, LOG_TARGET, Programs, availability};
use mvp_common::Counter;
use mvp_tests::netns::{Namespace, privileged};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

const CONNECTIONS: u64 = 25;

#[test]
fn lookups_are_counted_and_passed() {
    if !privileged("lookups_are_counted_and_passed", true) {
        return;
    }
    Namespace::new().unwrap().run(counted_and_passed).unwrap();
}

fn counted_and_passed() {
    let mut programs = Programs::load().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let echo = thread::spawn(move || echo(&listener));

    // Not attached: nothing is seen.
    round_trip(server);
    assert_eq!(counts(&programs), (0, 0, 0));
    assert_eq!(programs.first_lookup().unwrap(), None);

    programs.attach_lookup().unwrap();
    assert!(programs.lookup_attached());
    for _ in 0..CONNECTIONS {
        round_trip(server);
    }
    // One lookup finds the listener for the SYN and one for the ACK that ends the handshake; later segments find the
    // connection itself, before any program is asked.
    let (lookups, not_tcp, idle) = counts(&programs);
    assert_eq!(not_tcp, 0);
    assert_eq!(lookups, idle);
    assert!(
        (CONNECTIONS..=2 * CONNECTIONS).contains(&lookups),
        "{lookups} lookups of {CONNECTIONS} connections"
    );
    let first = programs.first_lookup().unwrap().unwrap();
    assert_eq!(
        (first.first_protocol, first.first_local_port),
        (6, u32::from(server.port()))
    );

    // UDP is counted apart, and arrives.
    let (a, b) = (
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    a.send_to(b"ping", b.local_addr().unwrap()).unwrap();
    b.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 4);
    assert_eq!(counts(&programs), (lookups + 1, 1, idle));

    // Nobody listens: refused, as without the program.
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = TcpStream::connect_timeout(&closed, Duration::from_secs(10)).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let (lookups, ..) = counts(&programs);

    // Detached: the counters stay as they are.
    programs.detach_lookup().unwrap();
    assert!(!programs.lookup_attached());
    round_trip(server);
    assert_eq!(counts(&programs).0, lookups);

    // Attached again, then dropped: the link goes with it.
    programs.attach_lookup().unwrap();
    round_trip(server);
    assert!(counts(&programs).0 > lookups);
    drop(programs);
    round_trip(server);

    // The echo thread ends by a connection that sends nothing.
    drop(TcpStream::connect(server).unwrap());
    echo.join().unwrap();
}

#[test]
fn a_program_sees_its_own_namespace_only() {
    if !privileged("a_program_sees_its_own_namespace_only", true) {
        return;
    }
    let (node, client) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    node.connect(("eth0", "10.77.0.1/24"), &client, ("eth0", "10.77.0.2/24"))
        .unwrap();
    let listener = node
        .run(|| TcpListener::bind("10.77.0.1:0").unwrap())
        .unwrap();
    let server = listener.local_addr().unwrap();
    let echo = thread::spawn(move || echo(&listener));

    // Attached to the client's namespace it does not see what reaches the node; attached to the node's it does.
    let mut programs = client.run(load_attached).unwrap();
    client.run(|| round_trip(server)).unwrap();
    assert_eq!(counts(&programs).0, 0);
    programs = node.run(load_attached).unwrap();
    client.run(|| round_trip(server)).unwrap();
    assert!((1..=2).contains(&counts(&programs).0));

    client
        .run(|| drop(TcpStream::connect(server).unwrap()))
        .unwrap();
    echo.join().unwrap();
}

#[test]
fn the_programs_log_arrives_in_tracing() {
    if !privileged("the_programs_log_arrives_in_tracing", true) {
        return;
    }
    Namespace::new().unwrap().run(log_arrives).unwrap();
}

fn log_arrives() {
    let (written, _guard) = capture();
    let mut programs = load_attached();
    let log = programs.take_log().unwrap();
    assert!(programs.take_log().is_none());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let echo = thread::spawn(move || echo(&listener));

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let line = format!(
        "first lookup since load: protocol 6, local port {}",
        server.port()
    );
    runtime.block_on(async {
        let forward = tokio::spawn(log.run());
        // The forwarder waits for the ring buffer before there is anything in it.
        tokio::task::yield_now().await;
        round_trip(server);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !written.text().contains(&line) {
            assert!(
                Instant::now() < deadline,
                "no {line:?} in {:?}",
                written.text()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        forward.abort();
        assert!(forward.await.unwrap_err().is_cancelled());
    });
    let text = written.text();
    assert!(text.contains("INFO") && text.contains(LOG_TARGET), "{text}");

    // Only the first lookup is logged, however many follow.
    let (written, _guard) = capture();
    let mut programs = load_attached();
    let mut log = programs.take_log().unwrap();
    for _ in 0..10 {
        round_trip(server);
    }
    log.flush();
    let text = written.text();
    assert_eq!(text.matches(&line).count(), 1, "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");

    drop(TcpStream::connect(server).unwrap());
    echo.join().unwrap();
}

#[test]
fn without_capabilities_the_error_names_them() {
    if !privileged("without_capabilities_the_error_names_them", true) {
        return;
    }
    // Capabilities are a thread's, so a thread may lay them down.
    let errors = thread::spawn(|| {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        };
        set_capabilities(None, sets).unwrap();
        [availability_error(), Programs::load().err().unwrap()]
    });
    for error in errors.join().unwrap() {
        assert!(matches!(error, Error::Permission { .. }), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
            "{error}"
        );
    }
}

fn availability_error() -> Error {
    match availability() {
        Availability::Ready => panic!("ready without capabilities"),
        Availability::UserspaceOnly(error) => error,
    }
}

fn load_attached() -> Programs {
    let mut programs = Programs::load().unwrap();
    programs.attach_lookup().unwrap();
    programs
}

/// (lookups, passed as not TCP, passed as idle).
fn counts(programs: &Programs) -> (u64, u64, u64) {
    let counters: Counters = programs.counters().unwrap();
    (
        counters.get(Counter::Lookups),
        counters.get(Counter::PassProtocol),
        // Lookups for a port that is not steered.
        counters.get(Counter::PassPort),
    )
}

/// A connection of its own, and an echo on it.
fn round_trip(server: SocketAddr) {
    let mut stream = TcpStream::connect(server).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
}

/// Echoes four bytes on each connection, until a connection ends before them.
fn echo(listener: &TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 4];
        if stream.read_exact(&mut bytes).is_err() {
            return;
        }
        stream.write_all(&bytes).unwrap();
    }
}
