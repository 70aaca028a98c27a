//! What no list has.

use super::*;

/// As many streams as are allowed: what goes on behind a refused one is in the list of differences.
const MOST: u32 = 2 * 4;

/// What a client does that follows all rules.
#[derive(Debug, Default)]
struct Obedient {
    frames: Vec<Vec<u8>>,
    /// Streams, and whether their requests go on.
    streams: Vec<(u32, bool)>,
}

impl Obedient {
    fn step(&mut self, what: u8, which: u8, size: u16) {
        let paths = ["/", "/empty", "/never", "/early", "/echo", "/large"];
        // With an upload and an answer that both do not end, the library fails an assertion of its own at the end of the connection.
        let paths = &paths[..paths.len() - usize::from(what == 1)];
        let path = paths[usize::from(which) % paths.len()];
        let next = 2 * self.streams.len() as u32 + 1;
        let some = usize::from(which).checked_rem(self.streams.len());
        let bytes = vec![b'd'; usize::from(size) % 3000];
        match (what, some) {
            (0, _) if next < MOST => {
                self.frames.push(get(next, path));
                self.streams.push((next, false));
            }
            (1, _) if next < MOST => {
                self.frames.push(post(next, path));
                self.streams.push((next, true));
            }
            (2..=4, Some(at)) if self.streams[at].1 => {
                let (id, open) = &mut self.streams[at];
                *open = what == 2;
                self.frames.push(match what {
                    2 if size.is_multiple_of(2) => data(*id, &bytes),
                    2 => frame(DATA, PADDED, *id, &[&[3], &bytes[..], &[0; 3]].concat()),
                    3 => last(*id, &bytes),
                    _ => frame(HEADERS, WHOLE, *id, &block(&[("t", "v")])),
                });
            }
            (5, Some(at)) => {
                let code = if size.is_multiple_of(2) {
                    CANCEL
                } else {
                    INTERNAL_ERROR
                };
                self.streams[at].1 = false;
                self.frames.push(reset(self.streams[at].0, code));
            }
            (6, Some(at)) => {
                let id = self.streams[at].0;
                self.frames.push(update(id, u32::from(size) + 1));
            }
            (7, _) => {
                let window = u32::from(size);
                self.frames.push(set(setting::INITIAL_WINDOW_SIZE, window));
            }
            _ => self.frames.push(frame(PING, 0, 0, b"whatever")),
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_an_obedient_client_says_has_the_same_outcome(
        steps in proptest::collection::vec((0_u8..9, proptest::prelude::any::<u8>(), proptest::prelude::any::<u16>()), 0..30),
    ) {
        let mut client = Obedient::default();
        // How a window is shared is the server's to choose: there is enough of the connection's for all.
        client.frames.push(update(0, 1 << 30));
        for (what, which, size) in steps {
            client.step(what, which, size);
        }
        let bytes = script(&client.frames);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let library = runtime.block_on(told(Http2::Library, &bytes));
        let own = runtime.block_on(told(Http2::Own, &bytes));
        proptest::prop_assert_eq!(own, library);
    }
}
