//! Whether the short-cut between two sockets of this machine works here, and whether it helps. Blocking, about a second; for a
//! thread of its own.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mvp_common::Counter;
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel::{self, Shortcut};

/// What was seen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Trial {
    /// Median round trip of a message of the size of a small request, by TCP.
    pub plain: Duration,
    /// The same by the short-cut.
    pub short: Duration,
    /// Messages that took it.
    pub handed_over: u64,
}

/// Why there is no short-cut here.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// The machine's: the kernel has not what it takes, or refuses this process.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The machine's: look at the loopback interface and the limits of the process.
    #[error("loopback connections cannot be had: {0}")]
    Io(#[from] io::Error),
    /// The kernel's: this case did not end as it must.
    #[error("the self-test failed at {0}")]
    Failed(&'static str),
    /// The machine's: the agent's cgroup namespace may not hold the root of the hierarchy.
    #[error("no message took it: both ends must be in the cgroup that was opened")]
    NotTaken,
}

const ROUNDS: usize = 400;
/// A small request over TLS.
const MESSAGE: usize = 512;
const PIECE: usize = 64 * 1024;
const PIECES: usize = 64;
/// What a server sends right before it closes.
const LAST: usize = 100_000;
const ENDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(5);

impl Trial {
    /// Whether it is at least a twentieth better than TCP.
    pub fn helps(&self) -> bool {
        self.short * 20 <= self.plain * 19
    }
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
        write!(
            f,
            "a message there and back takes {:.1} us, by TCP {:.1} us",
            micros(self.short),
            micros(self.plain)
        )
    }
}

/// Tries it between `client`, a loopback address of the agent's own, and a listener made for it: bytes there and back, ends right
/// behind data, a half-close; then measures.
///
/// # Errors
/// See [`TrialError`]; none leaves anything behind.
pub fn try_out(client: Ipv4Addr, cgroup: &File) -> Result<Trial, TrialError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let server = Server::start(listener)?;
    let before = talk(client, address)?;
    let mut shortcut = Shortcut::load(client, address.port(), cgroup)?;
    let tried = cases(client, address).and_then(|()| talk(client, address).map_err(Into::into));
    let counters = shortcut.counters()?;
    shortcut.stop()?;
    let after = talk(client, address)?;
    drop(server);
    let short = tried?;
    let handed_over = counters.get(Counter::ShortcutRedirected);
    if handed_over < ROUNDS as u64 {
        return Err(TrialError::NotTaken);
    }
    Ok(Trial {
        plain: before.min(after),
        short,
        handed_over,
    })
}

/// The root of the unified hierarchy, which holds every process that this agent's own cgroup namespace shows.
///
/// # Errors
/// It is not mounted, or may not be opened.
pub fn cgroup_root() -> io::Result<File> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted");
    File::open(cgroup_mount()?.ok_or_else(missing)?)
}

/// Where the unified hierarchy is mounted, if it is.
///
/// # Errors
/// The mounts cannot be read.
pub fn cgroup_mount() -> io::Result<Option<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let folder = fields.next()?;
        (fields.next()? == "cgroup2").then(|| folder.to_owned())
    }))
}

fn cases(client: Ipv4Addr, address: SocketAddr) -> Result<(), TrialError> {
    let pattern: Vec<u8> = (0..PIECE).map(|i| (i * 7 + i / 251) as u8).collect();
    let mut there = connect(client, address, ECHO)?;
    let mut back = vec![0; PIECE];
    for _ in 0..PIECES {
        there.write_all(&pattern)?;
        let read = there.read_exact(&mut back);
        if read.is_err() || back != pattern {
            return Err(TrialError::Failed("bytes there and back"));
        }
    }
    there.write_all(&pattern)?;
    there.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    if there.read_to_end(&mut rest).is_err() || rest != pattern {
        return Err(TrialError::Failed("a half-close behind data"));
    }
    for _ in 0..ENDS {
        let mut there = connect(client, address, SEND)?;
        let mut rest = Vec::new();
        if there.read_to_end(&mut rest).is_err() || rest.len() != LAST {
            return Err(TrialError::Failed("an end right behind data"));
        }
    }
    Ok(())
}

/// The median round trip.
fn talk(client: Ipv4Addr, address: SocketAddr) -> io::Result<Duration> {
    let mut there = connect(client, address, ECHO)?;
    let mut message = [1; MESSAGE];
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let began = Instant::now();
        there.write_all(&message)?;
        there.read_exact(&mut message)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times.get(ROUNDS / 2).copied().unwrap_or_default())
}

const ECHO: u8 = 0;
const SEND: u8 = 1;

fn connect(client: Ipv4Addr, address: SocketAddr, role: u8) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddrV4::new(client, 0).into())?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[role])?;
    Ok(stream)
}

/// Answers on a thread of its own until it is dropped.
struct Server {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let thread = std::thread::Builder::new()
            .name("shortcut-trial".into())
            .spawn(move || {
                // One after the other, as they are made; the end is a connection that says nothing.
                while let Ok((stream, _)) = listener.accept() {
                    if !matches!(serve(stream), Ok(true)) {
                        return;
                    }
                }
            })?;
        Ok(Self {
            address,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            // It ends within its patience, whatever happened.
            let _ = thread.join();
        }
    }
}

/// False if the client said nothing.
fn serve(mut stream: TcpStream) -> io::Result<bool> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut role = [0];
    if stream.read(&mut role)? == 0 {
        return Ok(false);
    }
    if role == [SEND] {
        // A client that is gone has seen enough.
        let _ = stream.write_all(&vec![0; LAST]);
        return Ok(true);
    }
    let mut buffer = vec![0; PIECE];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return Ok(true),
            Ok(count) => {
                if stream
                    .write_all(buffer.get(..count).unwrap_or_default())
                    .is_err()
                {
                    return Ok(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_decides() {
        let trial = |plain, short| Trial {
            plain: Duration::from_micros(plain),
            short: Duration::from_micros(short),
            handed_over: 1000,
        };
        assert!(trial(100, 95).helps());
        assert!(!trial(100, 96).helps());
        assert!(!trial(100, 200).helps());
        assert_eq!(
            trial(20, 10).to_string(),
            "a message there and back takes 10.0 us, by TCP 20.0 us"
        );
    }

    #[test]
    fn the_cases_pass_by_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _server = Server::start(listener).unwrap();
        cases(Ipv4Addr::LOCALHOST, address).unwrap();
        assert!(talk(Ipv4Addr::LOCALHOST, address).unwrap() > Duration::ZERO);
    }
}
