//! Both servers are fed the same bytes and have to come to the same outcome: the h2 crate is the oracle of the agent's own.

mod cases;
mod generated;
mod recorded;

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
use crate::h2wire::testing::{field, frame};
use crate::proxy::idle::Streams;
use crate::proxy::keep_alive::Reads;
use crate::proxy::response::Download;

const HOUR: Duration = Duration::from_secs(3600);
const WHOLE: u8 = END_HEADERS | END_STREAM;
const GRANTED: Granted = Granted {
    limits: Limits {
        stream_window: 70_000,
        connection_window: 200_000,
        frame: 1 << 14,
        header_list: 8000,
        streams: 4,
        // When a reset comes between a request and its answer, it is no matter of turns.
        blocks_a_turn: usize::MAX,
    },
    pending_resets: 100,
};

/// What came of a connection.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// What the service saw, in any order.
    seen: Vec<String>,
    pub answers: BTreeMap<u32, Answer>,
    /// The code of GOAWAY, if it is an error.
    pub ended: Option<u32>,
    pub pongs: usize,
}

/// What came on a stream.
#[derive(Debug, Default, PartialEq)]
struct Answer {
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
        .map(|(name, value)| match value.is_sensitive() {
            true => format!("{name}: {} (never indexed)", text(value)),
            false => format!("{name}: {}", text(value)),
        })
        .collect()
}

/// The service of all these tests: what it does is what the path says.
async fn answer(seen: Seen, request: Request<WireBody>) -> Response<InStream> {
    let (head, mut body) = request.into_parts();
    let fields = texts(&head.headers);
    let told = format!("{} {} {fields:?}", head.method, head.uri);
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

/// What a client says.
struct Client<'a> {
    bytes: &'a [u8],
    /// So many of the bytes come first, and the others when the server has answered a PING.
    greeting: usize,
    /// So many PINGs, one behind the other, until it goes. A turn of the server has eight answers at most.
    rounds: u8,
}

/// Serves a client that says `bytes`, and goes once all of it is answered that will be.
async fn told(engine: Http2, bytes: &[u8]) -> Outcome {
    let client = Client {
        bytes,
        greeting: 0,
        rounds: 5,
    };
    served(engine, GRANTED, &client).await
}

async fn served(engine: Http2, granted: Granted, client: &Client<'_>) -> Outcome {
    let (near, far) = duplex(1 << 22);
    let seen = Seen::default();
    let of_service = Arc::clone(&seen);
    let service = move |request| Box::pin(answer(Arc::clone(&of_service), request));
    let keep_alive = KeepAlive::new(Reads::default(), HOUR, HOUR);
    let serving = async move {
        let _ = Serving::new(engine, granted, near, keep_alive, service).await;
    };
    let ((), received) = tokio::join!(serving, say(far, client));
    let mut outcome = read(&received);
    outcome.seen = std::mem::take(&mut seen.lock().unwrap());
    outcome.seen.sort();
    outcome
}

async fn say(mut far: DuplexStream, client: &Client<'_>) -> Vec<u8> {
    let mut received = Vec::new();
    let (greeting, rest) = client.bytes.split_at(client.greeting);
    let mut broke = false;
    if !greeting.is_empty() {
        broke |= far.write_all(greeting).await.is_err();
        broke |= !round(&mut far, 0, &mut received).await;
    }
    if !broke && far.write_all(rest).await.is_ok() {
        // What is written behind the answer to a PING was begun before it.
        for number in 1..=client.rounds {
            if !round(&mut far, number, &mut received).await {
                break;
            }
        }
    }
    let _ = far.shutdown().await;
    let _ = far.read_to_end(&mut received).await;
    received
}

/// Sends a PING, and reads up to its answer. False: the connection has ended.
async fn round(far: &mut DuplexStream, number: u8, received: &mut Vec<u8>) -> bool {
    let from = received.len();
    let payload = [number; 8];
    if far.write_all(&frame(PING, 0, 0, &payload)).await.is_err() {
        return false;
    }
    let answer = frame(PING, ACK, 0, &payload);
    loop {
        let since = received.get(from.saturating_sub(answer.len())..);
        if since.is_some_and(|since| since.windows(answer.len()).any(|bytes| bytes == answer)) {
            return true;
        }
        if !matches!(far.read_buf(received).await, Ok(1..)) {
            return false;
        }
    }
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
            // What is sent on it afterwards may be answered once more.
            RST_STREAM => {
                answer.reset.get_or_insert(code(0));
            }
            GOAWAY => outcome.ended = Some(code(4)).filter(|code| *code != NO_ERROR),
            // Those of `say` aside.
            PING if !payload.iter().all(|byte| *byte == payload[0]) => outcome.pongs += 1,
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

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}

/// A request's block.
fn head(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let control = [
        (":method", method),
        (":scheme", "https"),
        (":authority", "h"),
        (":path", path),
    ];
    [block(&control), block(more)].concat()
}

fn script(frames: &[Vec<u8>]) -> Vec<u8> {
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
