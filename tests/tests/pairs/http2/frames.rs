//! Frames and streams: sections 3 to 7.

use mvp_tests::fixtures::CONFIG_MAPS;
use mvp_tests::raw::{CONTINUATION, GOAWAY, HEADERS, RST_STREAM, SETTINGS, block, frame};

use super::{
    ACK, Answered, Connection, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR,
    Gone, Ignored, LIBRARY, Late, PADDED, PING, PREFACE, PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE,
    Row, STREAM_CLOSED, Stream, WHOLE, WINDOW_UPDATE, get, open, row, setting, usual,
};

/// A code that nobody knows.
const UNKNOWN: [u8; 4] = [0, 0, 0x12, 0x34];
/// A type of frames that nobody knows.
const EXTENSION: u8 = 0x16;
/// A request whose answer begins and does not end.
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true";

pub(super) fn rows() -> Vec<Row> {
    let mut rows = beginning();
    rows.extend(super::compression::rows());
    rows.extend(streams());
    rows.extend(frames());
    rows.extend(settings());
    rows.extend(windows());
    rows.extend(header_blocks());
    rows
}

const PROTOCOL: super::End = Connection(&[PROTOCOL_ERROR]);
const SIZE: super::End = Connection(&[FRAME_SIZE_ERROR, LIBRARY]);

/// A HEADERS frame of stream 1 with these flags and the fields of a usual GET.
fn begun(flags: u8) -> Vec<u8> {
    let fields = usual("GET", CONFIG_MAPS);
    frame(HEADERS, flags, 1, &block(&fields))
}

fn beginning() -> Vec<Row> {
    let preface = |first: Vec<u8>| [PREFACE, &first].concat();
    let reserved = {
        let mut frame = get(1, CONFIG_MAPS);
        frame[5] |= 0x80;
        frame
    };
    let long = |kind: u8, stream: u32| {
        let mut frame = frame(kind, 0, stream, b"");
        frame[..3].fill(0xff);
        frame
    };
    vec![
        row(
            "3.4",
            "another preface",
            b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n".to_vec(),
            Gone(&[PROTOCOL_ERROR]),
        ),
        row(
            "3.4",
            "HTTP/1.1 where HTTP/2 was agreed upon",
            b"GET / HTTP/1.1\r\nhost: kubernetes\r\n\r\n".to_vec(),
            Gone(&[PROTOCOL_ERROR]),
        ),
        row(
            "3.4",
            "another first frame than SETTINGS",
            preface(frame(PING, 0, 0, &[0; 8])),
            Gone(&[PROTOCOL_ERROR]),
        ),
        row(
            "4.1",
            "a frame of an unknown type",
            frame(EXTENSION, 0, 0, b"x"),
            Ignored,
        ),
        row(
            "4.1",
            "flags that the frame's type does not have",
            frame(PING, 0xfe, 0, &[0; 8]),
            Ignored,
        ),
        row("4.1", "the reserved bit of a stream", reserved, Answered),
        row("4.2", "HEADERS of 16 MiB", long(HEADERS, 1), SIZE),
        row(
            "4.2",
            "DATA of 16 MiB",
            [open(), long(DATA, 1)].concat(),
            Stream(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
    ]
}

fn streams() -> Vec<Row> {
    let reset = |stream: u32| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let closed = |more: Vec<u8>| [open(), reset(1), more].concat();
    let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    vec![
        row(
            "5.1",
            "DATA on an idle stream",
            frame(DATA, END_STREAM, 1, b"x"),
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        row("5.1", "RST_STREAM on an idle stream", reset(1), PROTOCOL),
        row(
            "5.1",
            "WINDOW_UPDATE on an idle stream",
            update.clone(),
            PROTOCOL,
        ),
        row(
            "5.1",
            "PRIORITY on an idle stream",
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]),
            Ignored,
        ),
        row(
            "5.1",
            "DATA behind the end of a request",
            [get(1, WATCH), frame(DATA, 0, 1, b"x")].concat(),
            Late(&[STREAM_CLOSED, LIBRARY]),
        ),
        row(
            "5.1",
            "HEADERS behind the end of a request",
            [get(1, WATCH), get(1, WATCH)].concat(),
            Late(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        row(
            "5.1",
            "WINDOW_UPDATE behind the end of a request",
            [get(1, CONFIG_MAPS), update.clone()].concat(),
            Answered,
        ),
        row(
            "5.1",
            "WINDOW_UPDATE on a stream that the client has reset",
            closed(update),
            Ignored,
        ),
        row(
            "5.1",
            "PRIORITY on a stream that the client has reset",
            closed(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
            Ignored,
        ),
        row(
            "5.1",
            "DATA on a stream that the client has reset",
            closed(frame(DATA, 0, 1, b"x")),
            Late(&[STREAM_CLOSED]),
        ),
        row(
            "5.1",
            "HEADERS on a stream that the client has reset",
            closed(get(1, CONFIG_MAPS)),
            Late(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        row(
            "5.1.1",
            "a request on an even stream",
            get(2, CONFIG_MAPS),
            PROTOCOL,
        ),
        row(
            "5.1.1",
            "a request on a stream below one before",
            [get(5, CONFIG_MAPS), get(3, CONFIG_MAPS)].concat(),
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        row(
            "5.5",
            "a setting that is unknown",
            setting(0x99, 1),
            Ignored,
        ),
        row(
            "5.5",
            "a frame of an unknown type within a header block",
            [begun(END_STREAM), frame(EXTENSION, 0, 1, b"x")].concat(),
            PROTOCOL,
        ),
    ]
}

fn frames() -> Vec<Row> {
    vec![
        row("6.1", "DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        row(
            "6.1",
            "DATA with more padding than payload",
            [open(), frame(DATA, PADDED, 1, &[9, 0])].concat(),
            PROTOCOL,
        ),
        row("6.2", "HEADERS on stream 0", get(0, CONFIG_MAPS), PROTOCOL),
        row(
            "6.2",
            "HEADERS with more padding than payload",
            frame(HEADERS, WHOLE | PADDED, 1, &[9, 0x82]),
            PROTOCOL,
        ),
        row(
            "6.3",
            "PRIORITY on stream 0",
            frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 16]),
            PROTOCOL,
        ),
        row(
            "6.3",
            "PRIORITY of another length",
            [open(), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            Stream(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        row(
            "6.4",
            "RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            PROTOCOL,
        ),
        row(
            "6.4",
            "RST_STREAM of another length",
            [open(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            SIZE,
        ),
        row(
            "6.6, 8.4",
            "PUSH_PROMISE",
            [
                open(),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            ]
            .concat(),
            PROTOCOL,
        ),
        row(
            "6.7",
            "PING on a stream",
            frame(PING, 0, 1, &[0; 8]),
            PROTOCOL,
        ),
        row(
            "6.7",
            "PING of another length",
            frame(PING, 0, 0, &[0; 6]),
            SIZE,
        ),
        row(
            "6.7",
            "an acknowledgement of a PING that nobody sent",
            frame(PING, ACK, 0, &[7; 8]),
            Ignored,
        ),
        row(
            "6.8",
            "GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            PROTOCOL,
        ),
        row(
            "6.8",
            "a request, then GOAWAY",
            [get(1, CONFIG_MAPS), frame(GOAWAY, 0, 0, &[0; 8])].concat(),
            Answered,
        ),
        row(
            "7",
            "RST_STREAM with an unknown code",
            [open(), frame(RST_STREAM, 0, 1, &UNKNOWN)].concat(),
            Ignored,
        ),
    ]
}

fn settings() -> Vec<Row> {
    vec![
        row(
            "6.5",
            "SETTINGS on a stream",
            frame(SETTINGS, 0, 1, b""),
            PROTOCOL,
        ),
        row(
            "6.5",
            "an acknowledgement of SETTINGS with a payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            SIZE,
        ),
        row(
            "6.5",
            "SETTINGS of another length",
            frame(SETTINGS, 0, 0, &[0; 3]),
            SIZE,
        ),
        row("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), PROTOCOL),
        row(
            "6.5.2",
            "INITIAL_WINDOW_SIZE above the most",
            setting(4, 0x8000_0000),
            Connection(&[FLOW_CONTROL_ERROR, LIBRARY]),
        ),
        row(
            "6.5.2",
            "MAX_FRAME_SIZE below the least",
            setting(5, 16_383),
            PROTOCOL,
        ),
        row(
            "6.5.2",
            "MAX_FRAME_SIZE above the most",
            setting(5, 0x0100_0000),
            PROTOCOL,
        ),
    ]
}

fn windows() -> Vec<Row> {
    const MOST: u32 = 0x7fff_ffff;
    const INITIAL: u32 = 65_535;
    let update =
        |stream: u32, by: u32| frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes().as_slice());
    vec![
        row(
            "6.9",
            "WINDOW_UPDATE by 0 of the connection",
            update(0, 0),
            PROTOCOL,
        ),
        row(
            "6.9",
            "WINDOW_UPDATE by 0 of a stream",
            [open(), update(1, 0)].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        row(
            "6.9",
            "WINDOW_UPDATE of another length",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            SIZE,
        ),
        row(
            "6.9.1",
            "WINDOW_UPDATE of the connection above the most",
            update(0, MOST),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        row(
            "6.9.1",
            "WINDOW_UPDATE of a stream above the most",
            [open(), update(1, MOST)].concat(),
            Stream(&[FLOW_CONTROL_ERROR]),
        ),
        row(
            "6.9.2",
            "INITIAL_WINDOW_SIZE that takes a stream's window above the most",
            [open(), update(1, MOST - INITIAL), setting(4, INITIAL + 1)].concat(),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
    ]
}

fn header_blocks() -> Vec<Row> {
    let behind = |frame: Vec<u8>| [begun(END_STREAM), frame].concat();
    let fields = block(&usual("GET", CONFIG_MAPS));
    let (first, rest) = fields.split_at(fields.len() / 2);
    vec![
        row(
            "6.10",
            "a header block in three frames",
            [
                frame(HEADERS, END_STREAM, 1, first),
                frame(CONTINUATION, 0, 1, b""),
                frame(CONTINUATION, END_HEADERS, 1, rest),
            ]
            .concat(),
            Answered,
        ),
        row(
            "6.10",
            "CONTINUATION without HEADERS",
            frame(CONTINUATION, END_HEADERS, 1, b""),
            PROTOCOL,
        ),
        row(
            "6.10",
            "CONTINUATION behind the end of a header block",
            [get(1, WATCH), frame(CONTINUATION, END_HEADERS, 1, b"")].concat(),
            PROTOCOL,
        ),
        row(
            "6.10",
            "CONTINUATION on stream 0",
            behind(frame(CONTINUATION, END_HEADERS, 0, b"")),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "CONTINUATION of another stream",
            behind(frame(CONTINUATION, END_HEADERS, 3, b"")),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "PING within a header block",
            behind(frame(PING, 0, 0, &[0; 8])),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "DATA within a header block",
            behind(frame(DATA, END_STREAM, 1, b"x")),
            PROTOCOL,
        ),
        row(
            "6.10, 6.2",
            "HEADERS of another stream within a header block",
            behind(get(3, CONFIG_MAPS)),
            PROTOCOL,
        ),
    ]
}
