//! What real clients say, as `recorded/README.md` has it.

use super::*;

/// What the agent grants unless it is configured otherwise, which is what the clients were granted.
const AS_RECORDED: Granted = Granted {
    limits: Limits {
        stream_window: 256 << 10,
        connection_window: 64 << 20,
        frame: 64 << 10,
        header_list: 1 << 20,
        streams: 250,
        blocks_a_turn: usize::MAX,
    },
    pending_resets: 100,
};

/// The client, what it said, and how many requests of it are answered.
const RECORDINGS: [(&str, &[u8], usize); 8] = [
    ("curl", include_bytes!("recorded/curl"), 100),
    ("curl-upload", include_bytes!("recorded/curl-upload"), 1),
    ("go", include_bytes!("recorded/go"), 100),
    ("h2load", include_bytes!("recorded/h2load"), 200),
    ("httpx", include_bytes!("recorded/httpx"), 100),
    ("nghttp", include_bytes!("recorded/nghttp"), 1),
    ("nghttp-blocks", include_bytes!("recorded/nghttp-blocks"), 2),
    ("node", include_bytes!("recorded/node"), 100),
];

#[tokio::test]
async fn what_real_clients_say_has_the_same_outcome() {
    for (name, bytes, requests) in RECORDINGS {
        // The preface and SETTINGS: the clients had heard of the windows before they sent more than there is at first.
        let settings = Frame::read(&bytes[PREFACE.len()..]).unwrap();
        let client = Client {
            bytes,
            greeting: PREFACE.len() + HEADER + settings.length,
            rounds: 60,
        };
        let mut own = served(Http2::Own, AS_RECORDED, &client).await;
        let library = served(Http2::Library, AS_RECORDED, &client).await;
        // The library forgets it, which is in the list of differences.
        for request in &mut own.seen {
            *request = request.replace(" (never indexed)", "");
        }
        own.seen.sort();
        assert_eq!(own, library, "{name}");
        assert_eq!(own.ended, None, "{name}");
        let answered = own
            .answers
            .values()
            .filter(|answer| answer.status == Some(200));
        assert!(answered.count() >= requests, "{name}: {:?}", own.seen);
    }
}
