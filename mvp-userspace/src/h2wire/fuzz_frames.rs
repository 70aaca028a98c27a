//! Frames of any kind, towards either end: how their bytes are cut on the way changes nothing, and what the agent writes are frames.

use std::fmt::Debug;
use std::io::IoSlice;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};

use super::client::Client;
use super::connection::{Connection, Piece, Side};
use super::frame::{Frame, HEADER, PREFACE, SMALLEST_MAX_FRAME, kind};
use super::fuzz_input::{LIMITS, sent};
use super::server::Server;

/// What an end made of what came: what it wrote, and what it tells its owner.
#[derive(Debug, Eq, PartialEq)]
struct Outcome {
    wrote: Vec<u8>,
    told: String,
}

/// Takes the first byte of `data` for the end and for how its bytes are cut, the rest for steps that send. Nothing may differ from what
/// comes of the same bytes at once.
pub fn fuzz_frames(data: &[u8]) {
    headers(data);
    let Some((&how, mut rest)) = data.split_first() else {
        return;
    };
    let mut bytes = Vec::new();
    while let Some((&step, behind)) = rest.split_first() {
        rest = behind;
        let size = usize::from(step >> 3) * usize::from(step & 4 | 1);
        let Some(more) = sent(step & 3, size, 8, &mut rest) else {
            break;
        };
        bytes.extend_from_slice(&more);
    }
    let cut = usize::from(how >> 1) + 1;
    match how & 1 {
        0 => {
            let bytes = [&PREFACE[..], &bytes].concat();
            assert_eq!(server(&bytes, cut), server(&bytes, bytes.len()));
        }
        _ => assert_eq!(client(&bytes, cut), client(&bytes, bytes.len())),
    }
}

/// A header is written as it was read, but for its reserved bit.
fn headers(data: &[u8]) {
    for bytes in data.chunks(HEADER) {
        let Some(frame) = Frame::read(bytes) else {
            return;
        };
        let mut written = Vec::new();
        frame.write(&mut written);
        let mut expected = bytes.to_vec();
        if let Some(byte) = expected.get_mut(5) {
            *byte &= 0x7f;
        }
        assert_eq!(written, expected);
    }
}

fn server(bytes: &[u8], cut: usize) -> Outcome {
    let mut server = Server::new(LIMITS);
    let mut told = Vec::new();
    feed(&mut server, bytes, cut);
    while let Some(incoming) = server.accept() {
        let id = incoming.stream;
        told.push(format!("{incoming:?}"));
        if !incoming.ends {
            told.extend(body(&mut server, id));
            server.let_go(id);
        }
        let head = server.respond(id, StatusCode::OK, &HeaderMap::new(), false);
        told.push(format!("{head:?} {:?}", said(&mut server, id)));
        server.answered(id);
    }
    server.check();
    outcome(&server, told, &[])
}

fn client(bytes: &[u8], cut: usize) -> Outcome {
    let mut client = Client::new(LIMITS);
    let mut cx = Context::from_waker(Waker::noop());
    for (method, ends) in [(Method::GET, true), (Method::PUT, false)] {
        let _ = client.request(&method, "server", "/apis", &HeaderMap::new(), ends);
    }
    feed(&mut client, bytes, cut);
    let mut told = Vec::new();
    for id in [1, 3] {
        told.push(format!("{:?}", client.poll_head(id, &mut cx)));
        told.extend(body(&mut client, id));
        told.push(format!("{:?}", said(&mut client, id)));
        client.let_go(id);
    }
    client.check();
    outcome(&client, told, PREFACE)
}

fn feed<S: Side>(connection: &mut Connection<S>, bytes: &[u8], cut: usize) {
    let mut inbox = BytesMut::new();
    for part in bytes.chunks(cut.max(1)) {
        inbox.extend_from_slice(part);
        connection.receive(&mut inbox);
    }
}

fn body<S: Side>(connection: &mut Connection<S>, id: u32) -> Vec<String> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut pieces = Vec::new();
    loop {
        let piece = connection.poll_body(id, &mut cx);
        let more = matches!(piece, Poll::Ready(Ok(Piece::Data(_))));
        pieces.push(format!("{piece:?}"));
        if !more {
            return pieces;
        }
    }
}

/// Sends a body, as far as the windows let it.
fn said<S: Side>(connection: &mut Connection<S>, id: u32) -> impl Debug + use<S> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut chunk = Bytes::from_static(&[0; 20_000]);
    connection.poll_data(id, &mut chunk, true, &mut cx)
}

fn outcome<S: Side>(connection: &Connection<S>, told: Vec<String>, before: &[u8]) -> Outcome {
    let mut slices = [IoSlice::new(&[]); 64];
    let count = connection.outgoing(&mut slices);
    let wrote: Vec<u8> = slices
        .iter()
        .take(count)
        .flat_map(|slice| slice.iter().copied())
        .collect();
    let frames = wrote.strip_prefix(before).unwrap_or_default();
    well_formed(frames);
    Outcome {
        told: format!("{told:#?} {:?}", connection.fault()),
        wrote,
    }
}

/// Whole frames, of the sizes that §6 gives them, whatever was allowed: SETTINGS first, and nothing behind GOAWAY.
fn well_formed(mut bytes: &[u8]) {
    let mut before = None;
    while let Some(frame) = Frame::read(bytes) {
        let whole = bytes.split_at_checked(HEADER + frame.length);
        let (whole, behind) = whole.unwrap_or_default();
        assert!(!whole.is_empty(), "{frame:?} is cut off");
        bytes = behind;
        assert!(before.is_some() || frame.kind == kind::SETTINGS);
        assert_ne!(before, Some(kind::GOAWAY), "{frame:?}");
        before = Some(frame.kind);
        let of_connection = match frame.kind {
            kind::DATA | kind::HEADERS => false,
            kind::RST_STREAM => {
                assert_eq!(frame.length, 4);
                false
            }
            kind::SETTINGS => {
                assert_eq!(frame.length % 6, 0);
                true
            }
            kind::PING | kind::GOAWAY => {
                assert_eq!(frame.length, 8);
                true
            }
            kind::WINDOW_UPDATE => {
                assert_eq!(frame.length, 4);
                assert_ne!(whole.get(HEADER..), Some(&[0; 4][..]), "by nothing");
                frame.stream == 0
            }
            other => panic!("the agent writes no frames of type {other} here"),
        };
        assert_eq!(frame.stream == 0, of_connection, "{frame:?}");
        // Nobody reads what is written: all of it is within what any other side takes.
        assert!(frame.length <= SMALLEST_MAX_FRAME || frame.kind == kind::DATA);
    }
    assert!(bytes.is_empty(), "{bytes:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    /// What the fuzzer begins with.
    #[test]
    fn the_seeds() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fuzz/seeds/h2wire_frames"
        );
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
        assert!(files.len() > 3);
        for file in files {
            let mut seed = std::fs::read(file.unwrap().path()).unwrap();
            for cut in 0..12 {
                seed[0] = (seed[0] & 1) | (cut << 1);
                super::fuzz_frames(&seed);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn however_they_are_cut(how: u8, data in proptest::collection::vec(any::<u8>(), 0..400)) {
            super::fuzz_frames(&[&[how, 1, 4, 0, 0][..], &data].concat());
        }
    }
}
