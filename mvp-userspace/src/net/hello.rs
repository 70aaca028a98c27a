//! A look at a client's TLS ClientHello that consumes nothing, so that the connection can still go to anybody whole, unless it comes in very
//! many pieces.
//!
//! Waiting for more bytes than are there must not spin: a socket with bytes in it is readable all the time. So the kernel is told how many
//! there have to be (`SO_RCVLOWAT`): first those of a record's header, then those of the record. tokio's epoll is edge-triggered: after a look
//! at too few bytes the readiness is dropped, and enough bytes, or the end of the stream, set it again.
//!
//! That does not help against a client that sends a byte in each segment. A segment takes about a KiB of the kernel's memory, and once that is
//! scarce every further byte makes the socket readable (`tcp_epollin_ready` of include/net/tcp.h); to look at two thousand segments takes half a
//! millisecond then, and to read or close them takes as long. So the kernel is asked how many bytes there are (`FIONREAD`, tcp(7)) before they are
//! looked at, and from who woke the agent often for too few of them what is there is read ten times per second, and nothing wakes the agent
//! between.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::net::RecvFlags;
use rustls::server::Acceptor;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::low_water;

/// The longest ClientHello looked for, record headers included, bytes. Those with post-quantum key shares and tickets are below
/// 3 KiB.
pub const MAX_HELLO: usize = 16 * 1024;
/// What a look costs at least, bytes; most hellos fit.
const FIRST_BUFFER: usize = 2 * 1024;
/// After it was readable so many times with too few bytes, what comes is read. Others need two or three.
const LOOKS: u32 = 16;
/// The time between two reads.
const REST: Duration = Duration::from_millis(100);
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// What a client sent first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peeked {
    /// A whole one.
    Hello(ClientHello),
    /// No ClientHello of TLS 1.0 to 1.3: another protocol, an older one, or broken.
    NotTls,
    /// Longer than [`MAX_HELLO`].
    TooLong,
}

/// A connection after the look.
#[derive(Debug)]
pub struct Looked {
    /// As it came, but for what was read.
    pub stream: TcpStream,
    /// What was read of it, since it came in very many pieces; mostly nothing. It belongs before what is in the socket.
    pub early: Vec<u8>,
    /// What it begins with.
    pub found: Peeked,
}

/// Why there is nothing to go on with.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// What came until the deadline could be the beginning of one.
    #[error("no whole ClientHello came in time")]
    TimedOut,
    /// The client closed its side before the end of one.
    #[error("the client closed its side before the end of its ClientHello")]
    Closed,
    /// The connection failed, mostly since the client reset it.
    #[error("{0}")]
    Broken(#[from] io::Error),
}

/// What the agent needs of a ClientHello (RFC 8446 §4.1.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientHello {
    /// In lower case. `None`: no name, or an address, which is none (RFC 6066 section 3).
    pub server_name: Option<String>,
    /// The application protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Looks until there is a whole ClientHello or never can be one. All bytes stay in the socket, which can be read from as if nothing had
/// happened, but for [`Looked::early`].
///
/// # Errors
/// The connection ended, or the deadline came; the socket is closed.
pub async fn peek(stream: TcpStream, deadline: Instant) -> Result<Looked, Gone> {
    let looks = AtomicU32::new(0);
    match tokio::time::timeout_at(deadline, look(stream, &looks)).await {
        Ok(looked) => looked,
        Err(_elapsed) => Err(Gone::TimedOut),
    }
}

/// `looks`: counts those that saw too little.
async fn look(stream: TcpStream, looks: &AtomicU32) -> Result<Looked, Gone> {
    let mut buffer = vec![0; FIRST_BUFFER];
    // From how many bytes on the socket counts as readable.
    let mut mark = 1;
    while looks.load(Ordering::Relaxed) < LOOKS {
        let ready = stream.ready(Interest::READABLE).await?;
        match look_once(&stream, &mut buffer, mark)? {
            Seen::Found(found) => {
                if mark > 1 {
                    low_water(&stream, 1)?;
                }
                return Ok(Looked {
                    stream,
                    early: Vec::new(),
                    found,
                });
            }
            // Nothing comes after the end, which is seen at the latest when nothing is there to be read.
            Seen::Nothing => return Err(Gone::Closed),
            Seen::TooFew(_) if ready.is_read_closed() => return Err(Gone::Closed),
            Seen::TooFew(wanted) => mark = wanted,
            Seen::NotReady => {}
        }
        looks.fetch_add(1, Ordering::Relaxed);
    }
    drop(buffer);
    low_water(&stream, 1)?;
    let stream = stream.into_std()?;
    let (early, found) = read(&stream).await?;
    Ok(Looked {
        stream: TcpStream::from_std(stream)?,
        early,
        found,
    })
}

/// Reads what is there, again and again, until that is a whole ClientHello or none. The socket is not among those that epoll watches, or each
/// byte would wake the thread, though nobody waits for it.
async fn read(stream: &StdTcpStream) -> Result<(Vec<u8>, Peeked), Gone> {
    let mut bytes = Vec::new();
    // Those that come at the same time are not read at the same time.
    let share = u32::try_from(stream.as_raw_fd()).unwrap_or_default() % 100;
    tokio::time::sleep(REST * share / 100).await;
    loop {
        bytes.reserve_exact(MAX_HELLO - bytes.len());
        match rustix::net::recv(stream, spare_capacity(&mut bytes), RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Err(Gone::Closed),
            Ok(_) => {
                bytes.shrink_to_fit();
                if let Ok(found) = judge(&bytes) {
                    return Ok((bytes, found));
                }
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        tokio::time::sleep(REST).await;
    }
}

/// What one look saw.
enum Seen {
    Found(Peeked),
    /// The beginning of a ClientHello. So many bytes have to be there before there is something new to be seen, and the kernel was told.
    TooFew(usize),
    /// The end of what the client sends, and not a byte before it.
    Nothing,
    /// It only seemed as if there were something.
    NotReady,
}

/// `mark`: what the kernel was told last.
fn look_once(stream: &TcpStream, buffer: &mut Vec<u8>, mark: usize) -> io::Result<Seen> {
    let mut wanted = None;
    let looked = stream.try_io(Interest::READABLE, || {
        if mark > 1 && rustix::io::ioctl_fionread(stream)? < mark as u64 {
            wanted = Some(mark);
            // tokio takes this for an empty socket and waits for the next edge.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            let (_, length) = rustix::net::recv(stream, buffer.as_mut_slice(), RecvFlags::PEEK)?;
            let seen = buffer.get(..length).unwrap_or_default();
            match judge(seen) {
                _ if length == 0 => return Ok(Seen::Nothing),
                Ok(found) => return Ok(Seen::Found(found)),
                // There may be more than fitted.
                Err(_) if length == buffer.len() => buffer.resize(MAX_HELLO, 0),
                Err(more) => {
                    if more != mark {
                        low_water(stream, more)?;
                    }
                    wanted = Some(more);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            }
        }
    });
    match looked {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Ok(wanted.map_or(Seen::NotReady, Seen::TooFew))
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Seen::NotReady),
        other => other,
    }
}

/// What begins like this; the error says how many bytes it takes to know more.
fn judge(bytes: &[u8]) -> Result<Peeked, usize> {
    match frame(bytes) {
        Frame::Whole(end) => {
            let hello = parse(bytes.get(..end).unwrap_or_default());
            Ok(hello.map_or(Peeked::NotTls, Peeked::Hello))
        }
        Frame::NotTls => Ok(Peeked::NotTls),
        Frame::TooLong => Ok(Peeked::TooLong),
        Frame::More(_) if bytes.len() >= MAX_HELLO => Ok(Peeked::TooLong),
        Frame::More(more) => Err(more.min(MAX_HELLO)),
    }
}

/// How far a ClientHello has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Frame {
    /// It ends with the record that ends here.
    Whole(usize),
    /// So many bytes have to be there before there is something new to be seen.
    More(usize),
    NotTls,
    TooLong,
}

/// Walks over the records (RFC 8446 section 5.1) only, so that the parser is asked once, and not for every byte that arrives.
/// A ClientHello may be spread over records, which need not end with it.
fn frame(bytes: &[u8]) -> Frame {
    let mut at = 0;
    // The message's header and how much of the message the records before `at` hold.
    let mut header = [0; MESSAGE_HEADER];
    let mut held = 0;
    loop {
        let record = bytes.get(at..).unwrap_or_default();
        if !matches!(record, [] | [22] | [22, 3, ..]) {
            return Frame::NotTls;
        }
        let Some(&[_, _, _, high, low]) = record.first_chunk::<RECORD_HEADER>() else {
            return Frame::More(at + RECORD_HEADER);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // An empty fragment of a handshake is forbidden, and one of more than 2^14 too.
        if !(1..=1 << 14).contains(&length) {
            return Frame::NotTls;
        }
        let body = record.get(RECORD_HEADER..).unwrap_or_default();
        let fragment = body.get(..length).unwrap_or(body);
        for (slot, byte) in header.iter_mut().skip(held).zip(fragment) {
            *slot = *byte;
        }
        held += fragment.len();
        let [kind, a, b, c] = header;
        if held > 0 && kind != 1 {
            return Frame::NotTls;
        }
        if held >= MESSAGE_HEADER {
            let message = MESSAGE_HEADER + (u32::from_be_bytes([0, a, b, c]) as usize);
            if at + RECORD_HEADER + message.saturating_sub(held - fragment.len()) > MAX_HELLO {
                return Frame::TooLong;
            }
            if held >= message && fragment.len() == length {
                return Frame::Whole(at + RECORD_HEADER + length);
            }
        }
        if fragment.len() < length {
            return Frame::More(at + RECORD_HEADER + length);
        }
        at += RECORD_HEADER + length;
    }
}

/// `records` hold a whole message. rustls does the reading: what it cannot read, it could not serve either.
fn parse(mut records: &[u8]) -> Option<ClientHello> {
    let mut acceptor = Acceptor::default();
    while !records.is_empty() {
        // Reads from memory, a few KiB at a time.
        if acceptor.read_tls(&mut records).ok()? == 0 {
            return None;
        }
    }
    let accepted = acceptor.accept().ok()??;
    let hello = accepted.client_hello();
    Some(ClientHello {
        server_name: hello.server_name().map(str::to_ascii_lowercase),
        alpn: hello
            .alpn()
            .into_iter()
            .flatten()
            .map(<[u8]>::to_vec)
            .collect(),
    })
}

#[cfg(any(test, feature = "fuzzing"))]
#[path = "hello_fuzz.rs"]
mod fuzz;
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzz::fuzz_hello;

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
