//! What RFC 9113 and RFC 7541 say that a client MUST do, as tables that `docs/http2.md` shows: what it refuses of a server, and what it sends
//! itself. Both clients are fed the same bytes and have to come to the same outcome, since the h2 crate is the oracle of the agent's own; where
//! they do not, the row says why.

mod compression;
mod messages;
mod recorded;
mod rows;
mod sends;

use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::h2wire::frame::code::*;
use crate::h2wire::frame::flag::{ACK, END_HEADERS, END_STREAM, PADDED};
use crate::h2wire::frame::kind::*;
use crate::h2wire::frame::{Frame, HEADER, PREFACE};
use crate::h2wire::testing::{field, frame};
use crate::proxy::attempt::body_error;
use crate::proxy::body::Upload;
use crate::proxy::keep_alive::Reads;

/// No request takes so long.
const HUNG: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// `:status: 200` in HPACK.
const OK: &[u8] = &[0x88];

fn settings() -> Settings {
    Settings {
        limits: Limits {
            stream_window: 70_000,
            connection_window: 200_000,
            frame: 1 << 14,
            header_list: 1 << 16,
            blocks_a_turn: usize::MAX,
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

/// How a request, or its connection, must end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The request has its answer.
    Answered,
    /// The request fails, and the server hears RST_STREAM or GOAWAY with one of these codes: an endpoint may take an error of a stream for one
    /// of the connection (§5.4.2).
    Request(&'static [u32]),
    /// The request fails, and the server hears GOAWAY with one of these codes (§5.4.1).
    Connection(&'static [u32]),
    /// The request fails. The server has ended it, and hears nothing.
    Gone,
}

/// What a server does once it has seen a request.
struct Row {
    section: &'static str,
    what: &'static str,
    /// All that it says.
    bytes: Vec<u8>,
    /// Of the request.
    method: Method,
    end: End,
    /// What the library does instead, and what is to be said of it.
    library: Option<(End, &'static str)>,
    /// It closes the connection behind all that.
    closes: bool,
}

/// What came of a request, and the codes of RST_STREAM and GOAWAY that its server heard.
struct Told {
    outcome: Outcome,
    reset: Option<u32>,
    goaway: Option<u32>,
}

impl Told {
    fn is(&self, end: End) -> bool {
        let failed = ending(&self.outcome).is_some();
        let among =
            |code: Option<u32>, codes: &[u32]| code.is_some_and(|code| codes.contains(&code));
        match end {
            End::Answered => !failed && self.goaway.is_none(),
            End::Request(codes) => {
                failed && (among(self.reset, codes) || among(self.goaway, codes))
            }
            End::Connection(codes) => failed && among(self.goaway, codes),
            End::Gone => failed,
        }
    }
}

/// One request to a server.
async fn told(engine: Http2, row: &Row) -> Told {
    let (mut sender, mut far) = connect(engine).await;
    let (bytes, closes) = (row.bytes.clone(), row.closes);
    let server = tokio::spawn(async move {
        read_request(&mut far).await;
        // A client that ends the connection does not hear the rest.
        let _ = far.write_all(&bytes).await;
        if closes {
            let _ = far.shutdown().await;
        }
        let mut rest = Vec::new();
        let _ = far.read_to_end(&mut rest).await;
        rest
    });
    let answered = async { outcome(sender.send_http(get(&row.method)).await).await };
    let answered = tokio::time::timeout(HUNG, answered).await;
    let outcome = answered.unwrap_or_else(|_| panic!("{}: it hangs", row.what));
    drop(sender);
    let heard = frames(&server.await.unwrap());
    let code = |payload: &[u8], at: usize| {
        let bytes = payload.get(at..at + 4).unwrap();
        u32::from_be_bytes(bytes.try_into().unwrap())
    };
    let reset = heard.iter().find(|(head, _)| head.kind == RST_STREAM);
    let goaway = heard.iter().find(|(head, _)| head.kind == GOAWAY);
    Told {
        outcome,
        reset: reset.map(|(_, payload)| code(payload, 0)),
        goaway: goaway
            .map(|(_, payload)| code(payload, 4))
            .filter(|code| *code != NO_ERROR),
    }
}

/// All whole frames.
fn frames(mut bytes: &[u8]) -> Vec<(Frame, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(head) = Frame::read(bytes) {
        let (payload, behind) = bytes[HEADER..].split_at(head.length);
        frames.push((head, payload.to_vec()));
        bytes = behind;
    }
    frames
}

async fn read_request(far: &mut DuplexStream) {
    far.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    while read_frame(far).await.kind != HEADERS {}
}

async fn read_frame(far: &mut DuplexStream) -> Frame {
    let mut header = [0; HEADER];
    far.read_exact(&mut header).await.unwrap();
    let head = Frame::read(&header).unwrap();
    far.read_exact(&mut vec![0; head.length]).await.unwrap();
    head
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

#[tokio::test]
async fn whatever_a_server_does_ends_as_it_must() {
    let mut wrong = Vec::new();
    for row in rows::rows() {
        let name = format!("{} {}", row.section, row.what);
        let own = told(Http2::Own, &row).await;
        let library = told(Http2::Library, &row).await;
        for (engine, seen, end) in [
            ("own", &own, row.end),
            (
                "library",
                &library,
                row.library.map_or(row.end, |(end, _)| end),
            ),
        ] {
            if !seen.is(end) {
                let Told {
                    outcome,
                    reset,
                    goaway,
                } = seen;
                wrong.push(format!(
                    "{name}, {engine}: expected {end:?}, saw {reset:?} {goaway:?} {outcome:?}"
                ));
            }
        }
        let both_answer = matches!(row.end, End::Answered) && row.library.is_none();
        if both_answer && own.outcome != library.outcome {
            wrong.push(format!(
                "{name}: {:?} and {:?}",
                own.outcome, library.outcome
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The tables as `docs/http2.md` has them.
fn tables() -> String {
    let mut text = String::from("| section | the server sends | what follows |\n|---|---|---|\n");
    for Row {
        section,
        what,
        end,
        library,
        ..
    } in rows::rows()
    {
        text += &format!("| {section} | {what} | {}", follows(end));
        if let Some((end, why)) = library {
            text += &format!("; with the library: {} ({why})", follows(end));
        }
        text += " |\n";
    }
    text += "\n| section | what the agent sends to a server |\n|---|---|\n";
    for (section, what, _) in sends::ROWS {
        text += &format!("| {section} | {what} |\n");
    }
    text
}

fn follows(end: End) -> String {
    match end {
        End::Answered => "the answer".to_owned(),
        End::Request(codes) => format!("the request fails: {}", names(codes)),
        End::Connection(codes) => format!("the connection ends: {}", names(codes)),
        End::Gone => "the request fails".to_owned(),
    }
}

fn names(codes: &[u32]) -> String {
    let names = codes.iter().map(|code| match *code {
        PROTOCOL_ERROR => "PROTOCOL_ERROR",
        FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        COMPRESSION_ERROR => "COMPRESSION_ERROR",
        _ => "another code",
    });
    names.collect::<Vec<_>>().join(" or ")
}

#[test]
fn the_documentation_shows_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http2.md");
    let docs = std::fs::read_to_string(path).unwrap_or_default();
    let tables = tables();
    assert!(docs.contains(&tables), "docs/http2.md lacks:\n{tables}");
}
