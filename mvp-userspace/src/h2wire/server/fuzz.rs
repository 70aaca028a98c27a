//! A client that sends anything at all, while its requests are answered, read and given up.

use std::collections::HashMap;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use super::Server;
use crate::h2wire::frame::PREFACE;
use crate::h2wire::fuzz_input::{LIMITS, sent};

/// Takes `data` as steps of a connection: frames, bytes that are none, and what those do meanwhile who answer. After each step, what the
/// server counts must be what there is; once all is given up, nothing may be kept.
pub fn fuzz_server(data: &[u8]) {
    let mut server = Server::new(LIMITS);
    let mut cx = Context::from_waker(Waker::noop());
    let mut inbox = BytesMut::from(&PREFACE[..]);
    // Whether its body has a reader.
    let mut open: HashMap<u32, bool> = HashMap::new();
    let mut rest = data;
    while let Some((&step, behind)) = rest.split_first() {
        rest = behind;
        let size = usize::from(step >> 3);
        match step & 7 {
            sends @ 0..=3 => {
                let Some(bytes) = sent(sends, size, 32, &mut rest) else {
                    break;
                };
                inbox.extend_from_slice(&bytes);
                server.begin_turn();
                server.receive(&mut inbox);
            }
            4 => {
                for id in open.keys() {
                    let _ = server.respond(*id, StatusCode::OK, &HeaderMap::new(), size == 0);
                }
            }
            5 => {
                for (id, _) in open.iter().filter(|(_, reads)| **reads) {
                    let _ = server.poll_body(*id, &mut cx);
                }
            }
            6 => {
                for id in open.keys() {
                    let mut chunk = Bytes::from(vec![0; size * 100]);
                    let _ = server.poll_data(*id, &mut chunk, size == 0, &mut cx);
                }
            }
            _ => {
                server.written(size * 100);
                match size {
                    0 => server.graceful_shutdown(),
                    1 => open.iter_mut().for_each(|(id, reads)| {
                        server.let_go(*id);
                        *reads = false;
                    }),
                    _ => {
                        let one = open.keys().copied().nth(size % open.len().max(1));
                        if let Some(id) = one {
                            give_up(&mut server, id, &mut open);
                        }
                    }
                }
            }
        }
        server.check();
        while let Some(incoming) = server.accept() {
            open.insert(incoming.stream, !incoming.ends);
        }
    }
    for id in open.keys().copied().collect::<Vec<_>>() {
        give_up(&mut server, id, &mut open);
    }
    server.check();
    assert!(server.streams.is_empty(), "{:?}", server.streams);
}

fn give_up(server: &mut Server, id: u32, open: &mut HashMap<u32, bool>) {
    if open.remove(&id) == Some(true) {
        server.let_go(id);
    }
    server.answered(id);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn whatever_a_client_sends(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            // A client that greets, a request without a body, and one with: GET and POST of `/` by indexes.
            let get = [0x1a, 1, 5, 1, 0x82, 0x87, 0x84];
            let post = [0x1a, 1, 4, 3, 0x83, 0x87, 0x84];
            super::fuzz_server(&[&[1, 4, 0, 0][..], &get, &post, &data].concat());
        }
    }
}
