//! A proxy of whole connections: each one that it accepts is joined to a new one to its server. And bytes to send through it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use mvp::splice::{PairLimits, PairOutcome, Plan, Signal, Splicer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// Nothing here takes longer than this, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs on a thread of its own, in the network namespace of the thread that started it. Ends when dropped.
pub struct PairProxy {
    /// Where clients connect.
    pub address: SocketAddr,
    outcomes: mpsc::Receiver<PairOutcome>,
    signal: watch::Sender<Signal>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl PairProxy {
    /// Listens on a free port of `ip`.
    pub fn start(
        ip: IpAddr,
        server: SocketAddr,
        splicer: Arc<Splicer>,
        plan: impl Into<Plan>,
        limits: PairLimits,
    ) -> Self {
        let plan = plan.into();
        let (address, listening) = mpsc::channel();
        let (done, outcomes) = mpsc::channel();
        let (signal, signals) = watch::channel(Signal::Run);
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = async move {
            let listener = TcpListener::bind((ip, 0)).await.unwrap();
            address.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (a, _) = listener.accept().await.unwrap();
                let (splicer, done, signals) =
                    (Arc::clone(&splicer), done.clone(), signals.clone());
                tokio::spawn(async move {
                    let b = TcpStream::connect(server).await.unwrap();
                    for socket in [&a, &b] {
                        socket.set_nodelay(true).unwrap();
                    }
                    let outcome = splicer
                        .join(a.into(), b.into(), plan, &limits, signals)
                        .await;
                    let _ = done.send(outcome);
                });
            }
        };
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: listening.recv_timeout(PATIENCE).unwrap(),
            outcomes,
            signal,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The outcome of the next pair that ends.
    pub fn outcome(&self) -> PairOutcome {
        self.outcomes
            .recv_timeout(PATIENCE)
            .expect("the pair has not ended")
    }

    /// To all pairs.
    pub fn signal(&self, signal: Signal) {
        self.signal.send_replace(signal);
    }
}

impl Drop for PairProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

/// Bytes that look alike nowhere, a prime number of them: what is lost, doubled or moved shows.
pub fn pattern() -> Arc<[u8]> {
    const LENGTH: usize = 262_139;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(LENGTH + 8);
    while bytes.len() < LENGTH {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(LENGTH);
    bytes.into()
}

/// Sends `bytes` bytes of the pattern, over and over.
pub fn send(stream: &mut impl Write, pattern: &[u8], bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let length = left.min(pattern.len() as u64) as usize;
        stream.write_all(&pattern[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// Reads to the end, compares with the pattern, and says how many bytes there were.
///
/// # Panics
/// At the first byte that differs.
pub fn receive(stream: &mut impl Read, pattern: &[u8]) -> io::Result<u64> {
    let mut buffer = vec![0; pattern.len()];
    let mut total = 0;
    loop {
        let at = (total % pattern.len() as u64) as usize;
        let room = pattern.len() - at;
        let bytes = stream.read(&mut buffer[..room])?;
        if bytes == 0 {
            return Ok(total);
        }
        assert!(
            buffer[..bytes] == pattern[at..at + bytes],
            "other bytes than sent, after {total}: {}",
            difference(&buffer[..bytes], pattern, at)
        );
        total += bytes as u64;
    }
}

/// Where the first bytes that differ belong in the pattern.
fn difference(received: &[u8], pattern: &[u8], at: usize) -> String {
    const ALIKE: usize = 16;
    let same = received
        .iter()
        .zip(&pattern[at..])
        .take_while(|(a, b)| a == b);
    let differs = same.count();
    let wrong = received.get(differs..differs + ALIKE).unwrap_or_default();
    match pattern.windows(ALIKE).position(|part| part == wrong) {
        Some(found) => {
            let ahead = (found + pattern.len() - at - differs) % pattern.len();
            format!("{differs} bytes later come those {ahead} ahead of them")
        }
        None => format!("{differs} bytes later come {wrong:02x?}"),
    }
}

/// Bytes between two acknowledgements of [`receive_acknowledging`].
pub const WINDOW: u64 = 1 << 20;

/// Sends `bytes` bytes of the pattern, at most two windows ahead of who reads them with [`receive_acknowledging`]: as fast as
/// the reader, and never so far ahead that a reader counts as slow.
pub fn send_acknowledged(
    stream: &mut (impl Read + Write),
    pattern: &[u8],
    bytes: u64,
) -> io::Result<()> {
    let (mut sent, mut acknowledged) = (0, 0);
    while sent < bytes {
        let at = (sent % pattern.len() as u64) as usize;
        let length = (pattern.len() - at).min((bytes - sent) as usize);
        stream.write_all(&pattern[at..at + length])?;
        sent += length as u64;
        while sent / WINDOW > acknowledged + 1 {
            stream.read_exact(&mut [0; 1])?;
            acknowledged += 1;
        }
    }
    while acknowledged < bytes / WINDOW {
        stream.read_exact(&mut [0; 1])?;
        acknowledged += 1;
    }
    Ok(())
}

/// Reads `bytes` bytes, compares them with the pattern, and writes one byte for each [`WINDOW`].
///
/// # Panics
/// At the first byte that differs.
pub fn receive_acknowledging(
    stream: &mut (impl Read + Write),
    pattern: &[u8],
    bytes: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; pattern.len()];
    let mut total = 0;
    while total < bytes {
        let at = (total % pattern.len() as u64) as usize;
        let room = (pattern.len() - at).min((bytes - total) as usize);
        let read = stream.read(&mut buffer[..room])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        assert!(
            buffer[..read] == pattern[at..at + read],
            "other bytes than sent, after {total}"
        );
        let before = total;
        total += read as u64;
        for _ in before / WINDOW..total / WINDOW {
            stream.write_all(b".")?;
        }
    }
    Ok(())
}

/// Polls `condition` until it holds.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_micros(50));
    }
}
