//! What a run of the steering program takes, by the kernel's own statistics, in each of its states.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mvp::kernel::{Reason, Targets, enable_run_time};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Options, node, rotated};
use crate::bench::report::Report;
use crate::pairs::PATIENCE;

pub(super) fn run(options: &Options) -> Result<Report> {
    node::run(|pins| measure(options, pins))
}

#[derive(Clone, Copy, Debug)]
enum Subject {
    /// The guard is idle: the second thing asked.
    Idle,
    /// Armed, and the port is not steered.
    OtherPort,
    /// Armed, from the agent's own source: what each of its connections to the local server meets, and the longest way to a
    /// pass.
    ArmedPass,
    /// Armed, and goes to the agent.
    Steered,
}

const SUBJECTS: [Subject; 4] = [
    Subject::Idle,
    Subject::OtherPort,
    Subject::ArmedPass,
    Subject::Steered,
];
const OWN: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn measure(options: &Options, pins: &Path) -> Result<Report> {
    let server = Greeter::start(b'S')?;
    let other = Greeter::start(b'O')?;
    let agent = Greeter::start(b'A')?;
    let targets = Targets {
        ports: vec![server.address.port()],
        own_sources: vec![OWN.into()],
        local_sources: vec![],
        peers: vec![],
        peer_ports: 700..=799,
    };
    let listener = agent.listener.try_clone()?;
    let mut installed = node::Installed::start(pins, &targets, listener)?;
    let steering = &mut installed.steering;
    let _statistics = enable_run_time()?;
    let mut report = Report::new("steer_cost");
    for round in 0..options.rounds {
        for subject in rotated(&SUBJECTS, round) {
            match subject {
                Subject::Idle => steering.disarm(Reason::Settled)?,
                _ => steering.arm(Reason::Operator)?,
            }
            let (source, to, who) = match subject {
                Subject::Idle => (CLIENT, &server, b'S'),
                Subject::OtherPort => (CLIENT, &other, b'O'),
                Subject::ArmedPass => (OWN, &server, b'S'),
                Subject::Steered => (CLIENT, &server, b'A'),
            };
            let before = steering.run_time()?;
            let mut answered = 0;
            for _ in 0..options.connections {
                answered += u32::from(ask(source, to.address)? == who);
            }
            let after = steering.run_time()?;
            let runs = (after.runs - before.runs) as f64;
            ensure!(
                answered == options.connections && runs >= f64::from(answered),
                "{subject:?}: {answered} of {} connections went where they should, in {runs} runs",
                options.connections
            );
            let nanoseconds = (after.time - before.time).as_nanos() as f64;
            let mut add = |metric, unit, value| report.add(subject.name(), metric, unit, value);
            add("run_ns", "ns", nanoseconds / runs);
            add("runs_per_connection", "runs", runs / f64::from(answered));
        }
    }
    installed.remove()?;
    Ok(report)
}

impl Subject {
    const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::OtherPort => "armed_other_port",
            Self::ArmedPass => "armed_pass",
            Self::Steered => "steered",
        }
    }
}

/// The letter of who answers.
fn ask(source: Ipv4Addr, address: SocketAddr) -> Result<u8> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    // A reset at the end leaves no TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut letter = [0];
    stream
        .read_exact(&mut letter)
        .with_context(|| format!("no greeting from {address}"))?;
    Ok(letter[0])
}

/// A server that greets each connection with its letter and closes it. Stops when dropped.
struct Greeter {
    address: SocketAddr,
    listener: TcpListener,
    thread: Option<thread::JoinHandle<()>>,
}

impl Greeter {
    fn start(letter: u8) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(4096)?;
        let listener = TcpListener::from(socket);
        let accepting = listener.try_clone()?;
        let thread = thread::spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                // Who does not want it is its own affair.
                let _ = stream.write_all(&[letter]);
            }
        });
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            thread: Some(thread),
        })
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        // Wakes the thread from accept(2), which fails from now on.
        let _ = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
