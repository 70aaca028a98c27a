//! Both clients are fed the same bytes and have to come to the same outcome: the h2 crate is the oracle of the agent's own.

use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::h2wire::testing::{field, frame};
use crate::proxy::attempt::body_error;
use crate::proxy::body::Upload;
use crate::proxy::keep_alive::Reads;

const HOUR: Duration = Duration::from_secs(3600);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// `:status: 200` in HPACK.
const OK: &[u8] = &[0x88];

fn settings() -> Settings {
    Settings {
        limits: Limits {
            stream_window: 70_000,
            connection_window: 200_000,
            frame: 1 << 14,
            header_list: 1 << 16,
            streams: 100,
        },
        remembered_resets: 100,
        keep_alive: KeepAlive::new(Reads::default(), HOUR, HOUR),
    }
}

/// A connection with its other end, which says nothing by itself.
pub(in crate::proxy) async fn connect(engine: Http2) -> (Sender, DuplexStream) {
    let (near, far) = duplex(1 << 20);
    let (sender, driver) = handshake(engine, near, settings()).await.unwrap();
    tokio::spawn(driver);
    (sender, far)
}

fn get(method: &Method) -> Request<UploadBody> {
    let mut request = Request::new(Upload::Empty.body(None));
    *request.method_mut() = method.clone();
    *request.uri_mut() = "https://server/apis?limit=1".parse().unwrap();
    request
}

fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = OK.to_vec();
    for (name, value) in fields {
        block.extend(field(name, value));
    }
    block
}

/// What came of a request: the answer, and how its body ended.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome {
    head: Result<(u16, Vec<(String, String)>), Ending>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    pub broke: Option<Ending>,
}

fn texts(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields
        .iter()
        .map(|(name, value)| (name.to_string(), text(value)))
        .collect()
}

pub(super) async fn outcome(answer: Result<Response<WireBody>, AttemptError>) -> Outcome {
    let mut outcome = Outcome {
        head: Ok((0, Vec::new())),
        body: Vec::new(),
        trailers: Vec::new(),
        broke: None,
    };
    let mut answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            outcome.head = Err(error.ending);
            return outcome;
        }
    };
    outcome.head = Ok((answer.status().as_u16(), texts(answer.headers())));
    while let Some(frame) = answer.body_mut().frame().await {
        match frame {
            Ok(frame) => match frame.into_data() {
                Ok(chunk) => outcome.body.extend_from_slice(&chunk),
                Err(frame) => outcome.trailers = texts(&frame.into_trailers().unwrap()),
            },
            Err(error) => {
                outcome.broke = Some(body_error(error).ending);
                break;
            }
        }
    }
    outcome
}

/// One request to a server that says `bytes` once it has seen the request, and closes then.
async fn told(engine: Http2, method: &Method, bytes: &[u8]) -> Outcome {
    let (mut sender, mut far) = connect(engine).await;
    let bytes = bytes.to_vec();
    let server = tokio::spawn(async move {
        read_request(&mut far).await;
        // A client that ends the connection does not hear the rest.
        let _ = far.write_all(&bytes).await;
        let _ = far.shutdown().await;
        let mut rest = Vec::new();
        let _ = far.read_to_end(&mut rest).await;
    });
    let answer = sender.send_http(get(method)).await;
    let outcome = outcome(answer).await;
    drop(sender);
    server.await.unwrap();
    outcome
}

async fn read_request(far: &mut DuplexStream) {
    far.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut header = [0; 9];
        far.read_exact(&mut header).await.unwrap();
        let [_, a, b, kind, ..] = header;
        let mut payload = vec![0; usize::from(a) << 8 | usize::from(b)];
        far.read_exact(&mut payload).await.unwrap();
        if kind == HEADERS {
            return;
        }
    }
}

async fn both(method: &Method, name: &str, bytes: &[u8]) -> Outcome {
    let library = told(Http2::Library, method, bytes).await;
    let own = told(Http2::Own, method, bytes).await;
    assert_eq!(own, library, "{name}");
    own
}

/// How it ended, if not well.
fn ending(outcome: &Outcome) -> Option<Ending> {
    outcome.head.as_ref().err().copied().or(outcome.broke)
}

fn script(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = frame(SETTINGS, 0, 0, &[]);
    frames
        .iter()
        .for_each(|frame| bytes.extend_from_slice(frame));
    bytes
}

/// Every rule that an answer may break or use, and what both clients make of it.
#[tokio::test]
async fn the_same_bytes_have_the_same_outcome() {
    let ends = END_HEADERS | END_STREAM;
    let answered = |block: &[u8]| frame(HEADERS, END_HEADERS, 1, block);
    let whole = |block: &[u8]| frame(HEADERS, ends, 1, block);
    let data = |bytes: &[u8]| frame(DATA, 0, 1, bytes);
    let last = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let (get, head_method) = (Method::GET, Method::HEAD);
    let broken = |outcome: &Outcome| ending(outcome).is_some();
    for (name, frames) in [
        ("whole", vec![whole(OK)]),
        (
            "body",
            vec![
                answered(&head(&[("content-length", "5")])),
                data(b"hel"),
                last(b"lo"),
            ],
        ),
        (
            "padded",
            vec![
                answered(OK),
                frame(DATA, PADDED | END_STREAM, 1, b"\x02hi.."),
            ],
        ),
        (
            "padding alone",
            vec![answered(OK), frame(DATA, PADDED | END_STREAM, 1, b"\x02..")],
        ),
        (
            "empty frames",
            vec![answered(OK), data(b""), data(b"x"), data(b""), last(b"")],
        ),
        (
            "trailers",
            vec![answered(OK), data(b"x"), whole(&field("grpc-status", "0"))],
        ),
        (
            "interim",
            vec![answered(&[&[0x08, 3][..], b"103"].concat()), whole(OK)],
        ),
        (
            "continuation",
            vec![
                frame(HEADERS, END_STREAM, 1, OK),
                frame(CONTINUATION, 0, 1, &field("a", "b")[..2]),
                frame(CONTINUATION, END_HEADERS, 1, &field("a", "b")[2..]),
            ],
        ),
        ("unknown frame", vec![frame(0xbb, 0xff, 1, b"?"), whole(OK)]),
        (
            "priority",
            vec![frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), whole(OK)],
        ),
        ("ping", vec![frame(PING, 0, 0, b"12345678"), whole(OK)]),
        (
            "window",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 9]), whole(OK)],
        ),
        (
            "unknown setting",
            vec![frame(SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]), whole(OK)],
        ),
        (
            "two lengths alike",
            vec![answered(&head(&[("content-length", "2")])), last(b"hi")],
        ),
        (
            "goaway that spares it",
            vec![frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]), whole(OK)],
        ),
        (
            "no error behind the answer",
            vec![whole(OK), frame(RST_STREAM, 0, 1, &[0, 0, 0, 0])],
        ),
    ] {
        let seen = both(&get, name, &script(&frames)).await;
        assert!(!broken(&seen), "{name}: {seen:?}");
    }
    let long_length = [("content-length", "500")];
    let seen = both(&head_method, "HEAD", &script(&[whole(&head(&long_length))])).await;
    assert!(!broken(&seen), "{seen:?}");

    for (name, frames) in [
        ("closed", vec![]),
        ("closed in the body", vec![answered(OK), data(b"x")]),
        ("refused", vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 7])]),
        (
            "protocol error",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 1])],
        ),
        (
            "internal error",
            vec![frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])],
        ),
        (
            "cancelled",
            vec![
                answered(OK),
                data(b"x"),
                frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            ],
        ),
        ("goaway", vec![frame(GOAWAY, 0, 0, &[0; 8])]),
        (
            "goaway with a code",
            vec![frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11])],
        ),
        ("no status", vec![whole(&field("a", "b"))]),
        ("status twice", vec![whole(&[0x88, 0x88])]),
        (
            "status behind a field",
            vec![whole(&[&field("a", "b")[..], OK].concat())],
        ),
        (
            "connection field",
            vec![whole(&head(&[("connection", "close")]))],
        ),
        (
            "transfer-encoding",
            vec![whole(&head(&[("transfer-encoding", "chunked")]))],
        ),
        (
            "too much",
            vec![answered(&head(&[("content-length", "1")])), last(b"hi")],
        ),
        (
            "trailers that go on",
            vec![answered(OK), answered(&field("a", "b"))],
        ),
        (
            "push",
            vec![frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])],
        ),
        ("data of no stream", vec![frame(DATA, 0, 0, b"x")]),
        (
            "data of a stream that nobody began",
            vec![frame(DATA, 0, 7, b"x")],
        ),
        ("ping of a stream", vec![frame(PING, 0, 1, b"12345678")]),
        ("ping of a wrong size", vec![frame(PING, 0, 0, b"1234567")]),
        (
            "settings of a wrong size",
            vec![frame(SETTINGS, 0, 0, &[0; 5])],
        ),
        (
            "settings ack with a payload",
            vec![frame(SETTINGS, ACK, 0, &[0; 6])],
        ),
        ("settings of a stream", vec![frame(SETTINGS, 0, 1, &[])]),
        (
            "window of 2^31",
            vec![frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])],
        ),
        (
            "small frames",
            vec![frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 1, 0])],
        ),
        (
            "window update by nothing",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0; 4])],
        ),
        (
            "window overflow",
            vec![frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff])],
        ),
        (
            "reset of a wrong size",
            vec![frame(RST_STREAM, 0, 1, &[0; 3])],
        ),
        (
            "frame too large",
            vec![answered(OK), data(&[0; (1 << 14) + 1])],
        ),
        (
            "more padding than frame",
            vec![answered(OK), frame(DATA, PADDED, 1, b"\x09hi")],
        ),
        ("no index", vec![whole(&[0x88, 0xfe])]),
        ("a cut block", vec![whole(&[0x88, 0x00, 0x05, b'a'])]),
        (
            "continuation of nothing",
            vec![frame(CONTINUATION, END_HEADERS, 1, OK)],
        ),
        (
            "a frame within a block",
            vec![
                frame(HEADERS, END_STREAM, 1, OK),
                frame(PING, 0, 0, b"12345678"),
            ],
        ),
        ("goaway of a stream", vec![frame(GOAWAY, 0, 1, &[0; 8])]),
        ("goaway of a wrong size", vec![frame(GOAWAY, 0, 0, &[0; 7])]),
    ] {
        let seen = both(&get, name, &script(&frames)).await;
        assert!(broken(&seen), "{name}: {seen:?}");
    }
    for (name, bytes) in [
        ("HTTP/1.1", &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..]),
        ("silence", b""),
    ] {
        let seen = both(&get, name, bytes).await;
        assert!(broken(&seen), "{name}: {seen:?}");
    }
}

/// Where the two differ, and why.
#[tokio::test]
async fn where_the_agents_own_client_is_another() {
    let answered = |block: &[u8]| frame(HEADERS, END_HEADERS, 1, block);
    let last = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let malformed = Some(Ending::AnswerMalformed);
    let connection = Some(Ending::ConnectionMalformed);
    for (bytes, own, library) in [
        // RFC 9113 §8.3: an answer with another pseudo-header than `:status` is malformed.
        (
            script(&[frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x88, 0x82])]),
            malformed,
            None,
        ),
        // It is about one stream only, and the connection has others.
        (script(&[last(b"hi")]), malformed, connection),
        // §3.4: the server's preface is SETTINGS.
        (
            frame(PING, 0, 0, b"12345678"),
            connection,
            Some(Ending::ConnectionBroken),
        ),
        // The same ending; the bytes that came are passed on before it.
        (
            script(&[answered(&head(&[("content-length", "5")])), last(b"hi")]),
            malformed,
            malformed,
        ),
    ] {
        let seen = told(Http2::Own, &Method::GET, &bytes).await;
        assert_eq!(ending(&seen), own, "{seen:?}");
        let seen = told(Http2::Library, &Method::GET, &bytes).await;
        assert_eq!(ending(&seen), library, "{seen:?}");
    }
}
