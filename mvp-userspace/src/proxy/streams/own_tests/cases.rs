//! One rule each.

use super::*;

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
        ("a window above all", vec![update(0, 0x7fff_ffff)]),
        (
            "a stream's window above all",
            vec![get(1, "/never"), update(1, 0x7fff_ffff)],
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

/// Where the two differ, and why.
#[tokio::test]
async fn where_the_agents_own_server_is_another() {
    let sized = head("POST", "/echo", &[("content-length", "9")]);
    let long = "x".repeat(120);
    let reset = |code| Answer {
        reset: Some(code),
        ..Answer::default()
    };
    let on_first = |answer| BTreeMap::from([(1, answer)]);
    for (frames, own, library) in [
        // RFC 9113 §6.9: an error of the stream.
        (
            vec![get(1, "/never"), update(1, 0)],
            (on_first(reset(PROTOCOL_ERROR)), None),
            (BTreeMap::new(), Some(PROTOCOL_ERROR)),
        ),
        // §6.5.2 and §4.3 name the codes.
        (
            vec![set(setting::INITIAL_WINDOW_SIZE, 1 << 31)],
            (BTreeMap::new(), Some(FLOW_CONTROL_ERROR)),
            (BTreeMap::new(), Some(PROTOCOL_ERROR)),
        ),
        (
            vec![frame(HEADERS, WHOLE, 1, &[0xfe])],
            (BTreeMap::new(), Some(COMPRESSION_ERROR)),
            (BTreeMap::new(), Some(PROTOCOL_ERROR)),
        ),
        // §5.1: what was sent before the client heard that its stream is refused is ignored, trailers as well.
        (
            vec![
                [1, 3, 5, 7].map(|id| get(id, "/never")).concat(),
                post(9, "/echo"),
                frame(HEADERS, WHOLE, 9, &block(&[("t", "v")])),
            ],
            (BTreeMap::from([(9, reset(REFUSED_STREAM))]), None),
            (
                BTreeMap::from([(9, reset(REFUSED_STREAM))]),
                Some(PROTOCOL_ERROR),
            ),
        ),
        // The same end; the service has the bytes that came before it.
        (
            vec![frame(HEADERS, END_HEADERS, 1, &sized), last(1, b"x")],
            (on_first(reset(PROTOCOL_ERROR)), None),
            (on_first(reset(PROTOCOL_ERROR)), None),
        ),
        // §6.5.2: fields above the limit are the service's to refuse, with a Status; the library refuses them by itself.
        (
            vec![with(&[("a", long.as_str()); 60])],
            (
                on_first(Answer {
                    status: Some(200),
                    whole: true,
                    ..Answer::default()
                }),
                None,
            ),
            (
                on_first(Answer {
                    status: None,
                    whole: true,
                    ..Answer::default()
                }),
                None,
            ),
        ),
    ] {
        let bytes = script(&frames);
        for (engine, expected) in [(Http2::Own, own), (Http2::Library, library)] {
            let Outcome { answers, ended, .. } = told(engine, &bytes).await;
            assert_eq!((answers, ended), expected, "{engine:?}");
        }
    }
}

/// RFC 7541 §6.2.3: who passes such a field on has to keep the mark. The library forgets it.
#[tokio::test]
async fn a_field_that_nobody_may_index_goes_on_with_its_mark() {
    let hidden = [&[0x10][..], &field("x-key", "hidden")[1..]].concat();
    let fields = [head("GET", "/", &[]), hidden].concat();
    let bytes = script(&[frame(HEADERS, WHOLE, 1, &fields)]);
    for (engine, expected) in [
        (Http2::Own, "x-key: hidden (never indexed)"),
        (Http2::Library, "x-key: hidden"),
    ] {
        let seen = told(engine, &bytes).await.seen;
        let expected = format!("[{expected:?}]");
        assert!(seen.iter().any(|one| one.ends_with(&expected)), "{seen:?}");
    }
}
