//! A look at a client's TLS ClientHello that consumes nothing, so that the connection can still go to anybody whole.
//!
//! Waiting for more bytes than are there must not spin: a socket with bytes in it is readable all the time. So the kernel is told how many
//! there have to be (`SO_RCVLOWAT`): first those of a record's header, then those of the record. A client that sends its hello byte by
//! byte costs the agent nothing meanwhile. tokio's epoll is edge-triggered: after a look at too few bytes the readiness is dropped, and
//! enough bytes, or the end of the stream, set it again.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

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
/// After so many looks at too few bytes the next ones are left to TLS: each look copies everything again, so a client that sends records of
/// a byte would have its hello copied thousands of times.
const LOOKS: u32 = 16;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// What a client sent first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Peeked {
    /// A whole one.
    Hello(ClientHello),
    /// No ClientHello of TLS 1.0 to 1.3: another protocol, an older one, or broken.
    NotTls,
    /// What came until the deadline could be the beginning of one.
    TimedOut,
    /// The client closed its side before the end of one.
    Closed,
    /// Longer than [`MAX_HELLO`].
    TooLong,
    /// It comes in more pieces than are worth a look.
    TooManyPieces,
}

/// What the agent needs of a ClientHello (RFC 8446 §4.1.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientHello {
    /// In lower case. `None`: no name, or an address, which is none (RFC 6066 section 3).
    pub server_name: Option<String>,
    /// The application protocols offered, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Looks until there is a whole ClientHello or never can be one. All bytes stay in the socket; whatever comes of it, the
/// connection can be read from as if nothing had happened.
///
/// # Errors
/// If the connection fails: reset by the client.
pub async fn peek(stream: &TcpStream, deadline: Instant) -> io::Result<Peeked> {
    let looks = AtomicU32::new(0);
    match tokio::time::timeout_at(deadline, look(stream, &looks)).await {
        Ok(peeked) => peeked,
        Err(_elapsed) => Ok(Peeked::TimedOut),
    }
}

async fn look(stream: &TcpStream, looks: &AtomicU32) -> io::Result<Peeked> {
    let mut buffer = vec![0; FIRST_BUFFER];
    let mut mark = LowWater { stream, bytes: 1 };
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let look = looks.fetch_add(1, Ordering::Relaxed) + 1;
        let looked = stream.try_io(Interest::READABLE, || {
            loop {
                let (_, length) =
                    rustix::net::recv(stream, buffer.as_mut_slice(), RecvFlags::PEEK)?;
                let seen = buffer.get(..length).unwrap_or_default();
                match frame(seen) {
                    Frame::Whole(end) => {
                        return Ok(parse(seen.get(..end).unwrap_or_default())
                            .map_or(Peeked::NotTls, Peeked::Hello));
                    }
                    Frame::NotTls => return Ok(Peeked::NotTls),
                    Frame::TooLong => return Ok(Peeked::TooLong),
                    // There may be more than fitted.
                    Frame::More(_) if length == buffer.len() && length < MAX_HELLO => {
                        buffer.resize(MAX_HELLO, 0);
                    }
                    Frame::More(_) if length == MAX_HELLO => return Ok(Peeked::TooLong),
                    // Nothing comes after the end, which is seen at the latest when nothing is there to be read.
                    Frame::More(_) if length == 0 || ready.is_read_closed() => {
                        return Ok(Peeked::Closed);
                    }
                    // Without dropping the readiness, so that TLS reads what is there.
                    Frame::More(_) if look >= LOOKS => return Ok(Peeked::TooManyPieces),
                    Frame::More(wanted) => {
                        mark.set(wanted.min(MAX_HELLO))?;
                        // tokio takes this for an empty socket and waits for the next edge.
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
            }
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// From how many bytes on the socket counts as readable. Dropped, it leaves the socket as it was.
struct LowWater<'a> {
    stream: &'a TcpStream,
    bytes: usize,
}

impl LowWater<'_> {
    fn set(&mut self, bytes: usize) -> io::Result<()> {
        if self.bytes != bytes {
            low_water(self.stream, bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }
}

impl Drop for LowWater<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.set(1) {
            tracing::debug!(%error, "a socket keeps its low-water mark");
        }
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
