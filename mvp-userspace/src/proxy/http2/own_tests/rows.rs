//! What a server may do wrong, or may do although few servers do.

use super::End::{self, Answered, Connection, Gone, Request};
use super::*;

const PROTOCOL: End = Connection(&[PROTOCOL_ERROR]);
/// The library says PROTOCOL_ERROR in some cases.
const SIZE: End = Connection(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);
pub(super) const COMPRESSION: End = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
pub(super) const MALFORMED: End = Request(&[PROTOCOL_ERROR]);
const MOST: u32 = 0x7fff_ffff;

pub(super) fn row(
    section: &'static str,
    what: &'static str,
    frames: Vec<Vec<u8>>,
    end: End,
) -> Row {
    Row {
        section,
        what,
        bytes: script(&frames),
        method: Method::GET,
        end,
        library: None,
        closes: false,
    }
}

impl Row {
    /// The library does otherwise.
    pub(super) fn but(self, end: End, why: &'static str) -> Self {
        let library = Some((end, why));
        Self { library, ..self }
    }

    /// All that the server says, before it closes the connection.
    fn first(self, bytes: &[u8]) -> Self {
        let bytes = bytes.to_vec();
        let closes = true;
        Self {
            bytes,
            closes,
            ..self
        }
    }

    pub(super) fn to(self, method: Method) -> Self {
        Self { method, ..self }
    }
}

pub(super) fn rows() -> Vec<Row> {
    [
        beginning(),
        streams(),
        frames(),
        settings(),
        windows(),
        blocks(),
        super::compression::rows(),
        super::messages::rows(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

pub(super) fn answered(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, block)
}

pub(super) fn whole(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, block)
}

pub(super) fn data(bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, 1, bytes)
}

pub(super) fn last(bytes: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, 1, bytes)
}

fn beginning() -> Vec<Row> {
    let reserved = {
        let mut frame = whole(OK);
        frame[5] |= 0x80;
        frame
    };
    vec![
        row("3.4", "another first frame than SETTINGS", vec![], PROTOCOL)
            .first(&frame(PING, 0, 0, b"12345678"))
            .but(Gone, "it waits for SETTINGS and tells nobody"),
        row("3.4", "HTTP/1.1 where HTTP/2 was agreed upon", vec![], SIZE)
            .first(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        row("3.4", "nothing, and closes the connection", vec![], Gone).first(b""),
        row(
            "4.1",
            "a frame of an unknown type",
            vec![frame(0xbb, 0xff, 1, b"?"), whole(OK)],
            Answered,
        ),
        row(
            "4.1",
            "flags that the frame's type does not have",
            vec![frame(PING, 0xfe, 0, b"12345678"), whole(OK)],
            Answered,
        ),
        row(
            "4.1",
            "the reserved bit of a stream",
            vec![reserved],
            Answered,
        ),
        row(
            "4.2",
            "DATA above the agent's MAX_FRAME_SIZE",
            vec![answered(OK), data(&[0; (1 << 14) + 1])],
            SIZE,
        ),
        row(
            "4.2",
            "HEADERS above the agent's MAX_FRAME_SIZE",
            vec![whole(&[0x88; (1 << 14) + 1])],
            SIZE,
        ),
    ]
}

fn streams() -> Vec<Row> {
    let reset = |stream: u32, code: u32| frame(RST_STREAM, 0, stream, &code.to_be_bytes());
    let update = |stream: u32| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1]);
    let behind = |more: Vec<u8>| vec![whole(OK), more];
    vec![
        row(
            "5.1",
            "DATA on an idle stream",
            vec![frame(DATA, 0, 7, b"x")],
            PROTOCOL,
        ),
        row(
            "5.1",
            "HEADERS on an idle stream",
            vec![frame(HEADERS, END_HEADERS, 7, OK)],
            PROTOCOL,
        ),
        row(
            "5.1",
            "RST_STREAM on an idle stream",
            vec![reset(7, CANCEL)],
            PROTOCOL,
        ),
        row(
            "5.1",
            "WINDOW_UPDATE on an idle stream",
            vec![update(7)],
            PROTOCOL,
        ),
        row(
            "5.1",
            "PRIORITY on an idle stream",
            vec![frame(PRIORITY, 0, 7, &[0, 0, 0, 0, 1]), whole(OK)],
            Answered,
        ),
        row(
            "5.1",
            "WINDOW_UPDATE behind the end of an answer",
            behind(update(1)),
            Answered,
        ),
        row(
            "5.1",
            "PRIORITY behind the end of an answer",
            behind(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])),
            Answered,
        ),
        row(
            "5.1",
            "RST_STREAM behind the end of an answer",
            behind(reset(1, NO_ERROR)),
            Answered,
        ),
        row(
            "5.1",
            "RST_STREAM",
            vec![answered(OK), data(b"x"), reset(1, CANCEL)],
            Gone,
        ),
        row(
            "7",
            "RST_STREAM with an unknown code",
            vec![reset(1, 0x1234)],
            Gone,
        ),
        row(
            "8.7",
            "RST_STREAM with REFUSED_STREAM",
            vec![reset(1, REFUSED_STREAM)],
            Gone,
        ),
        row(
            "5.1.1",
            "HEADERS on a stream that a server may begin",
            vec![frame(HEADERS, END_HEADERS, 2, OK)],
            PROTOCOL,
        ),
        row(
            "5.5",
            "a setting that is unknown",
            vec![frame(SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]), whole(OK)],
            Answered,
        ),
        row(
            "5.5",
            "a frame of an unknown type within a header block",
            vec![frame(HEADERS, END_STREAM, 1, OK), frame(0xbb, 0, 1, b"")],
            PROTOCOL,
        ),
    ]
}

fn frames() -> Vec<Row> {
    let go = |last: u32, code: u32| {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        frame(GOAWAY, 0, 0, &payload)
    };
    vec![
        row(
            "6.1",
            "DATA on stream 0",
            vec![frame(DATA, 0, 0, b"x")],
            PROTOCOL,
        ),
        row(
            "6.1",
            "DATA with more padding than payload",
            vec![answered(OK), frame(DATA, PADDED, 1, b"\x09hi")],
            PROTOCOL,
        ),
        row(
            "6.1",
            "DATA with padding",
            vec![
                answered(OK),
                frame(DATA, PADDED | END_STREAM, 1, b"\x02hi.."),
            ],
            Answered,
        ),
        row(
            "6.2",
            "HEADERS on stream 0",
            vec![frame(HEADERS, END_HEADERS, 0, OK)],
            PROTOCOL,
        ),
        row(
            "6.2",
            "HEADERS with more padding than payload",
            vec![frame(HEADERS, END_HEADERS | PADDED, 1, b"\x09\x88")],
            PROTOCOL,
        ),
        row(
            "6.3",
            "PRIORITY on stream 0",
            vec![frame(PRIORITY, 0, 0, &[0; 5])],
            PROTOCOL,
        ),
        row(
            "6.3",
            "PRIORITY of another length",
            vec![frame(PRIORITY, 0, 1, &[0; 4])],
            Request(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]),
        ),
        row(
            "6.4",
            "RST_STREAM on stream 0",
            vec![frame(RST_STREAM, 0, 0, &[0; 4])],
            PROTOCOL,
        ),
        row(
            "6.4",
            "RST_STREAM of another length",
            vec![frame(RST_STREAM, 0, 1, &[0; 3])],
            SIZE,
        ),
        row(
            "6.6, 8.4",
            "PUSH_PROMISE",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])],
            PROTOCOL,
        ),
        row(
            "6.7",
            "PING on a stream",
            vec![frame(PING, 0, 1, b"12345678")],
            PROTOCOL,
        ),
        row(
            "6.7",
            "PING of another length",
            vec![frame(PING, 0, 0, b"1234567")],
            SIZE,
        ),
        row(
            "6.7",
            "an acknowledgement of a PING that nobody sent",
            vec![frame(PING, ACK, 0, b"12345678"), whole(OK)],
            Answered,
        ),
        row(
            "6.8",
            "GOAWAY on a stream",
            vec![frame(GOAWAY, 0, 1, &[0; 8])],
            PROTOCOL,
        ),
        row(
            "6.8",
            "GOAWAY of another length",
            vec![frame(GOAWAY, 0, 0, &[0; 7])],
            SIZE,
        ),
        row(
            "6.8",
            "GOAWAY that spares the request, and the answer",
            vec![go(1, NO_ERROR), whole(OK)],
            Answered,
        ),
        row(
            "6.8",
            "GOAWAY that does not spare the request",
            vec![go(0, NO_ERROR)],
            Gone,
        ),
        row(
            "7",
            "GOAWAY with an unknown code",
            vec![go(0, 0x1234)],
            Gone,
        ),
    ]
}

fn settings() -> Vec<Row> {
    let set = |name: u16, value: u32| {
        let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &payload)
    };
    vec![
        row(
            "6.5",
            "SETTINGS on a stream",
            vec![frame(SETTINGS, 0, 1, &[])],
            PROTOCOL,
        ),
        row(
            "6.5",
            "an acknowledgement of SETTINGS with a payload",
            vec![frame(SETTINGS, ACK, 0, &[0; 6])],
            SIZE,
        ),
        row(
            "6.5",
            "SETTINGS of another length",
            vec![frame(SETTINGS, 0, 0, &[0; 5])],
            SIZE,
        ),
        row(
            "6.5.2",
            "ENABLE_PUSH of 1",
            vec![set(2, 1), whole(OK)],
            PROTOCOL,
        )
        .but(Answered, "a push itself is refused"),
        row("6.5.2", "ENABLE_PUSH of 2", vec![set(2, 2)], PROTOCOL),
        row(
            "6.5.2",
            "INITIAL_WINDOW_SIZE above the most",
            vec![set(4, MOST + 1)],
            Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        row(
            "6.5.2",
            "MAX_FRAME_SIZE below the least",
            vec![set(5, 16_383)],
            PROTOCOL,
        ),
        row(
            "6.5.2",
            "MAX_FRAME_SIZE above the most",
            vec![set(5, 1 << 24)],
            PROTOCOL,
        ),
    ]
}

fn windows() -> Vec<Row> {
    let update = |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    vec![
        row(
            "6.9",
            "WINDOW_UPDATE by 0 of the connection",
            vec![update(0, 0)],
            PROTOCOL,
        ),
        row(
            "6.9",
            "WINDOW_UPDATE by 0 of a stream",
            vec![update(1, 0)],
            MALFORMED,
        ),
        row(
            "6.9",
            "WINDOW_UPDATE of another length",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            SIZE,
        ),
        row(
            "6.9.1",
            "WINDOW_UPDATE of the connection above the most",
            vec![update(0, MOST)],
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        row(
            "6.9.1",
            "WINDOW_UPDATE of a stream above the most",
            vec![update(1, MOST), whole(OK)],
            Request(&[FLOW_CONTROL_ERROR]),
        )
        .but(Answered, "nothing more is sent on that stream"),
    ]
}

fn blocks() -> Vec<Row> {
    let begun = |more: Vec<u8>| vec![frame(HEADERS, END_STREAM, 1, OK), more];
    let one = field("a", "b");
    let (left, right) = one.split_at(2);
    vec![
        row(
            "6.10",
            "a header block in three frames",
            vec![
                frame(HEADERS, END_STREAM, 1, OK),
                frame(CONTINUATION, 0, 1, left),
                frame(CONTINUATION, END_HEADERS, 1, right),
            ],
            Answered,
        ),
        row(
            "6.10",
            "CONTINUATION without HEADERS",
            vec![frame(CONTINUATION, END_HEADERS, 1, OK)],
            PROTOCOL,
        ),
        row(
            "6.10",
            "CONTINUATION behind the end of a header block",
            vec![answered(OK), frame(CONTINUATION, END_HEADERS, 1, b"")],
            PROTOCOL,
        ),
        row(
            "6.10",
            "CONTINUATION on stream 0",
            begun(frame(CONTINUATION, END_HEADERS, 0, b"")),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "CONTINUATION of another stream",
            begun(frame(CONTINUATION, END_HEADERS, 3, b"")),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "PING within a header block",
            begun(frame(PING, 0, 0, b"12345678")),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "DATA within a header block",
            begun(last(b"x")),
            PROTOCOL,
        ),
    ]
}
