//! Requests: section 8. One that is malformed is a stream's error (§8.1.1).

use mvp_tests::fixtures::CONFIG_MAPS;
use mvp_tests::raw::{HEADERS, block, frame};

use super::{
    Answered, AsServers, DATA, END_HEADERS, END_STREAM, End, PROTOCOL_ERROR, Row, Stream, WHOLE,
    open, request, row, usual,
};

const MALFORMED: End = Stream(&[PROTOCOL_ERROR]);

pub(super) fn rows() -> Vec<Row> {
    let mut rows = framing();
    rows.extend(fields());
    rows.extend(control_data());
    rows
}

/// A good request with one more field.
fn with(name: &str, value: &str) -> Vec<u8> {
    let mut fields = usual("GET", CONFIG_MAPS);
    fields.push((name, value));
    request(1, &fields)
}

/// A request with other control data: `None` leaves a field out.
fn but(name: &str, value: Option<&str>) -> Vec<u8> {
    let usual = usual("GET", CONFIG_MAPS).into_iter();
    let fields = usual.filter_map(|(known, usual)| match known == name {
        true => Some((known, value?)),
        false => Some((known, usual)),
    });
    request(1, &fields.collect::<Vec<_>>())
}

fn framing() -> Vec<Row> {
    let upload = |length: &str, flags: u8| {
        let mut fields = usual("POST", CONFIG_MAPS);
        fields.push(("content-length", length));
        frame(HEADERS, flags, 1, &block(&fields))
    };
    let last = |bytes: &[u8]| frame(DATA, END_STREAM, 1, bytes);
    let trailers = |fields: &[(&str, &str)], flags: u8| frame(HEADERS, flags, 1, &block(fields));
    vec![
        row(
            "8.1",
            "trailers that do not end the request",
            [open(), trailers(&[("a", "b")], END_HEADERS)].concat(),
            MALFORMED,
        ),
        row(
            "8.1",
            "trailers with a pseudo-header field",
            [open(), trailers(&[(":path", "/")], WHOLE)].concat(),
            MALFORMED,
        ),
        row(
            "8.1.1",
            "less DATA than Content-Length says",
            [upload("9", END_HEADERS), last(b"x")].concat(),
            MALFORMED,
        ),
        row(
            "8.1.1",
            "more DATA than Content-Length says",
            [upload("1", END_HEADERS), last(b"xyz")].concat(),
            MALFORMED,
        ),
        row(
            "8.1.1",
            "no DATA where Content-Length says that there is some",
            upload("9", WHOLE),
            MALFORMED,
        ),
        row(
            "8.1.1",
            "a Content-Length that is no number",
            [upload("nine", END_HEADERS), last(b"x")].concat(),
            MALFORMED,
        ),
    ]
}

fn fields() -> Vec<Row> {
    vec![
        row("8.2.1", "a name in capitals", with("X-A", "b"), MALFORMED),
        row("8.2.1", "a name with a space", with("x a", "b"), MALFORMED),
        row("8.2.1", "a name with a colon", with("x:a", "b"), MALFORMED),
        row("8.2.1", "a name with a DEL", with("x\x7fa", "b"), MALFORMED),
        row("8.2.1", "an empty name", with("", "b"), MALFORMED),
        row(
            "8.2.1",
            "a value with a NUL",
            with("x-a", "b\0c"),
            MALFORMED,
        ),
        row(
            "8.2.1",
            "a value with a line feed",
            with("x-a", "b\nc: d"),
            MALFORMED,
        ),
        row(
            "8.2.1",
            "a value with a carriage return",
            with("x-a", "b\rc"),
            MALFORMED,
        ),
        row(
            "8.2.1",
            "a value that begins with a space",
            with("x-a", " b"),
            AsServers,
        ),
        row(
            "8.2.1",
            "a value that ends with a tab",
            with("x-a", "b\t"),
            AsServers,
        ),
        row(
            "8.2.2",
            "Connection",
            with("connection", "close"),
            MALFORMED,
        ),
        row(
            "8.2.2",
            "Proxy-Connection",
            with("proxy-connection", "close"),
            MALFORMED,
        ),
        row(
            "8.2.2",
            "Keep-Alive",
            with("keep-alive", "timeout=5"),
            MALFORMED,
        ),
        row(
            "8.2.2",
            "Transfer-Encoding",
            with("transfer-encoding", "chunked"),
            MALFORMED,
        ),
        row("8.2.2", "Upgrade", with("upgrade", "h2c"), MALFORMED),
        row(
            "8.2.2",
            "TE other than trailers",
            with("te", "gzip"),
            MALFORMED,
        ),
        row("8.2.2", "TE: trailers", with("te", "trailers"), Answered),
    ]
}

fn control_data() -> Vec<Row> {
    let mut late = usual("GET", CONFIG_MAPS);
    late.insert(3, ("a", "b"));
    let connect = |fields: &[(&str, &str)]| {
        let method = [(":method", "CONNECT")];
        let fields = [&method[..], fields].concat();
        frame(HEADERS, END_HEADERS, 1, &block(&fields))
    };
    vec![
        row(
            "8.3",
            "an unknown pseudo-header field",
            with(":who", "me"),
            MALFORMED,
        ),
        row(
            "8.3",
            "a pseudo-header field of answers",
            with(":status", "200"),
            MALFORMED,
        ),
        row(
            "8.3",
            "a pseudo-header field behind another field",
            request(1, &late),
            MALFORMED,
        ),
        row("8.3", "a path twice", with(":path", "/livez"), MALFORMED),
        row("8.3", "a method twice", with(":method", "GET"), MALFORMED),
        row("8.3.1", "no method", but(":method", None), MALFORMED),
        row("8.3.1", "no scheme", but(":scheme", None), MALFORMED),
        row("8.3.1", "no path", but(":path", None), MALFORMED),
        row("8.3.1", "an empty path", but(":path", Some("")), MALFORMED),
        row(
            "8.3.1",
            "a path that begins with no slash",
            but(":path", Some("livez")),
            MALFORMED,
        ),
        row(
            "8.3.1",
            "an authority with a user",
            but(":authority", Some("me@kubernetes")),
            MALFORMED,
        ),
        row(
            "8.5",
            "CONNECT with a path",
            connect(&[
                (":authority", "kubernetes"),
                (":path", "/"),
                (":scheme", "https"),
            ]),
            MALFORMED,
        ),
        row(
            "8.5",
            "CONNECT without an authority",
            connect(&[]),
            MALFORMED,
        ),
    ]
}
