//! The `:path` of every request of an HTTP/2 connection, from the bytes that the client sends.
//!
//! The HTTP library silently cuts a target off at a `#`, so that `DELETE …/configmaps/a#b` would delete `a`; to a
//! kube-apiserver the `#` is a part of the path. Frames are followed (RFC 9113 §4) and header blocks decoded (RFC 7541) as far as it
//! takes to read paths, with the state that indexed fields need. A path that the library cannot represent is replaced in its block.

use std::collections::VecDeque;

use super::frame::flag::{END_HEADERS, PADDED, PRIORITY};
use super::frame::kind::{CONTINUATION, HEADERS};
use super::frame::{HEADER as FRAME_HEADER, PREFACE};
use super::hpack::{self, FIXED_ENTRIES, TABLE_SIZE, integer};
use super::huffman;
use super::target::{Refusal, judge, stand_in};

/// Where `:path` is in the fixed table (RFC 7541 appendix A).
const STATIC_PATHS: [usize; 2] = [4, 5];

/// Follows one connection from its first byte on.
#[derive(Debug)]
pub(super) struct Paths {
    state: State,
    /// The header block under way, with padding and priority cut off.
    block: Vec<u8>,
    /// A block above this is refused by the HTTP library as well.
    most: usize,
    table: Table,
    scratch: Vec<u8>,
    /// The last block, if its path was replaced, and why.
    mended: Option<(Vec<u8>, Refusal)>,
}

#[derive(Debug)]
enum State {
    Preface(usize),
    Header([u8; FRAME_HEADER], usize),
    Payload {
        kind: u8,
        flags: u8,
        left: usize,
        /// Where this frame's payload begins in the block.
        begin: usize,
    },
    /// What came was no HTTP/2, or more than is followed: the HTTP library ends such a connection.
    Lost,
}

#[derive(Debug)]
struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: usize,
    value: usize,
    is_path: bool,
    refusal: Option<Refusal>,
}

/// A name: its length, and whether it is `:path`.
type Name = (usize, bool);

impl Paths {
    /// `most`: bytes of a header block that are followed.
    pub(super) fn new(most: usize) -> Self {
        Self {
            state: State::Preface(PREFACE.len()),
            block: Vec::new(),
            most,
            table: Table {
                entries: VecDeque::new(),
                size: 0,
                most: TABLE_SIZE,
            },
            scratch: Vec::new(),
            mended: None,
        }
    }

    /// Whether following was given up.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost)
    }

    /// Gives following up.
    pub(super) fn lose(&mut self) {
        self.state = State::Lost;
        self.block = Vec::new();
    }

    /// The fields of the last header block, if its path cannot be carried: with a path that can.
    pub(super) fn take_mended(&mut self) -> Option<(Vec<u8>, Refusal)> {
        self.mended.take()
    }

    /// Takes the next bytes of the connection. `found` is called with each path that is sent as a text of its own; one that the
    /// client repeats by its index in the table was found before.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return,
                State::Preface(left) => {
                    let (_, rest) = bytes.split_at((*left).min(bytes.len()));
                    *left -= bytes.len() - rest.len();
                    bytes = rest;
                    if *left == 0 {
                        self.state = State::Header([0; FRAME_HEADER], 0);
                    }
                }
                State::Header(header, filled) => {
                    let taken = (FRAME_HEADER - *filled).min(bytes.len());
                    let (now, rest) = bytes.split_at(taken);
                    if let Some(room) = header.get_mut(*filled..*filled + taken) {
                        room.copy_from_slice(now);
                    }
                    *filled += taken;
                    bytes = rest;
                    if *filled == FRAME_HEADER {
                        let [a, b, c, kind, flags, ..] = *header;
                        self.state = State::Payload {
                            kind,
                            flags,
                            left: u32::from_be_bytes([0, a, b, c]) as usize,
                            begin: self.block.len(),
                        };
                    }
                }
                State::Payload { kind, left, .. } => {
                    let (now, rest) = bytes.split_at((*left).min(bytes.len()));
                    *left -= now.len();
                    bytes = rest;
                    if matches!(*kind, HEADERS | CONTINUATION) {
                        self.block.extend_from_slice(now);
                    }
                }
            }
            self.end_of_frame(&mut found);
            if self.block.len() > self.most {
                self.state = State::Lost;
                self.block = Vec::new();
            }
        }
    }

    fn end_of_frame(&mut self, found: &mut impl FnMut(&[u8])) {
        let State::Payload {
            kind,
            flags,
            left: 0,
            begin,
        } = self.state
        else {
            return;
        };
        self.state = State::Header([0; FRAME_HEADER], 0);
        let known = match kind {
            HEADERS => trim(&mut self.block, begin, flags),
            CONTINUATION => Some(()),
            _ => return,
        };
        let done = flags & END_HEADERS != 0;
        if known.is_some() && !done {
            return;
        }
        let block = std::mem::take(&mut self.block);
        if known.and_then(|()| self.decode(&block, found)).is_none() {
            self.state = State::Lost;
        }
        // Its room is used again, unless that was much.
        if block.capacity() <= 64 << 10 {
            self.block = block;
            self.block.clear();
        }
    }

    fn decode(&mut self, whole: &[u8], found: &mut impl FnMut(&[u8])) -> Option<()> {
        let mut block = whole;
        // The block as it is to be, from its first change on, and up to where.
        let (mut mended, mut copied, mut refused) = (Vec::new(), 0, None);
        while let Some(first) = block.first().copied() {
            if first & 0x80 != 0 {
                let index = integer::read(&mut block, 7).ok()?;
                self.table.name(index)?;
                refused = refused.or(self.table.refusal(index));
                continue;
            }
            if first & 0xe0 == 0x20 {
                let size = integer::read(&mut block, 5).ok()?;
                self.table.resize(size)?;
                continue;
            }
            let added = first & 0xc0 == 0x40;
            let index = integer::read(&mut block, if added { 6 } else { 4 }).ok()?;
            let (name, is_path) = match index {
                0 => {
                    self.scratch.clear();
                    text(&mut block, &mut self.scratch)?;
                    (self.scratch.len(), self.scratch == b":path")
                }
                index => self.table.name(index)?,
            };
            self.scratch.clear();
            let value_begins = whole.len() - block.len();
            text(&mut block, &mut self.scratch)?;
            let mut refusal = None;
            if is_path {
                found(&self.scratch);
                refusal = judge(&self.scratch);
            }
            if refusal.is_some() {
                refused = refused.or(refusal);
                let stand_in = stand_in(&self.scratch);
                mended.extend_from_slice(whole.get(copied..value_begins)?);
                integer::write(0, 7, stand_in.len(), &mut mended);
                mended.extend(stand_in);
                copied = whole.len() - block.len();
            }
            if added {
                self.table.add(Entry {
                    name,
                    value: self.scratch.len(),
                    is_path,
                    refusal,
                });
            }
        }
        if let Some(refusal) = refused {
            mended.extend_from_slice(whole.get(copied..)?);
            self.mended = Some((mended, refusal));
        }
        Some(())
    }
}

impl Table {
    fn name(&self, index: usize) -> Option<Name> {
        if let Some((name, _)) = hpack::fixed(index) {
            return Some((name.len(), STATIC_PATHS.contains(&index)));
        }
        let entry = self.entries.get(index.checked_sub(1 + FIXED_ENTRIES)?)?;
        Some((entry.name, entry.is_path))
    }

    fn refusal(&self, index: usize) -> Option<Refusal> {
        let index = index.checked_sub(1 + FIXED_ENTRIES)?;
        self.entries.get(index)?.refusal
    }

    fn add(&mut self, entry: Entry) {
        self.size += entry.size();
        self.entries.push_front(entry);
        self.evict();
    }

    fn resize(&mut self, most: usize) -> Option<()> {
        if most > TABLE_SIZE {
            return None;
        }
        self.most = most;
        self.evict();
        Some(())
    }

    fn evict(&mut self) {
        while self.size > self.most {
            let Some(oldest) = self.entries.pop_back() else {
                return;
            };
            self.size -= oldest.size();
        }
    }
}

impl Entry {
    fn size(self) -> usize {
        hpack::Entry::size_of(self.name, self.value)
    }
}

/// Cuts padding and priority off a HEADERS frame's payload (RFC 9113 §6.2).
fn trim(block: &mut Vec<u8>, begin: usize, flags: u8) -> Option<()> {
    let mut front = begin;
    if flags & PADDED != 0 {
        let padding = usize::from(*block.get(begin)?);
        front += 1;
        let end = block
            .len()
            .checked_sub(padding)
            .filter(|end| *end >= front)?;
        block.truncate(end);
    }
    if flags & PRIORITY != 0 {
        front += 5;
    }
    if front > block.len() {
        return None;
    }
    block.drain(begin..front);
    Some(())
}

/// A text (RFC 7541 §5.2), decoded.
fn text(block: &mut &[u8], decoded: &mut Vec<u8>) -> Option<()> {
    let is_coded = block.first()? & 0x80 != 0;
    let length = integer::read(block, 7).ok()?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    match is_coded {
        true => huffman::decode(text, decoded),
        false => {
            decoded.extend_from_slice(text);
            Some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags, 0, 0, 0, 1]);
        frame.extend(payload);
        frame
    }

    fn found(paths: &mut Paths, bytes: &[u8], step: usize) -> Vec<String> {
        let mut found = Vec::new();
        for chunk in bytes.chunks(step.max(1)) {
            paths.feed(chunk, |path| {
                found.push(String::from_utf8_lossy(path).into_owned())
            });
        }
        found
    }

    /// RFC 7541 appendix C.4, three requests with Huffman codes, then the same connection's path by a dynamic name.
    fn connection() -> Vec<u8> {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
                .collect()
        };
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, b""));
        bytes.extend(frame(
            HEADERS,
            END_HEADERS,
            &hex("828684418cf1e3c2e5f23a6ba0ab90f4ff"),
        ));
        bytes.extend(frame(
            HEADERS,
            END_HEADERS,
            &hex("828684be5886a8eb10649cbf"),
        ));
        // With priority, padding and in two frames; DATA in between the requests.
        bytes.extend(frame(0, 1, &[7; 300]));
        let mut padded = vec![2, 0, 0, 0, 0, 9];
        padded.extend(b"\x82\x44\x04/a#b");
        padded.extend([0, 0]);
        bytes.extend(frame(HEADERS, PADDED | PRIORITY, &padded));
        bytes.extend(frame(CONTINUATION, END_HEADERS, b"\x87"));
        // `:path` by its name in the dynamic table, never indexed; and as a literal name.
        bytes.extend(frame(HEADERS, END_HEADERS, b"\x1f\x2f\x04/c#d"));
        bytes.extend(frame(HEADERS, END_HEADERS, b"\x00\x05:path\x02/e"));
        bytes
    }

    #[test]
    fn every_path_is_found_however_the_bytes_come() {
        let bytes = connection();
        for step in [1, 2, 7, 64, bytes.len()] {
            let mut paths = Paths::new(1 << 20);
            assert_eq!(
                found(&mut paths, &bytes, step),
                ["/a#b", "/c#d", "/e"],
                "{step}"
            );
            assert!(!paths.is_lost());
        }
    }

    #[test]
    fn what_is_no_header_block_ends_it() {
        for block in [
            &b"\xbe"[..],
            b"\x3f\xff\xff\xff\xff\x7f",
            b"\x44\x05/a",
            b"\x80",
        ] {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            bytes.extend(frame(HEADERS, END_HEADERS, block));
            let mut paths = Paths::new(1 << 20);
            assert!(found(&mut paths, &bytes, 3).is_empty());
            assert!(paths.is_lost(), "{block:?}");
        }
        let mut paths = Paths::new(100);
        let mut bytes = vec![0; PREFACE.len()];
        bytes.extend(frame(HEADERS, 0, &[0x82; 200]));
        assert!(found(&mut paths, &bytes, 9).is_empty() && paths.is_lost());
    }

    #[test]
    fn the_table_forgets_as_the_clients_does() {
        let mut bytes = vec![0; PREFACE.len()];
        // An entry larger than the table empties it; then an index that is gone.
        let mut block = b"\x44\x02/x\x40\x01a\x7f".to_vec();
        block.extend([0x81, 0x1f]);
        block.extend(vec![b'v'; 4096]);
        bytes.extend(frame(HEADERS, END_HEADERS, &block));
        let mut paths = Paths::new(1 << 20);
        assert_eq!(found(&mut paths, &bytes, 1000), ["/x"]);
        assert!(!paths.is_lost() && paths.table.entries.is_empty());
        found(&mut paths, &frame(HEADERS, END_HEADERS, b"\xbe"), 1000);
        assert!(paths.is_lost());
    }

    proptest! {
        #[test]
        fn any_bytes_are_followed(bytes in prop::collection::vec(any::<u8>(), 0..600), step in 1usize..50) {
            let mut whole = connection();
            whole.extend(bytes);
            let mut paths = Paths::new(4096);
            let all = found(&mut paths, &whole, step);
            prop_assert_eq!(&all[..3], ["/a#b", "/c#d", "/e"]);
            prop_assert!(paths.table.size <= TABLE_SIZE);
        }
    }
}
