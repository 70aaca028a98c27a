//! The server's end, frame by frame.

use std::task::Waker;

use bytes::Bytes;
use http::Method;

use super::*;
use crate::h2wire::connection::Piece;
use crate::h2wire::frame::flag::{ACK, END_HEADERS, END_STREAM, PADDED};
use crate::h2wire::frame::kind::*;
use crate::h2wire::target::REFUSED;
use crate::h2wire::testing::{field, frame as bytes};

const LIMITS: Limits = Limits {
    stream_window: 100_000,
    connection_window: 400_000,
    frame: 1 << 14,
    header_list: 4000,
    streams: 3,
    blocks_a_turn: 4,
};
/// GET, https, `/`.
const GET: &[u8] = &[0x82, 0x87, 0x84];
/// POST, https, `/`.
const POST: &[u8] = &[0x83, 0x87, 0x84];
const WHOLE: u8 = END_HEADERS | END_STREAM;

struct Scene {
    server: Server,
}

/// Kind, flags, stream and payload of a frame.
type Seen = (u8, u8, u32, Vec<u8>);

impl Scene {
    /// A client has greeted.
    fn new() -> Self {
        let mut server = Server::new(LIMITS);
        let hello = [&PREFACE[..], &bytes(SETTINGS, 0, 0, &[])].concat();
        // However it is cut.
        let mut inbox = BytesMut::new();
        for byte in hello {
            inbox.extend_from_slice(&[byte]);
            server.receive(&mut inbox);
        }
        let mut scene = Self { server };
        let first = scene.sent();
        let kinds: Vec<_> = first.iter().map(|frame| (frame.0, frame.1)).collect();
        assert_eq!(kinds, [(SETTINGS, 0), (WINDOW_UPDATE, 0), (SETTINGS, ACK)]);
        scene
    }

    fn get(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let bytes = bytes(kind, flags, stream, payload);
        let mut inbox = BytesMut::from(&bytes[..]);
        self.server.begin_turn();
        self.server.receive(&mut inbox);
        assert!(inbox.is_empty() || self.server.fault().is_some());
    }

    fn accept(&mut self) -> Incoming {
        self.server.accept().expect("a request")
    }

    /// What was sent since the last time.
    fn sent(&mut self) -> Vec<Seen> {
        let mut slices = vec![std::io::IoSlice::new(&[]); 1000];
        let filled = self.server.outgoing(&mut slices);
        let all = slices[..filled].iter().flat_map(|s| s.to_vec());
        let all: Vec<u8> = all.collect();
        self.server.written(all.len());
        let (mut frames, mut rest) = (Vec::new(), &all[..]);
        while let Some(frame) = Frame::read(rest) {
            let (payload, behind) = rest[frame::HEADER..].split_at(frame.length);
            frames.push((frame.kind, frame.flags, frame.stream, payload.to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty());
        frames
    }

    /// The code of the only frame sent, which has to be of this kind and stream.
    fn code(&mut self, kind: u8, stream: u32) -> u32 {
        let sent = self.sent();
        let [(seen, _, on, payload)] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!((*seen, *on), (kind, stream), "{sent:?}");
        let code = &payload[payload.len() - 4..];
        u32::from_be_bytes(code.try_into().unwrap())
    }

    fn answer(&mut self, id: u32) {
        let fields = HeaderMap::new();
        self.server
            .respond(id, StatusCode::OK, &fields, true)
            .unwrap();
        self.server.answered(id);
    }

    fn read(&mut self, id: u32) -> Option<Piece> {
        let mut cx = Context::from_waker(Waker::noop());
        match self.server.poll_body(id, &mut cx) {
            Poll::Ready(piece) => Some(piece.unwrap()),
            Poll::Pending => None,
        }
    }

    fn data(&mut self, id: u32, size: usize) -> Poll<Result<(), Fault>> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut chunk = Bytes::from(vec![7; size]);
        self.server.poll_data(id, &mut chunk, true, &mut cx)
    }
}

#[test]
fn a_request_comes_as_it_was_sent() {
    let mut scene = Scene::new();
    let block = [
        &[0x83, 0x87, 0x44, 4][..],
        b"/a?b",
        &[0x41, 1, b'h'],
        &field("te", "trailers"),
        &field("content-length", "3"),
        &field("x", "1"),
        &field("x", "2"),
    ];
    scene.get(HEADERS, END_HEADERS, 1, &block.concat());
    scene.get(DATA, PADDED, 1, b"\x02abc..");
    scene.get(HEADERS, WHOLE, 1, &field("t", "last"));
    let Incoming { stream, head, ends } = scene.accept();
    assert_eq!((stream, ends, head.method()), (1, false, &Method::POST));
    assert_eq!(head.uri(), "https://h/a?b");
    let x: Vec<_> = head.headers().get_all("x").iter().collect();
    assert_eq!(head.headers().len(), 4);
    assert_eq!(x, ["1", "2"]);
    assert!(matches!(scene.read(1), Some(Piece::Data(data)) if data == "abc"));
    assert!(matches!(scene.read(1), Some(Piece::Trailers(fields)) if fields["t"] == "last"));
    assert!(matches!(scene.read(1), Some(Piece::End)));
    // The same again by indexes, in three frames.
    scene.get(HEADERS, END_STREAM, 3, &[0x83, 0x87]);
    scene.get(CONTINUATION, 0, 3, &[0xbf]);
    scene.get(CONTINUATION, END_HEADERS, 3, &[0xbe]);
    assert_eq!(scene.accept().head.uri(), "https://h/a?b");
    assert_eq!(scene.sent(), []);
}

#[test]
fn a_target_that_cannot_be_carried_is_marked() {
    let mut scene = Scene::new();
    // A mark of the client's own says nothing.
    let first = [&[0x82, 0x87, 0x44, 4][..], b"/a#b", &field(REFUSED, "414")].concat();
    scene.get(HEADERS, WHOLE, 1, &first);
    scene.get(HEADERS, WHOLE, 3, &[0x82, 0x87, 0xbe]);
    for _ in 0..2 {
        let head = scene.accept().head;
        assert_eq!(head.uri(), "/a_b");
        let marks: Vec<_> = head.headers().get_all(REFUSED).iter().collect();
        assert_eq!(marks, ["400"]);
    }
}

#[test]
fn too_many_fields_are_refused_and_far_too_many_end_the_connection() {
    let mut scene = Scene::new();
    // 134 bytes as §6.5.2 of RFC 9113 counts, in the table from here on.
    let large = [&[0x40, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let fields = |count: usize| [GET, &large, &vec![0xbe; count]].concat();
    scene.get(HEADERS, WHOLE, 1, &fields(40));
    let head = scene.accept().head;
    assert_eq!(head.headers()[REFUSED], "431-bytes");
    assert_eq!(head.headers().len(), 1);
    scene.get(HEADERS, WHOLE, 3, &fields(200));
    assert!(scene.server.accept().is_none());
    let calm = code::ENHANCE_YOUR_CALM;
    assert_eq!(scene.code(GOAWAY, 0), calm);
    assert!(matches!(scene.server.fault(), Some(Fault::OwnLimit(_))));
}

#[test]
fn what_comes_on_a_closed_stream() {
    let mut scene = Scene::new();
    // The agent resets it, and ignores what was under way.
    scene.get(HEADERS, END_HEADERS, 1, &[0x83, 0x87]);
    assert_eq!(scene.code(RST_STREAM, 1), code::PROTOCOL_ERROR);
    scene.get(DATA, 0, 1, b"late");
    scene.get(HEADERS, WHOLE, 1, &field("t", "late"));
    scene.get(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    scene.get(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    assert_eq!(scene.sent(), []);
    // The client resets it, and knows.
    scene.get(HEADERS, END_HEADERS, 3, POST);
    scene.get(RST_STREAM, 0, 3, &[0, 0, 0, 8]);
    for _ in 0..2 {
        scene.get(DATA, 0, 3, b"late");
        assert_eq!(scene.code(RST_STREAM, 3), code::STREAM_CLOSED);
        if let Some(incoming) = scene.server.accept() {
            scene.server.let_go(incoming.stream);
            scene.server.answered(incoming.stream);
            assert!(scene.server.streams.is_empty());
        }
    }
    // A stream that was left out cannot begin any more.
    scene.get(HEADERS, WHOLE, 7, GET);
    scene.get(HEADERS, WHOLE, 5, GET);
    assert_eq!(scene.code(GOAWAY, 0), code::STREAM_CLOSED);
}

#[test]
fn resets_are_remembered_for_so_many_streams() {
    let mut scene = Scene::new();
    for stream in 0..=REMEMBERED as u32 {
        scene.get(HEADERS, END_HEADERS, 2 * stream + 1, &[0x83]);
    }
    assert_eq!(scene.sent().len(), REMEMBERED + 1);
    scene.get(DATA, 0, 3, b"late");
    assert_eq!(scene.sent(), []);
    scene.get(DATA, 0, 1, b"late");
    assert_eq!(scene.code(RST_STREAM, 1), code::STREAM_CLOSED);
}

#[test]
fn an_early_answer_ends_an_upload_that_nobody_reads() {
    let mut scene = Scene::new();
    for (id, first_let_go) in [(1, true), (3, false)] {
        scene.get(HEADERS, END_HEADERS, id, POST);
        scene.accept();
        scene.get(DATA, 0, id, b"some");
        if first_let_go {
            scene.server.let_go(id);
            assert_eq!(scene.sent(), [], "it is still to be answered");
        }
        scene.answer(id);
        if !first_let_go {
            let kinds: Vec<_> = scene.sent().iter().map(|frame| frame.0).collect();
            assert_eq!(kinds, [HEADERS], "somebody may still read it");
            scene.server.let_go(id);
            assert_eq!(scene.code(RST_STREAM, id), code::NO_ERROR);
        } else {
            let sent = scene.sent();
            assert_eq!(sent[1], (RST_STREAM, 0, id, vec![0; 4]), "{sent:?}");
        }
        assert!(scene.server.streams.is_empty() && scene.server.active == 0);
    }
}

#[test]
fn an_answer_that_breaks_off_is_a_reset() {
    let mut scene = Scene::new();
    scene.get(HEADERS, WHOLE, 1, GET);
    scene.accept();
    scene.server.answered(1);
    assert_eq!(scene.code(RST_STREAM, 1), code::INTERNAL_ERROR);
    assert!(scene.server.streams.is_empty());
}

#[test]
fn streams_above_the_limit_are_refused() {
    let mut scene = Scene::new();
    for stream in [1, 3, 5] {
        scene.get(HEADERS, WHOLE, stream, GET);
        scene.accept();
    }
    scene.get(HEADERS, WHOLE, 7, GET);
    assert_eq!(scene.code(RST_STREAM, 7), code::REFUSED_STREAM);
    scene.get(RST_STREAM, 0, 3, &[0, 0, 0, 8]);
    scene.get(HEADERS, WHOLE, 9, GET);
    assert_eq!(scene.accept().stream, 9);
}

#[test]
fn the_end_in_good_order_comes_in_two_steps() {
    let mut scene = Scene::new();
    scene.get(HEADERS, WHOLE, 1, GET);
    scene.accept();
    scene.server.graceful_shutdown();
    scene.server.graceful_shutdown();
    let sent = scene.sent();
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(sent[0].3, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    // Sent before the client heard of it.
    scene.get(HEADERS, WHOLE, 3, GET);
    scene.accept();
    let (PING, 0, 0, payload) = &sent[1] else {
        panic!("{sent:?}")
    };
    scene.get(PING, ACK, 0, payload);
    assert_eq!(scene.sent()[0].3, [0, 0, 0, 3, 0, 0, 0, 0]);
    // Sent behind that.
    scene.get(HEADERS, END_HEADERS, 5, POST);
    scene.get(DATA, END_STREAM, 5, b"x");
    assert!(scene.server.accept().is_none());
    assert_eq!(scene.sent(), []);
    scene.answer(1);
    assert!(!scene.server.is_done());
    scene.answer(3);
    assert!(scene.server.is_done() && scene.server.fault().is_none());
}

#[test]
fn a_client_that_goes_away_has_its_answers() {
    let mut scene = Scene::new();
    scene.get(HEADERS, WHOLE, 1, GET);
    scene.get(GOAWAY, 0, 0, &[0; 8]);
    assert!(!scene.server.is_done());
    scene.accept();
    scene.answer(1);
    assert!(scene.server.is_done());
}

#[test]
fn credit_comes_once_it_was_read() {
    let mut scene = Scene::new();
    scene.get(HEADERS, END_HEADERS, 1, POST);
    scene.accept();
    for _ in 0..5 {
        scene.get(DATA, 0, 1, &[0; 15_000]);
    }
    assert_eq!(scene.sent(), []);
    let mut read = 0;
    while let Some(Piece::Data(chunk)) = scene.read(1) {
        read += chunk.len() as u32;
        if let [(kind, _, stream, by)] = &scene.sent()[..] {
            assert_eq!((*kind, *stream), (WINDOW_UPDATE, 1));
            assert_eq!(**by, read.to_be_bytes());
            assert!(read >= LIMITS.stream_window / 2);
            read = 0;
        }
    }
    assert!(read < LIMITS.stream_window / 2);
    // What nobody reads any more is given back to all, and the stream has no more than its window.
    scene.server.let_go(1);
    for _ in 0..5 {
        scene.get(DATA, 0, 1, &[0; 15_000]);
    }
    assert_eq!(scene.sent(), []);
    scene.get(DATA, 0, 1, &[0; 15_000]);
    assert_eq!(scene.code(RST_STREAM, 1), code::FLOW_CONTROL_ERROR);
    for _ in 0..3 {
        scene.get(DATA, 0, 1, &[0; 15_000]);
    }
    let sent = scene.sent();
    let [(WINDOW_UPDATE, _, 0, by)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert!(u32::from_be_bytes(by[..].try_into().unwrap()) >= LIMITS.connection_window / 2);
}

#[test]
fn a_client_with_a_smaller_table_hears_of_it() {
    let mut scene = Scene::new();
    let block = |scene: &mut Scene, stream| {
        scene.get(HEADERS, WHOLE, stream, GET);
        scene.accept();
        scene.answer(stream);
        scene.sent().pop().unwrap().3
    };
    assert_eq!(block(&mut scene, 1), [0x88]);
    scene.get(SETTINGS, 0, 0, &[0, 1, 0, 1, 0, 0]);
    assert_eq!(block(&mut scene, 3), [0x88]);
    scene.get(SETTINGS, 0, 0, &[0, 1, 0, 0, 0x0f, 0xff]);
    assert_eq!(block(&mut scene, 5), [0x20, 0x88]);
    assert_eq!(block(&mut scene, 7), [0x88]);
}

#[test]
fn answers_wait_for_the_socket() {
    let mut scene = Scene::new();
    let most = u32::MAX >> 2;
    scene.get(WINDOW_UPDATE, 0, 0, &most.to_be_bytes());
    let window = [&[0, 4][..], &most.to_be_bytes()].concat();
    scene.get(SETTINGS, 0, 0, &window);
    for stream in [1, 3] {
        scene.get(HEADERS, WHOLE, stream, GET);
        scene.accept();
    }
    scene
        .server
        .respond(1, StatusCode::OK, &HeaderMap::new(), false)
        .unwrap();
    assert!(scene.data(1, 10 * FULL).is_pending());
    let waits = scene.server.out.len();
    assert!((FULL..FULL + 100).contains(&waits), "{waits}");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(scene.server.poll_room(3, &mut cx).is_pending());
    scene.server.written(1000);
    assert!(scene.server.poll_room(3, &mut cx).is_ready());
}

#[test]
fn who_asks_and_does_not_read_is_cut_off() {
    let mut scene = Scene::new();
    let pings = bytes(PING, 0, 0, &[0; 8]).repeat(100_000);
    scene.server.receive(&mut BytesMut::from(&pings[..]));
    assert!(matches!(scene.server.fault(), Some(Fault::OwnLimit(_))));
    assert!(scene.server.out.len() < 2 << 20);
}

#[test]
fn what_is_no_preface_ends_the_connection() {
    for start in [&b"GET / HTTP/1.1\r\n"[..], b"PRI * HTTP/1.1"] {
        let mut server = Server::new(LIMITS);
        server.receive(&mut BytesMut::from(start));
        assert!(matches!(
            server.fault(),
            Some(Fault::ConnectionMalformed(_))
        ));
    }
}

#[test]
fn requests_that_were_given_up_before_anybody_took_them_are_counted() {
    let mut scene = Scene::new();
    for stream in [1, 3] {
        scene.get(HEADERS, WHOLE, stream, GET);
        scene.get(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
    }
    scene.get(HEADERS, WHOLE, 5, GET);
    for _ in 0..3 {
        scene.accept();
    }
    scene.get(RST_STREAM, 0, 5, &[0, 0, 0, 8]);
    assert_eq!(scene.server.take_misdeeds().given_up, 2);
    assert_eq!(scene.server.take_misdeeds(), Misdeeds::default());
}

#[test]
fn an_empty_body_is_not_the_same_as_none() {
    let mut scene = Scene::new();
    for (id, data, at_end) in [(1, None, true), (3, Some(&b""[..]), false)] {
        let ends = data.map_or(WHOLE, |_| END_HEADERS);
        scene.get(HEADERS, ends, id, POST);
        if let Some(data) = data {
            scene.get(DATA, END_STREAM, id, data);
        }
        scene.accept();
        assert_eq!(scene.server.is_body_at_end(id), at_end);
        assert!(matches!(scene.read(id), Some(Piece::End)));
        assert!(scene.server.is_body_at_end(id));
    }
    // The end of one with bytes comes with the last of them.
    scene.get(HEADERS, END_HEADERS, 5, POST);
    scene.get(DATA, 0, 5, b"x");
    scene.get(DATA, END_STREAM, 5, b"");
    assert!(matches!(scene.read(5), Some(Piece::Data(_))));
    assert!(scene.server.is_body_at_end(5));
}

/// Others come between the turns of a burst, and nothing of it is lost.
#[test]
fn a_burst_of_requests_is_spread_over_turns() {
    let mut scene = Scene::new();
    let requests = (0..10).map(|number| bytes(HEADERS, WHOLE, 1 + 2 * number, GET));
    let mut inbox = BytesMut::from(&requests.collect::<Vec<_>>().concat()[..]);
    let mut taken = Vec::new();
    for _ in 0..3 {
        scene.server.begin_turn();
        scene.server.receive(&mut inbox);
        scene.server.receive(&mut inbox);
        let mut of_turn = 0;
        while let Some(request) = scene.server.accept() {
            let none = HeaderMap::new();
            let _ = scene
                .server
                .respond(request.stream, StatusCode::OK, &none, true);
            scene.server.answered(request.stream);
            of_turn += 1;
        }
        taken.push((of_turn, scene.server.has_enough()));
    }
    // Three streams may be open at a time: the fourth of a turn is refused.
    assert_eq!(taken, [(3, true), (3, true), (2, false)]);
    assert!(inbox.is_empty());
    assert_eq!(scene.server.take_misdeeds().errors, 2);
}

/// What is late is counted apart: a client does not know yet that its upload was refused.
#[test]
fn frames_on_closed_streams_are_counted_as_late() {
    let mut scene = Scene::new();
    scene.get(HEADERS, END_HEADERS, 1, POST);
    let upload = scene.accept().stream;
    scene.get(DATA, END_STREAM, upload, b"x");
    scene.get(DATA, 0, upload, b"x");
    let misdeeds = scene.server.take_misdeeds();
    assert_eq!((misdeeds.late, misdeeds.errors), (1, 0));
}
