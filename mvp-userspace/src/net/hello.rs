//! A look at a client's TLS ClientHello that consumes nothing, so that the connection can still go to anybody whole.
//!
//! Waiting for more bytes than are there must not spin: a socket with bytes in it is readable all the time. So the kernel is told how many
//! there have to be (`SO_RCVLOWAT`): first those of a record's header, then those of the record. tokio's epoll is edge-triggered: after a look
//! at too few bytes the readiness is dropped, and enough bytes, or the end of the stream, set it again.
//!
//! That does not help against a client that sends a byte in each segment. A segment takes about a KiB of the kernel's memory, and once that is
//! scarce every further byte makes the socket readable (`tcp_epollin_ready` of include/net/tcp.h). To look at two thousand segments takes half a
//! millisecond then. So the kernel is asked how many bytes there are (`FIONREAD`, tcp(7)) before they are looked at, and whoever woke the agent
//! often for too few of them rests: nothing that it sends wakes the agent meanwhile.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::net::RecvFlags;
use rustls::server::Acceptor;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Turns, low_water};

/// The longest ClientHello looked for, record headers included, bytes. Those with post-quantum key shares and tickets are below
/// 3 KiB.
pub const MAX_HELLO: usize = 16 * 1024;
/// What a look costs at least, bytes; most hellos fit.
const FIRST_BUFFER: usize = 2 * 1024;
/// After it was readable so many times with too few bytes the client rests before each further look. Others need two or three.
const LOOKS: u32 = 16;
/// For so long.
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

/// Why there is nothing to go on with.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
    /// What came until the deadline could be the beginning of one.
    #[error("no whole ClientHello came in time")]
    TimedOut,
    /// The client closed its side before the end of one.
    #[error("the client closed its side before the end of its ClientHello")]
    Closed,
    /// The connection failed: reset by the client.
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
/// happened. `turns`: where to wait before a socket is looked at or closed that may have thousands of segments, since that takes long.
///
/// # Errors
/// The connection ended, or the deadline came; the socket is closed.
pub async fn peek(
    stream: TcpStream,
    deadline: Instant,
    turns: &Turns,
) -> Result<(TcpStream, Peeked), Gone> {
    let mut looking = Looking::new(stream);
    let gone = match tokio::time::timeout_at(deadline, looking.look(turns)).await {
        Ok(Ok(found)) => match looking.socket.take() {
            Some(stream) => return Ok((stream, found)),
            None => Gone::Closed,
        },
        Ok(Err(gone)) => gone,
        Err(_elapsed) => Gone::TimedOut,
    };
    turns.limit(std::future::ready(())).await;
    drop(looking);
    Err(gone)
}

/// A connection that is looked at.
struct Looking {
    /// `None` while it rests.
    socket: Option<TcpStream>,
    /// Not among those that epoll watches, or each byte would wake the thread, though nobody waits for it.
    resting: Option<StdTcpStream>,
    buffer: Vec<u8>,
    /// From how many bytes on the socket counts as readable.
    mark: usize,
    /// How often it was readable with too few bytes.
    looks: Arc<AtomicU32>,
}

impl Looking {
    fn new(stream: TcpStream) -> Self {
        Self {
            socket: Some(stream),
            resting: None,
            buffer: vec![0; FIRST_BUFFER],
            mark: 1,
            looks: Arc::default(),
        }
    }

    /// Leaves the socket watched.
    async fn look(&mut self, turns: &Turns) -> Result<Peeked, Gone> {
        loop {
            let Some(stream) = &self.socket else {
                return Err(Gone::Closed);
            };
            let ready = stream.ready(Interest::READABLE).await?;
            match look_once(stream, &mut self.buffer, self.mark)? {
                Seen::Found(found) => {
                    if self.mark > 1 {
                        low_water(stream, 1)?;
                    }
                    return Ok(found);
                }
                // Nothing comes after the end, which is seen at the latest when nothing is there to be read.
                Seen::Nothing => return Err(Gone::Closed),
                Seen::TooFew(_) if ready.is_read_closed() => return Err(Gone::Closed),
                Seen::TooFew(wanted) => self.mark = wanted,
                Seen::NotReady => {}
            }
            if self.looks.fetch_add(1, Ordering::Relaxed) + 1 >= LOOKS {
                self.rest().await?;
                // There may be thousands of segments now, on each of hundreds of connections.
                turns.limit(std::future::ready(())).await;
            }
        }
    }

    async fn rest(&mut self) -> io::Result<()> {
        self.resting = self.socket.take().map(TcpStream::into_std).transpose()?;
        tokio::time::sleep(REST).await;
        self.socket = self.resting.take().map(TcpStream::from_std).transpose()?;
        Ok(())
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
            return Ok(match frame(seen) {
                _ if length == 0 => Seen::Nothing,
                Frame::Whole(end) => Seen::Found(
                    parse(seen.get(..end).unwrap_or_default())
                        .map_or(Peeked::NotTls, Peeked::Hello),
                ),
                Frame::NotTls => Seen::Found(Peeked::NotTls),
                Frame::TooLong => Seen::Found(Peeked::TooLong),
                // There may be more than fitted.
                Frame::More(_) if length == buffer.len() && length < MAX_HELLO => {
                    buffer.resize(MAX_HELLO, 0);
                    continue;
                }
                Frame::More(_) if length == MAX_HELLO => Seen::Found(Peeked::TooLong),
                Frame::More(more) => {
                    let more = more.min(MAX_HELLO);
                    if more != mark {
                        low_water(stream, more)?;
                    }
                    wanted = Some(more);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            });
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
