//! What the tests of joined pairs have in common.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use mvp::kernel::Splice;
use mvp::splice::{End, Mode, PairOutcome, Splicer};
use mvp_common::Counter;
use mvp_tests::netns::{Namespace, privileged};
use mvp_tests::pairs::{PATIENCE, eventually};

pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn in_namespace(test: &str, work: impl FnOnce() + Send) {
    if privileged(test, true) {
        Namespace::new().unwrap().run(work).unwrap();
    }
}

pub(crate) fn in_each_mode(test: &str, work: impl Fn(Mode) + Sync) {
    for mode in Mode::ALL {
        in_namespace(test, || work(mode));
    }
}

pub(crate) fn splicer(mode: Mode) -> Arc<Splicer> {
    let kernel = (mode == Mode::Sockmap).then(|| Splice::load().unwrap());
    Arc::new(Splicer::new(kernel, usize::MAX))
}

/// Waits until the one pair is where its mode puts it.
pub(crate) fn joined(splicer: &Splicer, mode: Mode) {
    if mode == Mode::Sockmap {
        eventually("joined in the kernel", || splicer.in_kernel() == 1);
    }
}

/// In order, by the mode that was asked for.
pub(crate) fn ended(bytes: [u64; 2], mode: Mode) -> PairOutcome {
    PairOutcome {
        bytes,
        ends: [End::Fin; 2],
        mode,
        reason: None,
    }
}

/// Whatever the kernel moved found its target, and there was something.
pub(crate) fn nothing_missed(splicer: &Splicer, mode: Mode) {
    if mode == Mode::Sockmap {
        let counters = splicer.kernel().unwrap().counters().unwrap();
        assert!(counters.get(Counter::SpliceRedirected) > 0);
        assert_eq!(counters.get(Counter::SpliceMissing), 0);
    }
}

pub(crate) fn listen(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect_timeout(&address, PATIENCE).unwrap())
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// A test that would hang fails instead.
pub(crate) fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A connection; the second end is non-blocking.
pub(crate) fn connection() -> (TcpStream, TcpStream) {
    let (listener, address) = listen(LOOPBACK);
    let (far, near) = (connect(address), accept(&listener));
    near.set_nonblocking(true).unwrap();
    (far, near)
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}
