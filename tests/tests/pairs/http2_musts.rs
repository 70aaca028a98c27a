//! What RFC 9113 says that a server MUST do with a client's breach, as a table. No conformance suite is to be had as a package of
//! Rust, Python or JavaScript; h2spec, which the rows follow, is a Go program.

use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures::{CONFIG_MAPS, admin, patient, plane};
use mvp_tests::raw::{CONTINUATION, GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, block, frame};

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END: u8 = 5;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;

/// What the HTTP library says where the RFC has a code of its own. The connection ends all the same.
const LIBRARY: u32 = PROTOCOL_ERROR;

/// How a breach must end. Where the RFC leaves a choice, or lets an endpoint end the whole connection for what concerns one stream
/// (§5.4.2), both are here.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// GOAWAY with one of these codes.
    Connection(&'static [u32]),
    /// RST_STREAM or GOAWAY with one of these codes, or a 400 on that stream.
    Stream(&'static [u32]),
    /// The answer to a PING that is sent behind it: nothing happened.
    Ignored,
}

use End::{Connection, Ignored, Stream};

fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END, 1, &block(fields))
}

/// A good request with more fields, and some of its own left out.
fn with(more: &[(&str, &str)], without: &str) -> Vec<u8> {
    let usual = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "kubernetes"),
        (":path", CONFIG_MAPS),
    ];
    let kept = usual.into_iter().filter(|(name, _)| *name != without);
    request(&kept.chain(more.iter().copied()).collect::<Vec<_>>())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat(),
    )
}

fn rows() -> Vec<(&'static str, Vec<u8>, End)> {
    let get = || with(&[], "");
    let open = || {
        // A request whose body is still to come.
        let fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "k"),
            (":path", CONFIG_MAPS),
        ];
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    let protocol = Connection(&[PROTOCOL_ERROR]);
    vec![
        (
            "4.1 unknown frame types are ignored",
            frame(0x16, 0, 0, b"x"),
            Ignored,
        ),
        (
            "4.3 a header block that cannot be decoded",
            frame(HEADERS, END, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "5.1 DATA on an idle stream",
            frame(DATA, 1, 1, b"x"),
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        (
            "5.1 RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0; 4]),
            protocol,
        ),
        (
            "5.1 WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            protocol,
        ),
        (
            "5.1.1 an even stream",
            frame(
                HEADERS,
                END,
                2,
                &block(&[(":method", "GET"), (":scheme", "https"), (":path", "/")]),
            ),
            protocol,
        ),
        (
            "5.1.1 a stream below one before",
            [
                frame(
                    HEADERS,
                    END,
                    5,
                    &block(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":authority", "k"),
                        (":path", "/livez"),
                    ]),
                ),
                frame(
                    HEADERS,
                    END,
                    3,
                    &block(&[
                        (":method", "GET"),
                        (":scheme", "https"),
                        (":authority", "k"),
                        (":path", "/livez"),
                    ]),
                ),
            ]
            .concat(),
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        ("6.1 DATA on stream 0", frame(DATA, 0, 0, b"x"), protocol),
        (
            "6.1 more padding than payload",
            [open(), frame(DATA, 8, 1, &[9, 0])].concat(),
            protocol,
        ),
        (
            "6.2 HEADERS on stream 0",
            frame(HEADERS, END, 0, &block(&[(":method", "GET")])),
            protocol,
        ),
        (
            "6.3 PRIORITY of another length",
            [open(), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
            Stream(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        (
            "6.4 RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0; 4]),
            protocol,
        ),
        (
            "6.4 RST_STREAM of another length",
            [open(), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            Connection(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        (
            "6.5 SETTINGS on a stream",
            frame(SETTINGS, 0, 1, b""),
            protocol,
        ),
        (
            "6.5 an acknowledgement with a payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        (
            "6.5 SETTINGS of another length",
            frame(SETTINGS, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        ("6.5.2 ENABLE_PUSH of 2", setting(2, 2), protocol),
        (
            "6.5.2 a window above the most",
            setting(4, 0x8000_0000),
            Connection(&[FLOW_CONTROL_ERROR, LIBRARY]),
        ),
        (
            "6.5.2 a frame size below the least",
            setting(5, 16_383),
            protocol,
        ),
        (
            "6.5.2 a frame size above the most",
            setting(5, 0x0100_0000),
            protocol,
        ),
        (
            "6.5.2 an unknown setting is ignored",
            setting(0x99, 1),
            Ignored,
        ),
        ("6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), protocol),
        (
            "6.7 PING of another length",
            frame(PING, 0, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        (
            "6.8 GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            protocol,
        ),
        (
            "6.9 WINDOW_UPDATE by 0 of the connection",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            protocol,
        ),
        (
            "6.9 WINDOW_UPDATE by 0 of a stream",
            [open(), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of another length",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE_ERROR, LIBRARY]),
        ),
        (
            "6.9.1 a window that overflows",
            frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.10 CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, b""),
            protocol,
        ),
        (
            "6.10 another frame in a header block",
            [
                frame(HEADERS, 0, 1, &block(&[(":method", "GET")])),
                frame(PING, 0, 0, &[0; 8]),
            ]
            .concat(),
            protocol,
        ),
        (
            "8.1.1 less DATA than Content-Length",
            [
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &block(&[
                        (":method", "POST"),
                        (":scheme", "https"),
                        (":authority", "k"),
                        (":path", CONFIG_MAPS),
                        ("content-length", "9"),
                    ]),
                ),
                frame(DATA, 1, 1, b"x"),
            ]
            .concat(),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.1 a name in capitals",
            with(&[("X-A", "b")], ""),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.2 Connection",
            with(&[("connection", "close")], ""),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.2.2 TE other than trailers",
            with(&[("te", "gzip")], ""),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3 an unknown pseudo header",
            with(&[(":who", "me")], ""),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3 a pseudo header of answers",
            with(&[(":status", "200")], ""),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3 a pseudo header behind another field",
            request(&[
                (":method", "GET"),
                (":scheme", "https"),
                ("a", "b"),
                (":path", "/livez"),
            ]),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3.1 no method",
            with(&[], ":method"),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3.1 no scheme",
            with(&[], ":scheme"),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3.1 no path",
            with(&[], ":path"),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3.1 an empty path",
            with(&[(":path", "")], ":path"),
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "8.3.1 a path twice",
            with(&[(":path", "/livez")], ""),
            Stream(&[PROTOCOL_ERROR]),
        ),
        ("a good request", get(), Ignored),
    ]
}

/// What happened, as one of the ends; `None` if nothing did that a row may expect.
async fn end(raw: &mut Raw, expected: End) -> (bool, String) {
    let mut seen = String::new();
    loop {
        let frame = match raw.frame().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return (false, format!("{seen} closed")),
            Err(silence) => return (false, format!("{seen} {silence}")),
        };
        let code = |at: usize| {
            let bytes = frame.payload.get(at..at + 4);
            bytes.map_or(u32::MAX, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
        };
        match frame.kind {
            GOAWAY => {
                let (Connection(codes) | Stream(codes)) = expected else {
                    return (false, format!("{seen} GOAWAY {}", code(4)));
                };
                return (
                    codes.contains(&code(4)),
                    format!("{seen} GOAWAY {}", code(4)),
                );
            }
            RST_STREAM => {
                let meant = matches!(expected, Stream(codes) if codes.contains(&code(0)));
                return (meant, format!("{seen} RST_STREAM {}", code(0)));
            }
            // `:status: 400` by its index.
            HEADERS if matches!(expected, Stream(_)) => {
                return (
                    frame.payload.first() == Some(&0x8c),
                    format!("{seen} HEADERS"),
                );
            }
            PING if frame.flags & ACK != 0 && frame.payload == *b"answered" => {
                return (expected == Ignored, format!("{seen} PING"));
            }
            kind => seen += &format!(" {kind}"),
        }
    }
}

#[tokio::test]
async fn every_breach_ends_as_it_must() {
    let plane = plane(&[36, 36]).await;
    let agent = TestAgent::start_with(&plane, "cp-a", patient)
        .await
        .unwrap();
    let tls = plane
        .pki()
        .client_config(admin(&plane), &[])
        .unwrap()
        .into();
    let mut wrong = Vec::new();
    for (name, bytes, expected) in rows() {
        let mut raw = Raw::http2(agent.address, &tls).await.unwrap();
        raw.send(&bytes).await.unwrap();
        if expected == Ignored {
            raw.send_frame(PING, 0, 0, b"answered").await.unwrap();
        }
        let (right, seen) = end(&mut raw, expected).await;
        if !right {
            wrong.push(format!("{name}: expected {expected:?}, saw{seen}"));
        }
        // And nobody else is worse for it.
        let mut other = Raw::http2(agent.address, &tls).await.unwrap();
        other.send(with(&[], "")).await.unwrap();
        loop {
            let frame = other
                .frame()
                .await
                .unwrap()
                .expect("another connection ended");
            if frame.kind == HEADERS {
                assert_eq!(frame.payload[0], 0x88, "{name}");
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
