//! Where HTTP/2 frames begin in a stream of bytes, and what resets say (RFC 9113 §4.1, §6.4). Pure.

use crate::h2wire::frame::kind::{HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE};
use crate::h2wire::frame::setting::INITIAL_WINDOW_SIZE;
use crate::h2wire::frame::{HEADER, PREFACE};

/// What passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Seen {
    /// The header of a frame.
    Frame,
    /// HEADERS on a stream.
    Headers { stream: u32 },
    /// RST_STREAM with this code.
    Reset { code: u32 },
    /// SETTINGS_INITIAL_WINDOW_SIZE.
    StreamWindow(u32),
    /// WINDOW_UPDATE of the connection.
    ConnectionWindow(u32),
}

/// Follows the frames of one direction of a connection, however its bytes are cut.
#[derive(Debug)]
pub(super) struct Walker {
    /// Bytes of the preface still to come.
    preface: usize,
    header: [u8; HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload still to come.
    left: usize,
    /// The first bytes of the payload, of frames that are looked into.
    payload: [u8; 6],
    payload_have: usize,
}

impl Walker {
    /// For what a client sends.
    pub(super) fn of_client() -> Self {
        Self {
            preface: PREFACE.len(),
            ..Self::of_server()
        }
    }

    /// For what a server sends.
    pub(super) fn of_server() -> Self {
        Self {
            preface: 0,
            header: [0; HEADER],
            have: 0,
            left: 0,
            payload: [0; 6],
            payload_have: 0,
        }
    }

    /// The bytes up to the next place where a frame may begin, as far as that is known; 0 at such a place.
    pub(super) fn until_boundary(&self) -> usize {
        match self.have {
            0 => self.preface,
            HEADER => self.left,
            have => HEADER - have,
        }
    }

    pub(super) fn walk(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Seen)) {
        while !bytes.is_empty() {
            if self.preface > 0 {
                let (_, rest) = split(bytes, &mut self.preface);
                bytes = rest;
                continue;
            }
            if self.have < HEADER {
                bytes = gather(&mut self.header, &mut self.have, bytes);
                if self.have == HEADER {
                    self.begin(&mut seen);
                }
            } else {
                let (part, rest) = split(bytes, &mut self.left);
                self.look(part, &mut seen);
                bytes = rest;
            }
            if self.have == HEADER && self.left == 0 {
                self.have = 0;
            }
        }
    }

    fn kind(&self) -> u8 {
        self.header[3]
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.header;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }

    fn begin(&mut self, seen: &mut impl FnMut(Seen)) {
        let [a, b, c, ..] = self.header;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.payload_have = 0;
        seen(Seen::Frame);
        if self.kind() == HEADERS {
            seen(Seen::Headers {
                stream: self.stream(),
            });
        }
    }

    fn look(&mut self, mut part: &[u8], seen: &mut impl FnMut(Seen)) {
        let wanted = match self.kind() {
            RST_STREAM => 4,
            WINDOW_UPDATE if self.stream() == 0 => 4,
            SETTINGS => 6,
            _ => return,
        };
        while !part.is_empty() {
            let payload = self.payload.get_mut(..wanted).unwrap_or_default();
            part = gather(payload, &mut self.payload_have, part);
            if self.payload_have < wanted {
                return;
            }
            self.payload_have = 0;
            let [a, b, c, d, e, f] = self.payload;
            match self.kind() {
                RST_STREAM => seen(Seen::Reset {
                    code: u32::from_be_bytes([a, b, c, d]),
                }),
                WINDOW_UPDATE => seen(Seen::ConnectionWindow(u32::from_be_bytes([
                    a & 0x7f,
                    b,
                    c,
                    d,
                ]))),
                _ if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE => {
                    seen(Seen::StreamWindow(u32::from_be_bytes([c, d, e, f])));
                }
                _ => {}
            }
        }
    }
}

/// Takes from `bytes` what still belongs to something of which `left` bytes are missing.
fn split<'a>(bytes: &'a [u8], left: &mut usize) -> (&'a [u8], &'a [u8]) {
    let taken = bytes.len().min(*left);
    *left -= taken;
    bytes.split_at(taken)
}

/// Copies to `to` what still fits behind its first `have` bytes, and returns the rest of `bytes`.
fn gather<'a>(to: &mut [u8], have: &mut usize, bytes: &'a [u8]) -> &'a [u8] {
    let room = to.get_mut(*have..).unwrap_or_default();
    let (head, rest) = bytes.split_at(bytes.len().min(room.len()));
    for (to, byte) in room.iter_mut().zip(head) {
        *to = *byte;
    }
    *have += head.len();
    rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[derive(Clone, Debug)]
    enum Sent {
        Data(usize),
        Headers(u32),
        Reset(u32),
        Settings(Vec<(u16, u32)>),
        Window(u32, u32),
    }

    fn sent() -> impl Strategy<Value = Sent> {
        prop_oneof![
            (0..300_usize).prop_map(Sent::Data),
            (1..0x7fff_ffff_u32).prop_map(Sent::Headers),
            any::<u32>().prop_map(Sent::Reset),
            proptest::collection::vec((0..8_u16, any::<u32>()), 0..4).prop_map(Sent::Settings),
            (0..2_u32, 1..0x7fff_ffff_u32).prop_map(|(s, n)| Sent::Window(s, n)),
        ]
    }

    proptest! {
        /// Everything is seen, once and in order, however the bytes are cut.
        #[test]
        fn cuts_make_no_difference(
            all in proptest::collection::vec(sent(), 0..30),
            cuts in proptest::collection::vec(1..40_usize, 1..20),
            client: bool,
        ) {
            let mut bytes = if client { vec![b'P'; PREFACE.len()] } else { Vec::new() };
            let mut expected = Vec::new();
            for sent in &all {
                expected.push(Seen::Frame);
                bytes.extend(match sent {
                    Sent::Data(length) => frame(0, 1, &vec![3; *length]),
                    Sent::Headers(stream) => {
                        expected.push(Seen::Headers { stream: *stream });
                        frame(HEADERS, *stream, b"block")
                    }
                    Sent::Reset(code) => {
                        expected.push(Seen::Reset { code: *code });
                        frame(RST_STREAM, 7, &code.to_be_bytes())
                    }
                    Sent::Settings(pairs) => {
                        let mut payload = Vec::new();
                        for (name, value) in pairs {
                            payload.extend(name.to_be_bytes());
                            payload.extend(value.to_be_bytes());
                            if *name == INITIAL_WINDOW_SIZE {
                                expected.push(Seen::StreamWindow(*value));
                            }
                        }
                        frame(SETTINGS, 0, &payload)
                    }
                    Sent::Window(stream, more) => {
                        if *stream == 0 {
                            expected.push(Seen::ConnectionWindow(*more));
                        }
                        frame(WINDOW_UPDATE, *stream, &more.to_be_bytes())
                    }
                });
            }
            let mut walker = if client { Walker::of_client() } else { Walker::of_server() };
            let mut seen = Vec::new();
            let (mut rest, mut cuts) = (bytes.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                walker.walk(part, |s| seen.push(s));
                rest = behind;
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(walker.until_boundary(), if bytes.is_empty() && client { PREFACE.len() } else { 0 });
        }

        /// Bytes that are no frames do no harm.
        #[test]
        fn noise_is_walked(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut walker = Walker::of_server();
            walker.walk(&noise, |_| {});
        }
    }
}
