//! What RFC 9113 says that a server MUST do, as tables that `docs/http2.md` shows: how it ends what a client does wrong, and what it sends
//! itself. Raw frames are sent to an agent over TLS. No conformance suite is in a registry; the page says which were looked at.

mod answers;
mod compression;
mod frames;
mod messages;

use std::sync::Arc;

use mvp::config::Http2;
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, admin, patient, plane};
use mvp_tests::raw::{GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, block, frame};
use mvp_tests::sim::ControlPlane;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
/// The flags of HEADERS that are a whole request.
const WHOLE: u8 = END_STREAM | END_HEADERS;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;

/// What the HTTP library says where the RFC has a code of its own. The connection ends all the same.
const LIBRARY: u32 = PROTOCOL_ERROR;

/// How something must end. Where the RFC leaves a choice, or lets an endpoint end the whole connection for what concerns one stream
/// (§5.4.2), both are here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// GOAWAY with one of these codes, then the end of the connection (§5.4.1).
    Connection(&'static [u32]),
    /// The same, or without GOAWAY (§3.4).
    Gone(&'static [u32]),
    /// RST_STREAM or GOAWAY with one of these codes, or a 400 on that stream.
    Stream(&'static [u32]),
    /// RST_STREAM or GOAWAY with one of these codes, perhaps behind the beginning of an answer.
    Late(&'static [u32]),
    /// The answer to a PING that is sent behind it: nothing happened.
    Ignored,
    /// Stream 1 gets its answer.
    Answered,
    /// The same, where the RFC asks for something else: a kube-apiserver answers too, and a client behind an agent gets what it would
    /// get without one.
    AsServers,
}

use End::{Answered, AsServers, Connection, Gone, Ignored, Late, Stream};

/// What a client does.
struct Row {
    section: &'static str,
    what: &'static str,
    /// Behind the preface and SETTINGS, if it is not about these.
    bytes: Vec<u8>,
    end: End,
}

fn row(section: &'static str, what: &'static str, bytes: Vec<u8>, end: End) -> Row {
    Row {
        section,
        what,
        bytes,
        end,
    }
}

fn rows() -> Vec<Row> {
    let mut rows = frames::rows();
    rows.extend(messages::rows());
    rows
}

/// A whole request on a stream.
fn request(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &block(fields))
}

/// A good request's fields.
fn usual<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "https"),
        (":authority", "kubernetes"),
        (":path", path),
    ]
}

/// A good request.
fn get(stream: u32, path: &str) -> Vec<u8> {
    request(stream, &usual("GET", path))
}

/// A request on stream 1 whose body is still to come.
fn open() -> Vec<u8> {
    let fields = usual("POST", CONFIG_MAPS);
    frame(HEADERS, END_HEADERS, 1, &block(&fields))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

/// An agent whose connections are spoken to byte for byte.
struct Stage {
    /// Its servers end when it is dropped.
    _plane: ControlPlane,
    agent: TestAgent,
    tls: Arc<rustls::ClientConfig>,
}

/// What speaks to clients.
const ENGINES: [Http2; 2] = [Http2::Own, Http2::Library];

impl Stage {
    async fn new(engine: Http2) -> Self {
        let plane = plane(&[36, 36]).await;
        let agent = TestAgent::start_with(&plane, "cp-a", |config| {
            patient(config);
            config.serving_http2 = engine;
        })
        .await
        .unwrap();
        let tls = plane.pki().client_config(admin(&plane), &[]);
        Self {
            tls: tls.unwrap().into(),
            _plane: plane,
            agent,
        }
    }

    /// With preface and SETTINGS sent.
    async fn connect(&self) -> Raw {
        Raw::http2(self.agent.address, &self.tls).await.unwrap()
    }

    /// With nothing sent.
    async fn connect_silently(&self) -> Raw {
        let stream = tokio::net::TcpStream::connect(self.agent.address).await;
        Raw::over(stream.unwrap(), &self.tls, b"h2").await.unwrap()
    }

    /// Whether a good request on a new connection is answered.
    async fn serves(&self) -> bool {
        let mut raw = self.connect().await;
        raw.send(get(1, CONFIG_MAPS)).await.unwrap();
        end(&mut raw, Answered).await.0
    }
}

/// Whether it ended as it must, and what was seen.
async fn end(raw: &mut Raw, expected: End) -> (bool, String) {
    let mut seen = String::new();
    loop {
        let frame = match raw.frame().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return (matches!(expected, Gone(_)), format!("{seen} closed")),
            Err(silence) => return (false, format!("{seen} {silence}")),
        };
        let code = |at: usize| {
            let bytes = frame.payload.get(at..at + 4);
            bytes.map_or(u32::MAX, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        };
        match frame.kind {
            GOAWAY => {
                seen += &format!(" GOAWAY {}", code(4));
                let right = match expected {
                    Connection(codes) | Gone(codes) => {
                        codes.contains(&code(4)) && raw.until_closed().await.is_ok()
                    }
                    Stream(codes) | Late(codes) => codes.contains(&code(4)),
                    Ignored | Answered | AsServers => false,
                };
                return (right, seen);
            }
            RST_STREAM => {
                seen += &format!(" RST_STREAM {}", code(0));
                let right =
                    matches!(expected, Stream(codes) | Late(codes) if codes.contains(&code(0)));
                return (right, seen);
            }
            HEADERS => {
                // `:status` by its index: 200 or 400.
                let status = frame.payload.first();
                seen += &format!(" HEADERS {status:x?}");
                match expected {
                    Stream(_) => return (status == Some(&0x8c), seen),
                    Answered | AsServers => {
                        return (frame.stream == 1 && status == Some(&0x88), seen);
                    }
                    _ => {}
                }
            }
            PING if frame.flags & ACK != 0 && frame.payload == *b"answered" => {
                return (expected == Ignored, format!("{seen} PING"));
            }
            kind => seen += &format!(" {kind}"),
        }
    }
}

#[tokio::test]
async fn whatever_a_client_does_ends_as_it_must() {
    for engine in ENGINES {
        every_row(engine).await;
    }
}

async fn every_row(engine: Http2) {
    let stage = Stage::new(engine).await;
    let mut wrong = Vec::new();
    for row in rows() {
        let mut raw = match row.section {
            "3.4" => stage.connect_silently().await,
            _ => stage.connect().await,
        };
        raw.send(&row.bytes).await.unwrap();
        if row.end == Ignored {
            raw.send(frame(PING, 0, 0, b"answered")).await.unwrap();
        }
        let (right, seen) = end(&mut raw, row.end).await;
        if !right {
            let Row {
                section, what, end, ..
            } = &row;
            wrong.push(format!("{section} {what}: expected {end:?}, saw{seen}"));
        }
        assert!(
            stage.serves().await,
            "{}: nobody else is worse for it",
            row.what
        );
    }
    assert!(wrong.is_empty(), "{engine:?}: {}", wrong.join("\n"));
}

/// The tables as `docs/http2.md` has them.
fn tables() -> String {
    let mut text = String::from("| section | the client sends | what follows |\n|---|---|---|\n");
    for Row {
        section, what, end, ..
    } in rows()
    {
        let follows = match end {
            Connection(codes) => format!("the connection ends: {}", names(codes)),
            Gone(_) => "the connection ends".to_owned(),
            Stream(codes) => format!("the request fails: {}, or 400", names(codes)),
            Late(codes) => format!("the stream ends: {}", names(codes)),
            Ignored => "nothing".to_owned(),
            Answered => "the answer".to_owned(),
            AsServers => {
                "the answer; the RFC has the request fail, but Go's servers answer".to_owned()
            }
        };
        text += &format!("| {section} | {what} | {follows} |\n");
    }
    text += "\n| section | what the agent sends |\n|---|---|\n";
    for (section, what, _) in answers::ROWS {
        text += &format!("| {section} | {what} |\n");
    }
    text
}

fn names(codes: &[u32]) -> String {
    let names = codes.iter().map(|code| match *code {
        PROTOCOL_ERROR => "PROTOCOL_ERROR",
        FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        STREAM_CLOSED => "STREAM_CLOSED",
        FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        REFUSED_STREAM => "REFUSED_STREAM",
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
