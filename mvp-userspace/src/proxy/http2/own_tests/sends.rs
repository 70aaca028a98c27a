//! What a client sends, whatever the server asks for.

use http::HeaderValue;
use tokio::task::{JoinHandle, JoinSet};

use super::rows::{answered, whole};
use super::*;
use crate::proxy::http2::own_body_tests::upload;

const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
/// §4.2: what everybody takes.
const FRAME: usize = 1 << 14;
/// Of the uploads.
const LENGTH: usize = 100_000;

#[derive(Clone, Copy)]
pub(super) enum Check {
    Beginning,
    Acknowledgements,
    Pong,
    StreamNumbers,
    FewStreams,
    FrameSize,
    LargerFrames,
    TableSize,
    Window,
    NegativeWindow,
    ConnectionWindow,
    Goodbye,
    TooMuchData,
    TooMuchDataOfAll,
    NeverIndexed,
    MarkOfAnswers,
}

/// The section, what it asks for, and what checks it.
pub(super) const ROWS: [(&str, &str, Check); 16] = [
    (
        "3.4",
        "its preface, then SETTINGS with ENABLE_PUSH of 0 (6.5.2)",
        Check::Beginning,
    ),
    (
        "6.5.3",
        "one acknowledgement for each SETTINGS",
        Check::Acknowledgements,
    ),
    (
        "6.7",
        "an acknowledgement for each PING, with its payload",
        Check::Pong,
    ),
    (
        "5.1.1",
        "odd numbers of streams, each above the one before",
        Check::StreamNumbers,
    ),
    (
        "5.1.2",
        "no more requests at a time than the server's MAX_CONCURRENT_STREAMS",
        Check::FewStreams,
    ),
    (
        "4.2",
        "no frame above 16,384 bytes, and no PUSH_PROMISE (8.4)",
        Check::FrameSize,
    ),
    (
        "4.2, 6.5.2",
        "no frame above the server's MAX_FRAME_SIZE",
        Check::LargerFrames,
    ),
    (
        "4.3.1, 7541 4.2",
        "a smaller table at the beginning of a header block, after the server's HEADER_TABLE_SIZE",
        Check::TableSize,
    ),
    ("6.9.1", "no DATA above a stream's window", Check::Window),
    (
        "6.9.2",
        "no DATA while a changed INITIAL_WINDOW_SIZE leaves a window below zero",
        Check::NegativeWindow,
    ),
    (
        "6.9.1",
        "no DATA above the connection's window",
        Check::ConnectionWindow,
    ),
    (
        "6.8",
        "no request behind the server's GOAWAY",
        Check::Goodbye,
    ),
    (
        "6.9.1",
        "FLOW_CONTROL_ERROR for DATA above a stream's window",
        Check::TooMuchData,
    ),
    (
        "6.9.1",
        "FLOW_CONTROL_ERROR for DATA above the connection's window",
        Check::TooMuchDataOfAll,
    ),
    (
        "7541 6.2.3, 7.1.3",
        "a field that nobody may index, with the mark that says so",
        Check::NeverIndexed,
    ),
    (
        "7541 6.2.3",
        "the same of an answer's field, on to the client; the library forgets the mark",
        Check::MarkOfAnswers,
    ),
];

#[tokio::test]
async fn the_agent_sends_what_it_must() {
    for engine in [Http2::Own, Http2::Library] {
        for (section, what, check) in ROWS {
            println!("{engine:?}: {section} {what}");
            let (sender, far) = connect(engine).await;
            let mut stage = Stage {
                engine,
                sender,
                far,
                received: Vec::new(),
                asked: JoinSet::new(),
            };
            stage.preface().await;
            match check {
                Check::Beginning => stage.beginning().await,
                Check::Acknowledgements => stage.acknowledgements().await,
                Check::Pong => stage.pong().await,
                Check::StreamNumbers => stage.stream_numbers().await,
                Check::FewStreams => stage.few_streams().await,
                Check::FrameSize => stage.frame_size(FRAME, &[]).await,
                Check::LargerFrames => {
                    let larger = set(MAX_FRAME_SIZE, 20_000);
                    stage.frame_size(20_000, &larger).await;
                }
                Check::TableSize => stage.table_size().await,
                Check::Window => stage.window().await,
                Check::NegativeWindow => stage.negative_window().await,
                Check::ConnectionWindow => stage.connection_window().await,
                Check::Goodbye => stage.goodbye().await,
                Check::TooMuchData => stage.too_much_data(1).await,
                Check::TooMuchDataOfAll => stage.too_much_data(4).await,
                Check::NeverIndexed => stage.never_indexed().await,
                Check::MarkOfAnswers => stage.mark_of_answers().await,
            }
        }
    }
}

/// A connection with its other end.
struct Stage {
    engine: Http2,
    sender: Sender,
    far: DuplexStream,
    received: Vec<u8>,
    /// Where the bodies of uploads come from.
    asked: JoinSet<()>,
}

type Answer = JoinHandle<Result<Response<WireBody>, AttemptError>>;

fn set(name: u16, value: u32) -> Vec<u8> {
    let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, &payload)
}

fn update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn bytes(frames: &[(Frame, Vec<u8>)]) -> usize {
    let data = frames.iter().filter(|(head, _)| head.kind == DATA);
    data.map(|(head, _)| head.length).sum()
}

impl Stage {
    async fn preface(&mut self) {
        let mut preface = [0; PREFACE.len()];
        self.far.read_exact(&mut preface).await.unwrap();
        assert_eq!(&preface, PREFACE);
    }

    async fn say(&mut self, frames: &[Vec<u8>]) {
        self.far.write_all(&frames.concat()).await.unwrap();
    }

    async fn next(&mut self) -> (Frame, Vec<u8>) {
        loop {
            if let Some(head) = Frame::read(&self.received)
                && self.received.len() >= HEADER + head.length
            {
                let mut whole = self.received.split_off(HEADER + head.length);
                std::mem::swap(&mut whole, &mut self.received);
                return (head, whole.split_off(HEADER));
            }
            let count = self.far.read_buf(&mut self.received).await.unwrap();
            assert!(count > 0, "the connection ended");
        }
    }

    /// The first frame of a kind.
    async fn first(&mut self, kind: u8) -> (Frame, Vec<u8>) {
        loop {
            let (head, payload) = self.next().await;
            if head.kind == kind {
                return (head, payload);
            }
            assert_ne!(head.kind, GOAWAY, "{payload:?}");
        }
    }

    /// All frames until the answer to a PING that is sent now.
    async fn until_pong(&mut self) -> Vec<(Frame, Vec<u8>)> {
        self.say(&[frame(PING, 0, 0, b"and now?")]).await;
        let mut frames = Vec::new();
        loop {
            let (head, payload) = self.next().await;
            if head.kind == PING && payload == b"and now?" {
                return frames;
            }
            frames.push((head, payload));
        }
    }

    /// With the server's SETTINGS taken in.
    async fn greet(&mut self, more: &[Vec<u8>]) {
        self.say(&[frame(SETTINGS, 0, 0, &[])]).await;
        self.say(more).await;
        self.until_pong().await;
    }

    fn ask(&self, request: Request<UploadBody>) -> Answer {
        let mut sender = self.sender.clone();
        tokio::spawn(async move { sender.send_http(request).await })
    }

    async fn upload(&mut self) -> Answer {
        let (request, mut tasks) = upload(vec![7; LENGTH]).await;
        self.asked
            .spawn(async move { while tasks.join_next().await.is_some() {} });
        self.ask(request)
    }

    async fn beginning(&mut self) {
        let (first, payload) = self.next().await;
        assert_eq!((first.kind, first.flags, first.stream), (SETTINGS, 0, 0));
        let pushes = payload.chunks_exact(6).find(|set| set[..2] == [0, 2]);
        assert_eq!(pushes.map(|set| &set[2..]), Some(&[0; 4][..]));
    }

    async fn acknowledgements(&mut self) {
        self.greet(&[]).await;
        self.say(&[set(99, 1), set(INITIAL_WINDOW_SIZE, 9)]).await;
        let frames = self.until_pong().await;
        let acks = frames.iter().filter(|(head, _)| head.kind == SETTINGS);
        assert_eq!(acks.filter(|(head, _)| head.has(ACK)).count(), 2);
    }

    async fn pong(&mut self) {
        self.greet(&[]).await;
        for payload in [b"01234567", b"89abcdef"] {
            self.say(&[frame(PING, 0, 0, payload)]).await;
            let (head, echoed) = self.first(PING).await;
            assert_eq!((head.flags, &echoed[..]), (ACK, &payload[..]));
        }
    }

    async fn stream_numbers(&mut self) {
        self.greet(&[]).await;
        for expected in [1, 3, 5] {
            let answer = self.ask(get(&Method::GET));
            assert_eq!(self.first(HEADERS).await.0.stream, expected);
            let whole = frame(HEADERS, END_HEADERS | END_STREAM, expected, OK);
            self.say(&[whole]).await;
            assert!(answer.await.unwrap().is_ok());
        }
    }

    async fn few_streams(&mut self) {
        self.greet(&[set(MAX_CONCURRENT_STREAMS, 1)]).await;
        let asked = [self.ask(get(&Method::GET)), self.ask(get(&Method::GET))];
        self.first(HEADERS).await;
        let frames = self.until_pong().await;
        assert!(frames.iter().all(|(head, _)| head.kind != HEADERS));
        asked.iter().for_each(JoinHandle::abort);
    }

    async fn frame_size(&mut self, most: usize, settings: &[u8]) {
        let window = set(INITIAL_WINDOW_SIZE, 1 << 20);
        self.greet(&[settings.to_vec(), window, update(0, 1 << 20)])
            .await;
        let _answer = self.upload().await;
        let mut received = 0;
        while received < LENGTH {
            let (head, payload) = self.next().await;
            assert!(head.length <= most, "{head:?}");
            assert!(![GOAWAY, PUSH_PROMISE].contains(&head.kind), "{head:?}");
            received += bytes(&[(head, payload)]);
        }
    }

    async fn table_size(&mut self) {
        self.greet(&[set(HEADER_TABLE_SIZE, 0)]).await;
        let _answer = self.ask(get(&Method::GET));
        // A size of 0 (RFC 7541 §6.3), before all fields.
        let (_, block) = self.first(HEADERS).await;
        assert_eq!(block.first(), Some(&0x20));
    }

    async fn window(&mut self) {
        self.greet(&[set(INITIAL_WINDOW_SIZE, 0)]).await;
        let _answer = self.upload().await;
        self.first(HEADERS).await;
        assert_eq!(bytes(&self.until_pong().await), 0);
        self.say(&[update(1, 10)]).await;
        assert_eq!(self.first(DATA).await.0.length, 10);
        assert_eq!(bytes(&self.until_pong().await), 0);
    }

    async fn negative_window(&mut self) {
        self.greet(&[set(INITIAL_WINDOW_SIZE, 1000)]).await;
        let _answer = self.upload().await;
        let mut received = 0;
        while received < 1000 {
            received += self.first(DATA).await.0.length;
        }
        assert_eq!(received, 1000);
        // Now the window is -900; 900 more make it nothing.
        self.say(&[set(INITIAL_WINDOW_SIZE, 100), update(1, 900)])
            .await;
        assert_eq!(bytes(&self.until_pong().await), 0);
        self.say(&[update(1, 7)]).await;
        assert_eq!(self.first(DATA).await.0.length, 7);
    }

    async fn connection_window(&mut self) {
        self.greet(&[set(INITIAL_WINDOW_SIZE, 1 << 20)]).await;
        let _answer = self.upload().await;
        let mut received = 0;
        while received < 65_535 {
            received += self.first(DATA).await.0.length;
        }
        assert_eq!(received, 65_535);
        assert_eq!(bytes(&self.until_pong().await), 0);
        self.say(&[update(0, 5)]).await;
        assert_eq!(self.first(DATA).await.0.length, 5);
    }

    async fn goodbye(&mut self) {
        self.greet(&[]).await;
        let answer = self.ask(get(&Method::GET));
        self.first(HEADERS).await;
        self.say(&[frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])])
            .await;
        self.until_pong().await;
        assert!(self.sender.is_closed());
        assert!(self.ask(get(&Method::GET)).await.unwrap().is_err());
        let frames = self.until_pong().await;
        assert!(frames.iter().all(|(head, _)| head.kind != HEADERS));
        self.say(&[whole(OK)]).await;
        assert!(answer.await.unwrap().is_ok(), "it was spared");
    }

    /// So many answers that nobody reads, as many bytes together as their windows do not hold.
    async fn too_much_data(&mut self, streams: u32) {
        self.greet(&[]).await;
        let mut held = Vec::new();
        let each = 81_920 - (streams - 1) as usize * 8_192;
        for at in 0..streams {
            let answer = self.ask(get(&Method::GET));
            let (head, _) = self.first(HEADERS).await;
            assert_eq!(head.stream, 2 * at + 1);
            self.say(&[frame(HEADERS, END_HEADERS, head.stream, OK)])
                .await;
            held.push(answer.await.unwrap().unwrap());
            let half = frame(DATA, 0, head.stream, &[0; FRAME / 2]);
            let data = vec![half; each / (FRAME / 2)];
            if self.far.write_all(&data.concat()).await.is_err() {
                break;
            }
        }
        loop {
            let (head, payload) = self.next().await;
            let code = match head.kind {
                GOAWAY => &payload[4..8],
                RST_STREAM => &payload[..4],
                _ => continue,
            };
            assert_eq!(code, FLOW_CONTROL_ERROR.to_be_bytes());
            assert!(streams == 1 || head.kind == GOAWAY);
            return;
        }
    }

    async fn never_indexed(&mut self) {
        self.greet(&[]).await;
        let mut request = get(&Method::GET);
        let mut value = HeaderValue::from_static("hidden");
        value.set_sensitive(true);
        request.headers_mut().insert("x-key", value);
        let _answer = self.ask(request);
        let (_, block) = self.first(HEADERS).await;
        let fields = crate::h2wire::testing::fields(&block);
        assert!(fields["x-key"].is_sensitive(), "{block:x?}");
    }

    async fn mark_of_answers(&mut self) {
        self.greet(&[]).await;
        let answer = self.ask(get(&Method::GET));
        self.first(HEADERS).await;
        let hidden = [&[0x10][..], &field("x-key", "hidden")[1..]].concat();
        self.say(&[answered(&[OK, &hidden].concat())]).await;
        let answer = answer.await.unwrap().unwrap();
        let marked = answer.headers()["x-key"].is_sensitive();
        assert_eq!(marked, self.engine == Http2::Own);
    }
}
