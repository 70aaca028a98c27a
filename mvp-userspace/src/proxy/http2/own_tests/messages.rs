//! Answers that are malformed, or look so (RFC 9113 §8).

use super::End::{Answered, Gone, Request};
use super::rows::{MALFORMED, answered, data, last, row, whole};
use super::*;

/// Of an answer that ends in the frame that is wrong.
const UNHEARD: &str = "the stream has ended, and the server hears nothing";

pub(super) fn rows() -> Vec<Row> {
    [bodies(), fields(), control()]
        .into_iter()
        .flatten()
        .collect()
}

fn bodies() -> Vec<Row> {
    let sized = |length: &str| answered(&head(&[("content-length", length)]));
    let interim =
        |flags: u8, status: &[u8]| frame(HEADERS, flags, 1, &[&[0x08, 3][..], status].concat());
    vec![
        row(
            "8.1",
            "an answer with a body",
            vec![answered(OK), data(b"hel"), last(b"lo")],
            Answered,
        ),
        row(
            "8.1",
            "empty DATA",
            vec![answered(OK), data(b""), data(b"x"), data(b""), last(b"")],
            Answered,
        ),
        row(
            "8.1",
            "trailers",
            vec![answered(OK), data(b"x"), whole(&field("grpc-status", "0"))],
            Answered,
        ),
        row(
            "8.1",
            "trailers that do not end the answer",
            vec![answered(OK), answered(&field("a", "b"))],
            MALFORMED,
        ),
        row(
            "8.1",
            "trailers with a pseudo-header field",
            vec![answered(OK), data(b"x"), whole(OK)],
            MALFORMED,
        )
        .but(Answered, "it leaves the field out"),
        row(
            "8.1",
            "DATA before the answer",
            vec![last(b"hi")],
            MALFORMED,
        )
        .but(
            End::Connection(&[PROTOCOL_ERROR]),
            "all requests of the connection fail for one",
        ),
        row(
            "8.1",
            "an interim answer",
            vec![interim(END_HEADERS, b"103"), whole(OK)],
            Answered,
        ),
        row(
            "8.1",
            "an interim answer that ends",
            vec![interim(END_HEADERS | END_STREAM, b"103")],
            MALFORMED,
        )
        .but(Gone, UNHEARD),
        row(
            "8.6",
            "101",
            vec![interim(END_HEADERS, b"101"), whole(OK)],
            MALFORMED,
        )
        .but(Answered, "an interim answer like another"),
        row(
            "8.1",
            "an answer, then RST_STREAM with NO_ERROR",
            vec![whole(OK), frame(RST_STREAM, 0, 1, &[0; 4])],
            Answered,
        ),
        row(
            "8.1.1",
            "as much DATA as Content-Length says",
            vec![sized("3"), data(b"ab"), last(b"c")],
            Answered,
        ),
        row(
            "8.1.1",
            "less DATA than Content-Length says",
            vec![sized("5"), last(b"hi")],
            MALFORMED,
        ),
        row(
            "8.1.1",
            "more DATA than Content-Length says",
            vec![sized("1"), last(b"hi")],
            MALFORMED,
        ),
        row(
            "8.1.1",
            "no DATA where Content-Length says that there is some",
            vec![whole(&head(&[("content-length", "5")]))],
            MALFORMED,
        )
        .but(Gone, UNHEARD),
        row(
            "8.1.1",
            "a Content-Length that is no number",
            vec![sized("five"), last(b"hello")],
            MALFORMED,
        ),
        row(
            "8.1.1",
            "a Content-Length to HEAD",
            vec![whole(&head(&[("content-length", "500")]))],
            Answered,
        )
        .to(Method::HEAD),
        row(
            "8.1.1",
            "a Content-Length with 304",
            vec![whole(
                &[&[0x8b][..], &field("content-length", "500")].concat(),
            )],
            Answered,
        ),
    ]
}

fn fields() -> Vec<Row> {
    let of = |name: &str, value: &str| vec![whole(&head(&[(name, value)]))];
    let mut rows = Vec::new();
    for (what, name, value) in [
        ("a name in capitals", "Date", "x"),
        ("a name with a space", "a b", "x"),
        ("a name with a colon", "a:b", "x"),
        ("a name with a DEL", "a\x7f", "x"),
        ("an empty name", "", "x"),
        ("a value with a NUL", "a", "x\0"),
        ("a value with a line feed", "a", "x\ny"),
        ("a value with a carriage return", "a", "x\ry"),
    ] {
        rows.push(row("8.2.1", what, of(name, value), MALFORMED));
    }
    for name in [
        "Connection",
        "Proxy-Connection",
        "Keep-Alive",
        "Transfer-Encoding",
        "Upgrade",
    ] {
        rows.push(row("8.2.2", name, of(&name.to_lowercase(), "x"), MALFORMED));
    }
    rows.push(row(
        "8.2.2",
        "TE other than trailers",
        of("te", "gzip"),
        MALFORMED,
    ));
    rows
}

fn control() -> Vec<Row> {
    let behind = [&field("a", "b")[..], OK].concat();
    vec![
        row(
            "8.3",
            "an unknown pseudo-header field",
            vec![whole(&head(&[(":unknown", "x")]))],
            MALFORMED,
        ),
        row(
            "8.3",
            "a pseudo-header field of requests",
            vec![whole(&[0x88, 0x82])],
            MALFORMED,
        )
        .but(Answered, "it looks at what it needs"),
        row(
            "8.3",
            "a pseudo-header field behind another field",
            vec![whole(&behind)],
            MALFORMED,
        ),
        row(
            "8.3",
            "a status twice",
            vec![whole(&[0x88, 0x88])],
            MALFORMED,
        ),
        row(
            "8.3.2",
            "no status",
            vec![whole(&field("a", "b"))],
            MALFORMED,
        )
        .but(Gone, UNHEARD),
        row(
            "8.3.2",
            "a status that is no number",
            vec![whole(&[&[0x08, 2][..], b"ok"].concat())],
            Request(&[PROTOCOL_ERROR]),
        ),
    ]
}
