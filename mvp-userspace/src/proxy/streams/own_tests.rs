//! Both servers are fed the same bytes and have to come to the same outcome: the h2 crate is the oracle of the agent's own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::h2wire::frame::code::*;
use crate::h2wire::frame::flag::{ACK, END_HEADERS, END_STREAM, PADDED, PRIORITY as WEIGHT};
use crate::h2wire::frame::kind::*;
use crate::h2wire::frame::{Frame, HEADER, PREFACE, setting};
use crate::proxy::idle::Streams;
use crate::proxy::keep_alive::Reads;
use crate::proxy::response::Download;

const HOUR: Duration = Duration::from_secs(3600);
pub(super) const WHOLE: u8 = END_HEADERS | END_STREAM;
pub(super) const GRANTED: Granted = Granted {
    limits: Limits {
        stream_window: 70_000,
        connection_window: 200_000,
        frame: 1 << 14,
        header_list: 8000,
        streams: 4,
    },
    pending_resets: 100,
};

/// What came of a connection.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// What the service saw, in any order.
    pub seen: Vec<String>,
    pub answers: BTreeMap<u32, Answer>,
    /// The code of GOAWAY, if it is an error.
    pub ended: Option<u32>,
    pub pongs: usize,
}

/// What came on a stream.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub status: Option<u16>,
    pub body: Vec<u8>,
    pub whole: bool,
    pub reset: Option<u32>,
}

type Seen = Arc<Mutex<Vec<String>>>;

/// Says, dropped, that a request was given up.
struct GivenUp(Seen);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.lock().unwrap().push("given up".into());
    }
}

fn texts(fields: &HeaderMap) -> Vec<String> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let texts = fields.iter();
    texts
        .map(|(name, value)| format!("{name}: {}", text(value)))
        .collect()
}

/// The service of all these tests: what it does is what the path says.
async fn answer(seen: Seen, request: Request<WireBody>) -> Response<InStream> {
    let (head, mut body) = request.into_parts();
    let fields = texts(&head.headers);
    let told = format!(
        "{} {} {fields:?} {}",
        head.method,
        head.uri,
        body.is_end_stream()
    );
    seen.lock().unwrap().push(told);
    let mut status = StatusCode::OK;
    let bytes = match head.uri.path() {
        "/never" => {
            let _given_up = GivenUp(seen);
            std::future::pending::<()>().await;
            unreachable!()
        }
        "/early" => Bytes::from_static(b"early"),
        "/empty" => Bytes::new(),
        "/large" => vec![b'l'; 100_000].into(),
        _ => {
            let (mut all, mut told) = (Vec::new(), String::new());
            while let Some(frame) = body.frame().await {
                match frame.map(http_body::Frame::into_data) {
                    Ok(Ok(chunk)) => all.extend_from_slice(&chunk),
                    Ok(Err(frame)) => {
                        told += &format!(" {:?}", texts(frame.trailers_ref().unwrap()))
                    }
                    Err(error) => {
                        told += &format!(" broke: {:?}", error.reset());
                        status = StatusCode::INTERNAL_SERVER_ERROR;
                        break;
                    }
                }
            }
            seen.lock()
                .unwrap()
                .push(format!("{} bytes{told}", all.len()));
            all.into()
        }
    };
    drop(body);
    let download = Download::whole(bytes, None);
    let mut answer = Response::new(InStream::new(download, Streams::new().begin()));
    *answer.status_mut() = status;
    answer
}

/// Serves a client that says `bytes`, and goes once all of it is answered that will be.
pub(super) async fn told(engine: Http2, bytes: &[u8]) -> Outcome {
    let (near, far) = duplex(1 << 22);
    let seen = Seen::default();
    let of_service = Arc::clone(&seen);
    let service = move |request| Box::pin(answer(Arc::clone(&of_service), request));
    let keep_alive = KeepAlive::new(Reads::default(), HOUR, HOUR);
    let serving = async move {
        let _ = Serving::new(engine, GRANTED, near, keep_alive, service).await;
    };
    let ((), received) = tokio::join!(serving, say(far, bytes));
    let mut outcome = read(&received);
    outcome.seen = std::mem::take(&mut seen.lock().unwrap());
    outcome.seen.sort();
    outcome
}

async fn say(mut far: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    if far.write_all(bytes).await.is_ok() {
        // What is written behind the answer to a PING was begun before it.
        for round in *b"12345" {
            let payload = [round; 8];
            if far.write_all(&frame(PING, 0, 0, &payload)).await.is_err() {
                break;
            }
            while !received.windows(8).any(|window| window == payload) {
                match far.read_buf(&mut received).await {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
    }
    let _ = far.shutdown().await;
    let _ = far.read_to_end(&mut received).await;
    received
}

fn read(received: &[u8]) -> Outcome {
    let mut outcome = Outcome::default();
    let mut rest = received;
    while let Some(head) = Frame::read(rest) {
        let (payload, behind) = rest[HEADER..].split_at(head.length);
        rest = behind;
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        let answer = outcome.answers.entry(head.stream).or_default();
        match head.kind {
            HEADERS => {
                assert!(head.has(END_HEADERS));
                answer.status = status(payload);
                answer.whole |= head.has(END_STREAM);
            }
            DATA => {
                answer.body.extend_from_slice(payload);
                answer.whole |= head.has(END_STREAM);
            }
            RST_STREAM => answer.reset = Some(code(0)),
            GOAWAY => outcome.ended = Some(code(4)).filter(|code| *code != NO_ERROR),
            // Those of `say` aside.
            PING if !payload.iter().all(|byte| b"12345".contains(byte)) => outcome.pongs += 1,
            _ => {}
        }
    }
    outcome.answers.remove(&0);
    outcome
        .answers
        .retain(|_, answer| *answer != Answer::default());
    outcome
}

/// `:status` is the first field; those that are answered here have an index (RFC 7541 appendix A), behind a table's size perhaps.
fn status(block: &[u8]) -> Option<u16> {
    let index = block.iter().find(|byte| **byte >= 0x80 && **byte != 0xe1);
    let known = [200, 204, 206, 304, 400, 404, 500];
    known
        .get(usize::from(index? & 0x7f).checked_sub(8)?)
        .copied()
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Frame {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    head.write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A field as a literal that stays out of the table.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend_from_slice(name.as_bytes());
    field.push(value.len() as u8);
    field.extend_from_slice(value.as_bytes());
    field
}

pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A request's block.
pub(super) fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let control = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "h"),
        (":path", path),
    ];
    [block(&control), block(more)].concat()
}

pub(super) fn script(frames: &[Vec<u8>]) -> Vec<u8> {
    [
        PREFACE.to_vec(),
        frame(SETTINGS, 0, 0, &[]),
        frames.concat(),
    ]
    .concat()
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &head("GET", path, &[]))
}

fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &head("POST", path, &[]))
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn set(name: u16, value: u32) -> Vec<u8> {
    let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &head("GET", "/", more))
}

fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, bytes)
}

fn last(stream: u32, bytes: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, bytes)
}

/// What a client may do, and what both servers make of it.
#[tokio::test]
async fn the_same_bytes_have_the_same_outcome() {
    let sized = |length: &str| {
        let head = head("POST", "/echo", &[("content-length", length)]);
        frame(HEADERS, END_HEADERS, 1, &head)
    };
    let cut = head("POST", "/echo", &[("a", "b")]);
    let weight = [&[0, 0, 0, 0, 9][..], &head("GET", "/", &[])].concat();
    let padded = [&[3][..], &head("GET", "/", &[]), b"..."].concat();
    let cases = [
        ("nothing", vec![]),
        ("a request", vec![get(1, "/")]),
        (
            "several",
            vec![get(1, "/"), get(3, "/empty"), get(9, "/?q=1")],
        ),
        (
            "HEAD",
            vec![frame(HEADERS, WHOLE, 1, &head("HEAD", "/empty", &[]))],
        ),
        (
            "OPTIONS *",
            vec![frame(HEADERS, WHOLE, 1, &head("OPTIONS", "*", &[]))],
        ),
        (
            "a method of its own",
            vec![frame(HEADERS, WHOLE, 1, &head("X-Y", "/", &[]))],
        ),
        (
            "no authority",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":path", "/"),
                    ("host", "h"),
                ]),
            )],
        ),
        (
            "CONNECT",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[(":method", "CONNECT"), (":authority", "h:1")]),
            )],
        ),
        (
            "fields",
            vec![with(&[
                ("a", "1"),
                ("a", "2"),
                ("cookie", "x=y"),
                ("te", "trailers"),
                ("b", ""),
            ])],
        ),
        (
            "a body",
            vec![
                post(1, "/echo"),
                data(1, b"ab"),
                data(1, b""),
                last(1, b"c"),
            ],
        ),
        ("a body of nothing", vec![post(1, "/echo"), last(1, b"")]),
        (
            "a body with a length",
            vec![sized("3"), data(1, b"ab"), last(1, b"c")],
        ),
        (
            "padding",
            vec![
                post(1, "/echo"),
                frame(DATA, PADDED | END_STREAM, 1, b"\x02hi.."),
            ],
        ),
        (
            "padding alone",
            vec![
                post(1, "/echo"),
                frame(DATA, PADDED, 1, b"\x02.."),
                last(1, b"x"),
            ],
        ),
        (
            "padded HEADERS",
            vec![frame(HEADERS, WHOLE | PADDED, 1, &padded)],
        ),
        (
            "weighed HEADERS",
            vec![frame(HEADERS, WHOLE | WEIGHT, 1, &weight)],
        ),
        (
            "trailers",
            vec![
                post(1, "/echo"),
                data(1, b"ab"),
                frame(HEADERS, WHOLE, 1, &block(&[("t", "v")])),
            ],
        ),
        (
            "trailers alone",
            vec![
                post(1, "/echo"),
                frame(HEADERS, WHOLE, 1, &block(&[("t", "v")])),
            ],
        ),
        (
            "continuation",
            vec![
                frame(HEADERS, 0, 1, &cut[..9]),
                frame(CONTINUATION, 0, 1, &cut[9..20]),
                frame(CONTINUATION, END_HEADERS, 1, &cut[20..]),
                last(1, b"x"),
            ],
        ),
        ("an early answer", vec![post(1, "/early"), data(1, b"x")]),
        (
            "an early answer and the rest",
            vec![post(1, "/early"), last(1, b"x")],
        ),
        ("given up", vec![get(1, "/never"), reset(1, CANCEL)]),
        (
            "given up in the upload",
            vec![post(1, "/echo"), data(1, b"x"), reset(1, CANCEL)],
        ),
        (
            "given up with no error",
            vec![get(1, "/never"), reset(1, NO_ERROR)],
        ),
        (
            "given up behind the answer",
            vec![get(1, "/"), reset(1, CANCEL)],
        ),
        (
            "goes while asking",
            vec![get(1, "/never"), post(3, "/echo")],
        ),
        (
            "a window",
            vec![set(setting::INITIAL_WINDOW_SIZE, 10), get(1, "/large")],
        ),
        (
            "a window that grows",
            vec![
                set(setting::INITIAL_WINDOW_SIZE, 10),
                get(1, "/large"),
                update(1, 5),
            ],
        ),
        (
            "windows for all",
            vec![get(1, "/large"), update(1, 100_000), update(0, 100_000)],
        ),
        (
            "the connection's window",
            vec![set(setting::INITIAL_WINDOW_SIZE, 1 << 20), get(1, "/large")],
        ),
        ("PING", vec![frame(PING, 0, 0, b"whatever"), get(1, "/")]),
        (
            "PRIORITY",
            vec![frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]), get(1, "/")],
        ),
        (
            "unknown frames",
            vec![frame(0xbb, 0xff, 7, b"?"), get(1, "/")],
        ),
        ("unknown settings", vec![set(99, 1), get(1, "/")]),
        (
            "a smaller table",
            vec![set(setting::HEADER_TABLE_SIZE, 0), get(1, "/")],
        ),
        ("no push", vec![set(setting::ENABLE_PUSH, 0), get(1, "/")]),
        ("GOAWAY", vec![get(1, "/"), frame(GOAWAY, 0, 0, &[0; 8])]),
        (
            "too many streams",
            [1, 3, 5, 7, 9].map(|id| get(id, "/never")).to_vec(),
        ),
        (
            "as many as there may be, again",
            [
                get(1, "/never"),
                get(3, "/never"),
                get(5, "/never"),
                get(7, "/never"),
                reset(1, CANCEL),
                get(9, "/"),
            ]
            .to_vec(),
        ),
        // What no client may do.
        (
            "no method",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[(":scheme", "https"), (":path", "/")]),
            )],
        ),
        (
            "no scheme",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[(":method", "GET"), (":path", "/")]),
            )],
        ),
        (
            "an empty path",
            vec![frame(HEADERS, WHOLE, 1, &head("GET", "", &[]))],
        ),
        ("a status", vec![with(&[(":status", "200")])]),
        ("connection", vec![with(&[("connection", "close")])]),
        (
            "transfer-encoding",
            vec![with(&[("transfer-encoding", "chunked")])],
        ),
        ("TE", vec![with(&[("te", "gzip")])]),
        (
            "a path behind a field",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[
                    (":method", "GET"),
                    (":scheme", "https"),
                    ("a", "b"),
                    (":path", "/"),
                ]),
            )],
        ),
        (
            "a path twice",
            vec![frame(
                HEADERS,
                WHOLE,
                1,
                &block(&[
                    (":method", "GET"),
                    (":scheme", "https"),
                    (":path", "/"),
                    (":path", "/"),
                ]),
            )],
        ),
        (
            "CONNECT with a path",
            vec![frame(HEADERS, WHOLE, 1, &head("CONNECT", "/", &[]))],
        ),
        ("a length that is none", vec![sized("x"), last(1, b"x")]),
        (
            "two lengths",
            vec![with(&[("content-length", "0"), ("content-length", "1")])],
        ),
        (
            "a length without a body",
            vec![with(&[("content-length", "1")])],
        ),
        ("more than the length", vec![sized("1"), last(1, b"xyz")]),
        ("less than the length", vec![sized("9"), last(1, b"x")]),
        (
            "trailers that go on",
            vec![
                post(1, "/echo"),
                frame(HEADERS, END_HEADERS, 1, &block(&[("t", "v")])),
            ],
        ),
        ("DATA of nobody", vec![data(1, b"x")]),
        ("DATA on stream 0", vec![data(0, b"x")]),
        (
            "DATA behind a reset",
            vec![post(1, "/never"), reset(1, CANCEL), data(1, b"x")],
        ),
        ("HEADERS on stream 0", vec![get(0, "/")]),
        ("HEADERS on an even stream", vec![get(2, "/")]),
        ("RST_STREAM of nobody", vec![reset(1, CANCEL)]),
        ("WINDOW_UPDATE of nobody", vec![update(1, 1)]),
        ("WINDOW_UPDATE by nothing", vec![update(0, 0)]),
        (
            "WINDOW_UPDATE of a stream by nothing",
            vec![get(1, "/never"), update(1, 0)],
        ),
        ("a window above all", vec![update(0, 0x7fff_ffff)]),
        (
            "a stream's window above all",
            vec![get(1, "/never"), update(1, 0x7fff_ffff)],
        ),
        (
            "too large a first window",
            vec![set(setting::INITIAL_WINDOW_SIZE, 1 << 31)],
        ),
        ("too small a frame", vec![set(setting::MAX_FRAME_SIZE, 1)]),
        ("ENABLE_PUSH of 2", vec![set(setting::ENABLE_PUSH, 2)]),
        ("SETTINGS on a stream", vec![frame(SETTINGS, 0, 1, &[])]),
        (
            "PUSH_PROMISE",
            vec![
                get(1, "/never"),
                frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            ],
        ),
        ("PING on a stream", vec![frame(PING, 0, 1, &[0; 8])]),
        (
            "CONTINUATION of nothing",
            vec![frame(CONTINUATION, END_HEADERS, 1, &[0x82])],
        ),
        (
            "a frame within a block",
            vec![
                frame(HEADERS, END_STREAM, 1, &[0x82]),
                frame(PING, 0, 0, &[0; 8]),
            ],
        ),
        (
            "an index of nothing",
            vec![frame(HEADERS, WHOLE, 1, &[0xfe])],
        ),
        (
            "a PING's acknowledgement",
            vec![frame(PING, ACK, 0, b"whatever"), get(1, "/")],
        ),
    ];
    assert!(cases.len() > 50);
    let mut differ = Vec::new();
    for (name, frames) in cases {
        let bytes = script(&frames);
        let library = told(Http2::Library, &bytes).await;
        let own = told(Http2::Own, &bytes).await;
        if own != library {
            differ.push(format!("{name}:\n  own     {own:?}\n  library {library:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
