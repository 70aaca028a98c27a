//! Connections retired through a real kernel: the silent one, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use mvp::net::{Established, Off, RetireOutcome, SockDiag};
use mvp_tests::netns::{Namespace, privileged};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Long enough for a busy machine to come from a write to a look in between.
const SILENCE: Duration = Duration::from_secs(2);

/// Both ends of one connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn new(listener: &TcpListener) -> Self {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, from) = listener.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        server
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self { client, server }
    }

    fn peer(&self) -> SocketAddr {
        self.client.local_addr().unwrap()
    }

    fn exchange(&mut self) {
        self.client.write_all(b"ask").unwrap();
        self.server.read_exact(&mut [0; 3]).unwrap();
        self.server.write_all(b"say").unwrap();
        self.client.read_exact(&mut [0; 3]).unwrap();
    }

    fn assert_reset(&mut self) {
        let error = self.client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
        let error = self.server.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
    }

    fn find(&self, diag: &mut SockDiag) -> Established {
        let port = self.server.local_addr().unwrap().port();
        let all = diag.established(port).unwrap();
        let found: Vec<_> = all
            .iter()
            .filter(|one| one.remote() == self.peer())
            .collect();
        assert_eq!(found.len(), 1, "{all:?}");
        let local = self.server.local_addr().unwrap();
        assert_eq!(found[0].local().ip(), local.ip().to_canonical());
        assert_eq!(found[0].local().port(), port);
        found[0].clone()
    }
}

fn in_namespace(test: &str, work: impl FnOnce() + Send) {
    if privileged(test, false) {
        Namespace::new().unwrap().run(work).unwrap();
    }
}

fn silent_for(silence: Duration) -> impl FnOnce(&Established) -> bool {
    move |now| now.is_silent(silence)
}

/// Waits until the kernel says that the connection has been silent.
fn until_silent(diag: &mut SockDiag, pair: &Pair, silence: Duration) -> Established {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = pair.find(diag);
        if found.is_silent(silence) {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_silent_one_and_no_other() {
    in_namespace("the_silent_one_and_no_other", || {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (listener, other) = (
                TcpListener::bind(address).unwrap(),
                TcpListener::bind(address).unwrap(),
            );
            let port = listener.local_addr().unwrap().port();
            let mut diag = SockDiag::open().unwrap();
            let mut silent = Pair::new(&listener);
            let mut active = Pair::new(&listener);
            let mut unread = Pair::new(&listener);
            let mut elsewhere = Pair::new(&other);
            silent.exchange();
            // Its server is busy: silent, but not done.
            unread.client.write_all(b"ask").unwrap();
            until_silent(&mut diag, &silent, SILENCE);
            until_silent(&mut diag, &elsewhere, SILENCE);
            active.exchange();

            let all = diag.established(port).unwrap();
            assert_eq!(all.len(), 3, "only this port, only this side: {all:?}");
            let quiet = |one: &Established| one.is_silent(SILENCE);
            let found: Vec<_> = all.iter().filter(|one| quiet(one)).collect();
            let peers: Vec<_> = found.iter().map(|one| one.remote()).collect();
            assert_eq!(peers, [silent.peer()]);
            assert!(found[0].server_spoke_last() && !found[0].is_in_flight());
            let of = |pair: &Pair| all.iter().find(|one| one.remote() == pair.peer()).unwrap();
            assert!(of(&unread).is_in_flight() && of(&active).server_spoke_last());
            let outcome = diag.retire(found[0], quiet).unwrap();
            assert_eq!(outcome, RetireOutcome::Destroyed);
            silent.assert_reset();

            active.exchange();
            elsewhere.exchange();
            unread.server.read_exact(&mut [0; 3]).unwrap();
            unread.exchange();
        }
    });
}

#[test]
fn what_has_changed_since_the_plan_is_left_alone() {
    in_namespace("what_has_changed_since_the_plan_is_left_alone", || {
        // A listener of both families, as kube-apiserver's, and a client of the older one.
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut diag = SockDiag::open().unwrap();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let mut pair = Pair { client, server };
        let found = until_silent(&mut diag, &pair, SILENCE);
        pair.exchange();
        assert_eq!(
            diag.retire(&found, silent_for(SILENCE)).unwrap(),
            RetireOutcome::Active
        );
        pair.exchange();
        // Read by nobody yet.
        pair.client.write_all(b"ask").unwrap();
        assert_eq!(
            diag.retire(&found, silent_for(Duration::ZERO)).unwrap(),
            RetireOutcome::Active
        );
        pair.server.read_exact(&mut [0; 3]).unwrap();
        pair.server.write_all(b"say").unwrap();
        pair.client.read_exact(&mut [0; 3]).unwrap();
        // The acknowledgement takes its time.
        until_silent(&mut diag, &pair, Duration::ZERO);
        assert_eq!(
            diag.retire(&found, silent_for(Duration::ZERO)).unwrap(),
            RetireOutcome::Destroyed
        );
        let error = pair.client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(
            diag.retire(&found, silent_for(Duration::ZERO)).unwrap(),
            RetireOutcome::Gone
        );

        // Another connection under the same addresses is not the one that was meant.
        let from = pair.peer();
        drop(pair);
        let again =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        again.set_reuse_address(true).unwrap();
        again.bind(&from.into()).unwrap();
        again
            .connect(&SocketAddr::from(([127, 0, 0, 1], port)).into())
            .unwrap();
        let (server, peer) = listener.accept().unwrap();
        assert_eq!(peer.port(), from.port());
        assert_eq!(
            diag.retire(&found, silent_for(Duration::ZERO)).unwrap(),
            RetireOutcome::Gone
        );
        let mut pair = Pair {
            client: again.into(),
            server,
        };
        pair.exchange();
    });
}

#[test]
fn whether_it_works_here_is_tried() {
    in_namespace("whether_it_works_here_is_tried", || {
        SockDiag::open().unwrap().available().unwrap();
        // The capabilities of this thread only.
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).unwrap();
        let off = SockDiag::open().unwrap().available().unwrap_err();
        assert!(matches!(off, Off::Capability), "{off}");
    });
}

/// For a kernel without its modules, as a guest of `cargo xtask test --kernels` is before they are loaded: it sets the variable.
#[test]
fn without_its_modules_it_says_so() {
    if std::env::var_os("MVP_TEST_WITHOUT_DIAG").is_none() {
        return;
    }
    let off = SockDiag::open().unwrap().available().unwrap_err();
    assert!(matches!(off, Off::NotLoaded), "{off}");
    crate::common::pinned("without_its_modules_it_says_so", |path| {
        let found = crate::doctor::findings(path);
        let lines = crate::doctor::of(&found, "retiring connections");
        let [("off", detail)] = lines[..] else {
            panic!("{lines:?}");
        };
        assert!(
            detail.starts_with("not loaded: ") && detail.contains("modprobe tcp_diag"),
            "{detail}"
        );
    });
}
