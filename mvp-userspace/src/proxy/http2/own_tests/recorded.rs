//! What real servers say, as `recorded/README.md` has it.

use super::*;

/// A recording, and what was asked in it: method and status, and the length of the answer's body.
type Recording = (&'static str, &'static [u8], &'static [(Method, u16, usize)]);

const LARGE: usize = 39_000;

const RECORDINGS: [Recording; 3] = [
    (
        "nginx",
        include_bytes!("recorded/nginx"),
        &[
            (Method::GET, 200, 18),
            (Method::GET, 200, LARGE),
            (Method::HEAD, 200, 0),
            (Method::GET, 404, 153),
            (Method::GET, 304, 0),
            (Method::GET, 410, 5),
            (Method::GET, 200, 0),
            (Method::GET, 200, 293),
        ],
    ),
    (
        "nghttpd",
        include_bytes!("recorded/nghttpd"),
        &[
            (Method::GET, 200, 18),
            (Method::GET, 200, LARGE),
            (Method::HEAD, 200, 0),
            (Method::GET, 404, 148),
            (Method::GET, 200, 0),
        ],
    ),
    (
        "node",
        include_bytes!("recorded/node"),
        &[
            (Method::GET, 200, 18),
            (Method::GET, 200, LARGE),
            (Method::HEAD, 200, 0),
            (Method::GET, 404, 0),
            (Method::GET, 200, 6),
            (Method::GET, 200, 4),
            (Method::GET, 200, 4),
        ],
    ),
];

/// Makes all requests, in their order, and gives the client what was recorded.
async fn replayed(
    engine: Http2,
    bytes: &'static [u8],
    asked: &[(Method, u16, usize)],
) -> Vec<Outcome> {
    let (sender, mut far) = connect(engine).await;
    let mut answers = Vec::new();
    far.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    for (method, ..) in asked {
        let (mut sender, request) = (sender.clone(), get(method));
        answers.push(tokio::spawn(async move {
            outcome(sender.send_http(request).await).await
        }));
        // Its stream has its number before the next one asks for one.
        while read_frame(&mut far).await.kind != HEADERS {}
    }
    drop(sender);
    far.write_all(bytes).await.unwrap();
    let mut outcomes = Vec::new();
    for answer in answers {
        outcomes.push(answer.await.unwrap());
    }
    outcomes
}

#[tokio::test]
async fn what_real_servers_say_has_the_same_outcome() {
    for (name, bytes, asked) in RECORDINGS {
        let own = replayed(Http2::Own, bytes, asked).await;
        let library = replayed(Http2::Library, bytes, asked).await;
        assert_eq!(own, library, "{name}");
        for (outcome, (_, status, length)) in own.iter().zip(asked) {
            assert_eq!(ending(outcome), None, "{name}: {outcome:?}");
            assert_eq!(outcome.head.as_ref().unwrap().0, *status, "{name}");
            assert_eq!(outcome.body.len(), *length, "{name}");
        }
    }
}
