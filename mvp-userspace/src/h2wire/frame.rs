//! HTTP/2 frames (RFC 9113 §4, §6): their headers, and those that the agent writes.

/// Bytes of a frame's header (§4.1).
pub const HEADER: usize = 9;
/// What a client begins with (§3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest payload that everybody takes (§4.2).
pub const SMALLEST_MAX_FRAME: usize = 1 << 14;
/// §6.9.1.
pub const LARGEST_WINDOW: i64 = (1 << 31) - 1;
/// What a window is before anybody says otherwise (§6.9.2).
pub const FIRST_WINDOW: i64 = 65_535;

/// The types of frames (§6.1 to §6.10).
pub mod kind {
    /// A part of a body.
    pub const DATA: u8 = 0;
    /// The fields of a request or answer, or as many of them as fit; CONTINUATION frames follow.
    pub const HEADERS: u8 = 1;
    /// Deprecated (§5.3.2), and still sent by some clients.
    pub const PRIORITY: u8 = 2;
    /// Ends a stream at once, with a code.
    pub const RST_STREAM: u8 = 3;
    /// What the sender accepts; `ACK` says that the other side's were taken in.
    pub const SETTINGS: u8 = 4;
    /// Announces a pushed stream. The agent does not accept any.
    pub const PUSH_PROMISE: u8 = 5;
    /// Eight bytes that come back with `ACK`.
    pub const PING: u8 = 6;
    /// No new streams: the last one that was handled, and a code.
    pub const GOAWAY: u8 = 7;
    /// More bytes may be sent, on a stream or on the connection (stream 0).
    pub const WINDOW_UPDATE: u8 = 8;
    /// The rest of a HEADERS or PUSH_PROMISE frame.
    pub const CONTINUATION: u8 = 9;
}

/// The flags of frames. One bit can mean two things: the type decides.
pub mod flag {
    /// SETTINGS and PING: it answers one of the other side.
    pub const ACK: u8 = 0x1;
    /// DATA and HEADERS: the sender's last frame on this stream.
    pub const END_STREAM: u8 = 0x1;
    /// HEADERS and CONTINUATION: no CONTINUATION follows.
    pub const END_HEADERS: u8 = 0x4;
    /// DATA and HEADERS: the payload begins with the length of its padding.
    pub const PADDED: u8 = 0x8;
    /// HEADERS: dependency and weight stand before the fields.
    pub const PRIORITY: u8 = 0x20;
}

/// §6.5.2.
pub mod setting {
    /// The largest table of fields that the other side may use for what it sends, bytes (RFC 7541 §4.2).
    pub const HEADER_TABLE_SIZE: u16 = 1;
    /// Whether the other side may push.
    pub const ENABLE_PUSH: u16 = 2;
    /// How many streams the other side may have open at a time.
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// The flow-control window of a new stream, bytes.
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    /// The largest payload that is accepted, bytes.
    pub const MAX_FRAME_SIZE: u16 = 5;
    /// The largest list of fields that is accepted, bytes as RFC 9113 counts them; advisory.
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Codes of §7.
pub mod code {
    /// In order: GOAWAY before an ordinary end.
    pub const NO_ERROR: u32 = 0;
    /// The other side broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// The sender failed.
    pub const INTERNAL_ERROR: u32 = 2;
    /// More was sent than the window allows.
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    /// A frame came for a stream that had ended.
    pub const STREAM_CLOSED: u32 = 5;
    /// A frame has a length that its type does not allow.
    pub const FRAME_SIZE_ERROR: u32 = 6;
    /// The stream was not looked at: the request may be repeated (§8.7).
    pub const REFUSED_STREAM: u32 = 7;
    /// The stream is not needed any more.
    pub const CANCEL: u32 = 8;
    /// The fields cannot be decoded, and with them nothing that comes later on the connection.
    pub const COMPRESSION_ERROR: u32 = 9;
    /// The other side causes too much load.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame {
    /// Bytes of the payload, without the nine of the header.
    pub length: usize,
    /// A constant of [`kind`], or a type that is unknown and skipped.
    pub kind: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// The stream's number, without the reserved bit; 0: the connection.
    pub stream: u32,
}

impl Frame {
    /// `None`: not all of the header is there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, d, e, f, g] = bytes.first_chunk::<HEADER>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([d & 0x7f, e, f, g]),
        })
    }

    /// Whether the flag is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Appends the header. Nobody takes a payload of 2^24 bytes, so that `length` is smaller.
    pub fn write(self, out: &mut Vec<u8>) {
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        out.extend_from_slice(&[a, b, c, self.kind, self.flags, d, e, f, g]);
    }
}

/// Appends a frame whose payload is a number of 32 bits: RST_STREAM or WINDOW_UPDATE.
pub fn number(kind: u8, stream: u32, number: u32, out: &mut Vec<u8>) {
    let frame = Frame {
        length: 4,
        kind,
        flags: 0,
        stream,
    };
    frame.write(out);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Appends a SETTINGS frame with these pairs of [`setting`] and value.
pub fn settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    let frame = Frame {
        length: 6 * settings.len(),
        kind: kind::SETTINGS,
        flags: 0,
        stream: 0,
    };
    frame.write(out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends the acknowledgement of the other side's SETTINGS.
pub fn settings_ack(out: &mut Vec<u8>) {
    let frame = Frame {
        length: 0,
        kind: kind::SETTINGS,
        flags: flag::ACK,
        stream: 0,
    };
    frame.write(out);
}

/// Appends a PING; with [`flag::ACK`] it answers one with the same payload.
pub fn ping(flags: u8, payload: [u8; 8], out: &mut Vec<u8>) {
    let frame = Frame {
        length: payload.len(),
        kind: kind::PING,
        flags,
        stream: 0,
    };
    frame.write(out);
    out.extend_from_slice(&payload);
}

/// `last`: the highest stream of the other side's that was or may be handled; 0 towards a server, which cannot begin any (push is off).
pub fn go_away(last: u32, code: u32, out: &mut Vec<u8>) {
    let frame = Frame {
        length: 8,
        kind: kind::GOAWAY,
        flags: 0,
        stream: 0,
    };
    frame.write(out);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&code.to_be_bytes());
}

/// Appends a block of fields as HEADERS and as many CONTINUATION as `most` bytes in each frame need (§6.10).
pub fn headers(stream: u32, block: &[u8], ends: bool, most: usize, out: &mut Vec<u8>) {
    let mut chunks = block.chunks(most.max(1)).peekable();
    let mut kind = kind::HEADERS;
    loop {
        let chunk = chunks.next().unwrap_or_default();
        let mut flags = 0;
        if kind == kind::HEADERS && ends {
            flags |= flag::END_STREAM;
        }
        let last = chunks.peek().is_none();
        if last {
            flags |= flag::END_HEADERS;
        }
        let frame = Frame {
            length: chunk.len(),
            kind,
            flags,
            stream,
        };
        frame.write(out);
        out.extend_from_slice(chunk);
        if last {
            return;
        }
        kind = kind::CONTINUATION;
    }
}
