//! Header blocks whose `:path` the HTTP library cannot represent, changed so that it accepts their requests, which are marked.
//!
//! The library resets the stream of a malformed path, ends the connection over one that is not UTF-8, and cuts one off at a `#`. A
//! kube-apiserver answers all of them. Here such a path is replaced by a stand-in of the same size, so that the library's HPACK table
//! stays the client's, and a field that is not indexed says that the request is to be refused, and how. All other bytes are left as
//! they are. A header block is held back until it is complete, as the library itself does before it hands on a request.

use super::frame::flag::{END_HEADERS, PADDED, PRIORITY};
use super::frame::kind::{CONTINUATION, HEADERS};
use super::frame::{HEADER as FRAME_HEADER, PREFACE};
use super::paths::Paths;
use super::target::{REFUSED, Refusal};

/// The most that a frame may have, as the agent's SETTINGS say; the library ends a connection whose frames have more.
const LARGEST_FRAME: usize = 64 << 10;
/// The library lets a block come in fewer frames.
const MOST_FRAMES: usize = 256;

/// Follows one connection from its first byte on.
#[derive(Debug)]
pub struct Mend {
    paths: Paths,
    /// What has come of a header block, or of a frame's header.
    held: Vec<u8>,
    /// Bytes until the next frame's header.
    left: usize,
    most: usize,
}

impl Mend {
    /// `most`: bytes of a header block that are followed.
    pub fn new(most: usize) -> Self {
        Self {
            paths: Paths::new(most),
            held: Vec::new(),
            left: PREFACE.len(),
            most,
        }
    }

    /// Whether following was given up; what comes is then left as it is.
    pub fn is_lost(&self) -> bool {
        self.paths.is_lost()
    }

    /// Whether a part of what came is kept back.
    #[cfg(test)]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is held, as it came: the connection has ended.
    pub fn give_up(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// Takes the next bytes of the connection. `None`: the library is to have them as they came. Otherwise it is to have those
    /// that are returned instead.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.is_lost() {
            return None;
        }
        if self.held.is_empty() {
            let (taken, mended) = self.walk(bytes);
            if mended.is_none() && taken == bytes.len() {
                return None;
            }
            let mut out = mended.unwrap_or_else(|| bytes.get(..taken).unwrap_or_default().to_vec());
            self.keep(bytes.get(taken..).unwrap_or_default(), &mut out);
            return Some(out);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        let (taken, mended) = self.walk(&all);
        match mended {
            Some(mut out) => {
                self.keep(all.get(taken..).unwrap_or_default(), &mut out);
                Some(out)
            }
            // Not copied: a client may send a large block byte by byte.
            None if taken == 0 && !self.is_lost() => {
                self.held = all;
                Some(Vec::new())
            }
            None => {
                let rest = all.split_off(taken);
                self.keep(&rest, &mut all);
                Some(all)
            }
        }
    }

    fn keep(&mut self, rest: &[u8], out: &mut Vec<u8>) {
        match self.is_lost() {
            true => out.extend_from_slice(rest),
            false => self.held.extend_from_slice(rest),
        }
    }

    /// How many of the bytes are whole, and what stands for them if that differs.
    fn walk(&mut self, bytes: &[u8]) -> (usize, Option<Vec<u8>>) {
        let (mut at, mut mended): (usize, Option<Vec<u8>>) = (0, None);
        // Up to here `mended` stands for the bytes.
        let mut copied = 0;
        loop {
            let now = self.left.min(bytes.len() - at);
            // What is in no header block is only counted.
            self.paths
                .feed(bytes.get(at..at + now).unwrap_or_default(), |_| ());
            self.left -= now;
            at += now;
            if self.left > 0 || self.is_lost() {
                break;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let Some((length, kind)) = header(rest) else {
                break;
            };
            if kind != HEADERS {
                self.left = FRAME_HEADER + length;
                continue;
            }
            let Some(end) = self.block_end(rest) else {
                break;
            };
            let block = rest.get(..end).unwrap_or_default();
            self.paths.feed(block, |_| ());
            if let Some((fields, refusal)) = self.paths.take_mended() {
                let out = mended.get_or_insert_with(Vec::new);
                out.extend_from_slice(bytes.get(copied..at).unwrap_or_default());
                write(out, block, fields, refusal);
                copied = at + end;
            }
            at += end;
        }
        if let Some(out) = &mut mended {
            out.extend_from_slice(bytes.get(copied..at).unwrap_or_default());
        }
        (at, mended)
    }

    /// Where the header block that begins here ends. `None`: it is not complete, or what came is no header block, and following
    /// it is given up.
    fn block_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let (mut at, mut frames) = (0, 0);
        loop {
            let rest = bytes.get(at..)?;
            let Some((length, kind)) = header(rest) else {
                if at > self.most {
                    self.paths.lose();
                }
                return None;
            };
            let flags = rest.get(4).copied().unwrap_or_default();
            let fits = kind == if at == 0 { HEADERS } else { CONTINUATION };
            if !fits || length > LARGEST_FRAME || frames > MOST_FRAMES || at > self.most {
                // The library ends such a connection.
                self.paths.lose();
                return None;
            }
            if rest.len() < FRAME_HEADER + length {
                return None;
            }
            at += FRAME_HEADER + length;
            frames += 1;
            if flags & END_HEADERS != 0 {
                return Some(at);
            }
        }
    }
}

/// The length and kind of the frame that begins here, if its header is complete.
fn header(bytes: &[u8]) -> Option<(usize, u8)> {
    let [a, b, c, kind, ..] = bytes.get(..FRAME_HEADER)? else {
        return None;
    };
    Some((u32::from_be_bytes([0, *a, *b, *c]) as usize, *kind))
}

/// Writes the block as frames of the same stream: without padding and priority, with the field that says why.
fn write(out: &mut Vec<u8>, original: &[u8], mut fields: Vec<u8>, refusal: Refusal) {
    let mark = refusal.mark();
    // A literal that is never indexed (RFC 7541 §6.2.3); name and value are short.
    fields.extend([0x10, REFUSED.len() as u8]);
    fields.extend_from_slice(REFUSED.as_bytes());
    fields.push(mark.len() as u8);
    fields.extend_from_slice(mark);
    let flags = original.get(4).copied().unwrap_or_default();
    let stream = original.get(5..FRAME_HEADER).unwrap_or_default();
    let last = fields.len().div_ceil(LARGEST_FRAME) - 1;
    for (at, part) in fields.chunks(LARGEST_FRAME).enumerate() {
        let length = (part.len() as u32).to_be_bytes();
        out.extend_from_slice(length.get(1..).unwrap_or_default());
        let (kind, mut flags) = match at {
            0 => (HEADERS, flags & !(PADDED | PRIORITY | END_HEADERS)),
            _ => (CONTINUATION, 0),
        };
        if at == last {
            flags |= END_HEADERS;
        }
        out.extend([kind, flags]);
        out.extend_from_slice(stream);
        out.extend_from_slice(part);
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

    fn connection(blocks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, b""));
        for block in blocks {
            bytes.extend(frame(HEADERS, END_HEADERS | 1, block));
            bytes.extend(frame(0, 1, b"body"));
        }
        bytes
    }

    fn through(bytes: &[u8], step: usize) -> (Vec<u8>, Mend) {
        let mut mend = Mend::new(1 << 20);
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            match mend.feed(chunk) {
                None => out.extend_from_slice(chunk),
                Some(instead) => out.extend(instead),
            }
        }
        (out, mend)
    }

    fn marked(block: &[u8], status: &[u8]) -> Vec<u8> {
        let mark = [&[0x10, 20][..], REFUSED.as_bytes(), &[3], status];
        [block, &mark.concat()].concat()
    }

    #[test]
    fn only_what_cannot_be_carried_is_replaced() {
        // Indexed when it first comes, and then repeated by its index; between them a good one.
        let sent = connection(&[b"\x82\x44\x04/a#b", b"\x82\x04\x02/c", b"\x82\xbe"]);
        let (bad, again) = (
            marked(b"\x82\x44\x04/a_b", b"400"),
            marked(b"\x82\xbe", b"400"),
        );
        let expected = connection(&[&bad, b"\x82\x04\x02/c", &again]);
        for step in [1, 2, 5, 17, sent.len()] {
            let (out, mend) = through(&sent, step);
            assert_eq!(out, expected, "{step}");
            assert!(!mend.is_lost() && !mend.holds());
        }
    }

    #[test]
    fn too_long_a_path_empties_the_table_as_it_did() {
        let mut block = vec![0x82, 0x44, 0x7f];
        // 70,000 as an integer with a prefix of 7 bits (RFC 7541 §5.1).
        let length = 70_000u32 - 127;
        let digits = [
            length & 0x7f | 0x80,
            length >> 7 & 0x7f | 0x80,
            length >> 14,
        ];
        block.extend(digits.map(|digit| digit as u8));
        block.push(b'/');
        block.extend(vec![b'a'; 69_999]);
        let mut bytes = connection(&[]);
        bytes.extend(frame(HEADERS, 1, &block[..40_000]));
        bytes.extend(frame(CONTINUATION, END_HEADERS, &block[40_000..]));
        let (out, mend) = through(&bytes, 16_384);
        assert!(!mend.is_lost() && out.len() < 9000);
        assert!(out.ends_with(b"414"));
    }

    #[test]
    fn a_breach_of_http_is_the_librarys_to_judge() {
        for breach in [
            frame(HEADERS, END_HEADERS, b"\xfe"),
            [frame(HEADERS, 0, b"\x82"), frame(0, 0, b"")].concat(),
            vec![0xff, 0xff, 0xff, HEADERS, END_HEADERS, 0, 0, 0, 1],
        ] {
            let sent = [connection(&[]), breach].concat();
            let (out, mend) = through(&sent, 3);
            assert!(mend.is_lost());
            assert_eq!(out, sent);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_go_on_as_they_came(bytes in prop::collection::vec(any::<u8>(), 0..400), step in 1usize..40) {
            let sent = [connection(&[b"\x82\x04\x02/c"]), bytes].concat();
            let (mut out, mut mend) = through(&sent, step);
            out.extend(mend.give_up());
            if !out.windows(REFUSED.len()).any(|w| w == REFUSED.as_bytes()) {
                prop_assert_eq!(out, sent);
            }
        }
    }
}
