//! What the tests of kernel steering share: a BPF file system of their own, servers that say who they are, clients.
#![allow(dead_code)]

pub(crate) mod capture;
pub(crate) mod net;
pub(crate) mod tables;

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) use capture::capture;
use mvp::kernel::{Error, Heartbeat, Reason, Steering, Targets};
pub(crate) use mvp_tests::bpffs::with_bpffs;
use mvp_tests::netns::{Namespace, privileged};
pub(crate) use net::{FAR, NEAR, Net};
use socket2::{Domain, SockRef, Socket, Type};

/// The steered port.
pub(crate) const PORT: u16 = 6443;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Room for more connections than any test makes.
pub(crate) const ROOM: u32 = 1 << 20;

/// Runs a test in a network namespace of its own, with a path for pins.
pub(crate) fn pinned(test: &str, work: impl FnOnce(&Path) + Send + 'static) {
    if !privileged(test, true) {
        return;
    }
    with_bpffs(move |bpffs| {
        let path = bpffs.join("mvp");
        Namespace::new().unwrap().run(|| work(&path)).unwrap();
    });
}

/// Waits for a condition.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A server that greets each connection with its one-letter name, and closes it. Stops when dropped.
pub(crate) struct Greeter {
    pub listener: Arc<TcpListener>,
    seen: Arc<Mutex<Vec<SocketAddr>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Greeter {
    /// Listens on every address, IPv4 and IPv6.
    pub(crate) fn everywhere(name: u8, port: u16) -> Self {
        Self::on(name, listen(&format!("[::]:{port}"), 1024))
    }

    pub(crate) fn on(name: u8, listener: TcpListener) -> Self {
        let listener = Arc::new(listener);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (listener, seen, stopped) = (listener.clone(), seen.clone(), stopped.clone());
            move || {
                loop {
                    match listener.accept() {
                        Ok((mut stream, peer)) => {
                            seen.lock().unwrap().push(peer);
                            let _ = std::io::Write::write_all(&mut stream, &[name]);
                        }
                        Err(_) if stopped.load(Ordering::SeqCst) => return,
                        Err(e) => panic!("accept: {e}"),
                    }
                }
            }
        });
        Self {
            listener,
            seen,
            stopped,
            thread: Some(thread),
        }
    }

    /// The clients' addresses so far, IPv4 ones as such.
    pub(crate) fn seen(&self) -> Vec<IpAddr> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|peer| peer.ip().to_canonical()).collect()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread from accept(2), which fails from now on.
        let _ = SockRef::from(&*self.listener).shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(crate) fn listen(address: &str, backlog: i32) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(backlog).unwrap();
    socket.into()
}

/// Connects to the address, from the source if one is given, and returns the letter of who answered.
pub(crate) fn ask_from(source: Option<&str>, address: &str) -> std::io::Result<char> {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if let Some(source) = source {
        let source: SocketAddr = source.parse().unwrap();
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut letter = [0];
    stream.read_exact(&mut letter)?;
    // A reset leaves no TIME_WAIT, so that a source port can be used again at once.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(letter[0].into())
}

pub(crate) fn ask(address: &str) -> char {
    ask_from(None, address).unwrap_or_else(|e| panic!("{address}: {e}"))
}

/// Steers [`PORT`], exempts nothing.
pub(crate) fn steer_port(steering: &mut Steering) {
    let targets = Targets {
        ports: vec![PORT],
        own_sources: vec![],
        local_sources: vec![],
        peers: vec![],
        peer_ports: 0..=0,
    };
    steering.configure(&targets).unwrap();
}

/// Installed, steering [`PORT`] to the agent's listener, armed, with a heart that beats.
pub(crate) fn armed(path: &Path, agent: &Greeter) -> (Steering, Beating) {
    let mut steering = Steering::install(path).unwrap();
    steer_port(&mut steering);
    steering.set_listeners(&[agent.fd()]).unwrap();
    steering.arm(Reason::Operator).unwrap();
    let beating = Beating::start(&mut steering);
    (steering, beating)
}

/// Beats every few milliseconds, with room for all, until stopped, dropped or replaced by another agent.
pub(crate) struct Beating {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Heartbeat>>,
}

impl Beating {
    pub(crate) fn start(steering: &mut Steering) -> Self {
        Self::with(steering.take_heartbeat().unwrap())
    }

    pub(crate) fn with(mut heartbeat: Heartbeat) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        heartbeat.beat(ROOM).unwrap();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                match heartbeat.beat(ROOM) {
                    Ok(()) => thread::sleep(Duration::from_millis(20)),
                    Err(Error::Replaced) => break,
                    Err(e) => panic!("{e}"),
                }
            }
            heartbeat
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn stop(mut self) -> Heartbeat {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
