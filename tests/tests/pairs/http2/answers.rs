//! What a server sends, whatever the client asks for.

use std::time::Duration;

use mvp_tests::fixtures::CONFIG_MAPS;
use mvp_tests::raw::{Frame, GOAWAY, HEADERS, RST_STREAM, Raw, SETTINGS, block, frame};

use super::{
    ACK, DATA, END_HEADERS, FLOW_CONTROL_ERROR, PING, PREFACE, PROTOCOL_ERROR, PUSH_PROMISE,
    REFUSED_STREAM, Stage, WINDOW_UPDATE, get, setting, usual,
};

/// 300,000 bytes.
const LARGE: &str = "/api/v1/namespaces/default/pods/any/log?mvpBytes=300000";
/// An upload that nobody reads.
const STALLED: &str = "/api/v1/namespaces/default/services/s/proxy/stalled";
/// The most that a test sends of one.
const UPLOAD: usize = 64 << 20;

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// RFC 9113 §4.2: what everybody takes.
const FRAME: usize = 16_384;

#[derive(Clone, Copy)]
pub(super) enum Check {
    FirstFrame,
    Acknowledgements,
    Pong,
    FrameSize,
    LargerFrames,
    TableSize,
    Window,
    NegativeWindow,
    ConnectionWindow,
    TooManyStreams,
    TooMuchData,
}

/// The section, what it asks for, and what checks it.
pub(super) const ROWS: [(&str, &str, Check); 11] = [
    (
        "3.4",
        "SETTINGS first, and no ENABLE_PUSH (6.5.2)",
        Check::FirstFrame,
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
        "4.2",
        "no frame above 16,384 bytes, and no PUSH_PROMISE (6.6)",
        Check::FrameSize,
    ),
    (
        "4.2, 6.5.2",
        "no frame above the client's MAX_FRAME_SIZE",
        Check::LargerFrames,
    ),
    (
        "4.3.1, 7541 4.2",
        "a smaller table at the beginning of a header block, after the client's HEADER_TABLE_SIZE",
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
        "5.1.2",
        "PROTOCOL_ERROR or REFUSED_STREAM for a stream above its MAX_CONCURRENT_STREAMS",
        Check::TooManyStreams,
    ),
    (
        "6.9.1",
        "FLOW_CONTROL_ERROR for DATA above its windows",
        Check::TooMuchData,
    ),
];

#[tokio::test]
async fn the_agent_sends_what_it_must() {
    for engine in super::ENGINES {
        every_check(&Stage::new(engine).await).await;
    }
}

async fn every_check(stage: &Stage) {
    for (section, what, check) in ROWS {
        println!("{section} {what}");
        match check {
            Check::FirstFrame => first_frame(stage).await,
            Check::Acknowledgements => acknowledgements(stage).await,
            Check::Pong => pong(stage).await,
            Check::FrameSize => frame_size(stage, FRAME, b"").await,
            Check::LargerFrames => frame_size(stage, 20_000, &setting(5, 20_000)).await,
            Check::TableSize => table_size(stage).await,
            Check::Window => window(stage).await,
            Check::NegativeWindow => negative_window(stage).await,
            Check::ConnectionWindow => connection_window(stage).await,
            Check::TooManyStreams => too_many_streams(stage).await,
            Check::TooMuchData => too_much_data(stage).await,
        }
        assert!(stage.serves().await, "{what}: nobody else is worse for it");
    }
}

async fn next(raw: &mut Raw) -> Frame {
    raw.frame().await.unwrap().expect("the connection ended")
}

/// The first frame of a kind.
async fn first(raw: &mut Raw, kind: u8) -> Frame {
    loop {
        let frame = next(raw).await;
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        if frame.kind == kind {
            return frame;
        }
    }
}

/// All frames until the answer to a PING that is sent now.
async fn until_pong(raw: &mut Raw) -> Vec<Frame> {
    raw.send(frame(PING, 0, 0, b"and now?")).await.unwrap();
    let mut frames = Vec::new();
    loop {
        let frame = next(raw).await;
        if frame.kind == PING && frame.payload == *b"and now?" {
            return frames;
        }
        frames.push(frame);
    }
}

fn bytes(frames: &[Frame]) -> usize {
    let data = frames.iter().filter(|frame| frame.kind == DATA);
    data.map(|frame| frame.payload.len()).sum()
}

/// A setting that the agent announces.
fn announced(settings: &Frame, id: u16) -> Option<u32> {
    let mut settings = settings.payload.chunks_exact(6);
    let setting = settings.find(|setting| setting[..2] == id.to_be_bytes())?;
    Some(u32::from_be_bytes(setting[2..].try_into().unwrap()))
}

async fn first_frame(stage: &Stage) {
    let mut raw = stage.connect_silently().await;
    raw.send([PREFACE, &frame(SETTINGS, 0, 0, b"")].concat())
        .await
        .unwrap();
    let first = next(&mut raw).await;
    assert_eq!(
        (first.kind, first.flags & ACK, first.stream),
        (SETTINGS, 0, 0)
    );
    assert!(matches!(announced(&first, 2), None | Some(0)), "{first:?}");
}

async fn acknowledgements(stage: &Stage) {
    let mut raw = stage.connect().await;
    for _ in 0..3 {
        raw.send(setting(INITIAL_WINDOW_SIZE, 100_000))
            .await
            .unwrap();
    }
    let frames = until_pong(&mut raw).await;
    let acknowledged = frames
        .iter()
        .filter(|frame| frame.kind == SETTINGS && frame.flags & ACK != 0);
    // With the first one of the connection.
    assert_eq!(acknowledged.count(), 4, "{frames:?}");
}

async fn pong(stage: &Stage) {
    let mut raw = stage.connect().await;
    for payload in [b"01234567", b"89abcdef"] {
        raw.send(frame(PING, 0, 0, payload)).await.unwrap();
        let pong = first(&mut raw, PING).await;
        assert_eq!((pong.flags, &pong.payload[..]), (ACK, &payload[..]));
    }
}

async fn frame_size(stage: &Stage, most: usize, settings: &[u8]) {
    let mut raw = stage.connect().await;
    raw.send(
        [
            settings,
            &window_update(0, 1 << 20),
            &get(1, LARGE),
            &window_update(1, 1 << 20),
        ]
        .concat(),
    )
    .await
    .unwrap();
    let mut received = 0;
    while received < 300_000 {
        let frame = next(&mut raw).await;
        assert!(frame.payload.len() <= most, "{} bytes", frame.payload.len());
        assert!(![GOAWAY, PUSH_PROMISE].contains(&frame.kind), "{frame:?}");
        received += bytes(&[frame]);
    }
}

async fn table_size(stage: &Stage) {
    let mut raw = stage.connect().await;
    raw.send(setting(1, 0)).await.unwrap();
    raw.send(get(1, CONFIG_MAPS)).await.unwrap();
    let answer = first(&mut raw, HEADERS).await;
    // A size update to 0 (RFC 7541 §6.3), then `:status: 200`.
    assert_eq!(answer.payload[..2], [0x20, 0x88]);
}

fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

async fn window(stage: &Stage) {
    let mut raw = stage.connect().await;
    raw.send(setting(INITIAL_WINDOW_SIZE, 0)).await.unwrap();
    raw.send(get(1, LARGE)).await.unwrap();
    first(&mut raw, HEADERS).await;
    assert_eq!(bytes(&until_pong(&mut raw).await), 0);
    raw.send(window_update(1, 10)).await.unwrap();
    assert_eq!(first(&mut raw, DATA).await.payload.len(), 10);
    assert_eq!(bytes(&until_pong(&mut raw).await), 0);
}

async fn negative_window(stage: &Stage) {
    let mut raw = stage.connect().await;
    raw.send(setting(INITIAL_WINDOW_SIZE, 1000)).await.unwrap();
    raw.send(get(1, LARGE)).await.unwrap();
    let mut received = 0;
    while received < 1000 {
        received += first(&mut raw, DATA).await.payload.len();
    }
    assert_eq!(received, 1000);
    // Now the window is -900; 900 more make it nothing.
    raw.send(setting(INITIAL_WINDOW_SIZE, 100)).await.unwrap();
    raw.send(window_update(1, 900)).await.unwrap();
    assert_eq!(bytes(&until_pong(&mut raw).await), 0);
    raw.send(window_update(1, 7)).await.unwrap();
    assert_eq!(first(&mut raw, DATA).await.payload.len(), 7);
}

async fn connection_window(stage: &Stage) {
    let mut raw = stage.connect().await;
    raw.send(setting(INITIAL_WINDOW_SIZE, 1 << 20))
        .await
        .unwrap();
    raw.send(get(1, LARGE)).await.unwrap();
    let mut received = 0;
    while received < 65_535 {
        received += first(&mut raw, DATA).await.payload.len();
    }
    assert_eq!(received, 65_535);
    assert_eq!(bytes(&until_pong(&mut raw).await), 0);
    raw.send(window_update(0, 5)).await.unwrap();
    let mut more = 0;
    while more < 5 {
        more += first(&mut raw, DATA).await.payload.len();
    }
    assert_eq!(more + bytes(&until_pong(&mut raw).await), 5);
}

async fn too_many_streams(stage: &Stage) {
    let mut raw = stage.connect().await;
    let settings = first(&mut raw, SETTINGS).await;
    let most = announced(&settings, MAX_CONCURRENT_STREAMS).expect("a limit");
    let fields = block(&usual("POST", STALLED));
    for number in 0..=most {
        let stream = 2 * number + 1;
        raw.send(frame(HEADERS, END_HEADERS, stream, &fields))
            .await
            .unwrap();
    }
    let reset = first(&mut raw, RST_STREAM).await;
    assert_eq!(reset.stream, 2 * most + 1);
    let code = u32::from_be_bytes(reset.payload[..4].try_into().unwrap());
    assert!([PROTOCOL_ERROR, REFUSED_STREAM].contains(&code), "{code}");
}

async fn too_much_data(stage: &Stage) {
    let mut raw = stage.connect().await;
    let fields = block(&usual("POST", STALLED));
    raw.send(frame(HEADERS, END_HEADERS, 1, &fields))
        .await
        .unwrap();
    let data = frame(DATA, 0, 1, &[0; FRAME]);
    let mut refused = None;
    for _ in 0..UPLOAD / FRAME {
        // A connection that was ended cannot be written to. What came before it ended is still there to be read.
        if refused.is_some() || raw.send(&data).await.is_err() {
            break;
        }
        // Only what has come by now.
        if let Ok(Ok(Some(frame))) = tokio::time::timeout(Duration::ZERO, raw.frame()).await {
            refused = refusal(&frame);
        }
    }
    while refused.is_none() {
        refused = refusal(&next(&mut raw).await);
    }
    assert_eq!(refused, Some(FLOW_CONTROL_ERROR));
}

/// The code with which a stream or the connection ends.
fn refusal(frame: &Frame) -> Option<u32> {
    let code = match frame.kind {
        GOAWAY => frame.payload.get(4..8),
        RST_STREAM => frame.payload.get(..4),
        _ => None,
    };
    Some(u32::from_be_bytes(code?.try_into().ok()?))
}
