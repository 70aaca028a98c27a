//! A server that sends anything at all, while requests are made, read and given up.

use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};

use super::Client;
use crate::h2wire::fuzz_input::{LIMITS, sent};

/// Takes `data` as steps of a connection: frames, bytes that are none, and what the requests do meanwhile. After each step, what the
/// client counts must be what there is.
pub fn fuzz_client(data: &[u8]) {
    let mut client = Client::new(LIMITS);
    let mut cx = Context::from_waker(Waker::noop());
    let mut inbox = BytesMut::new();
    let mut open = Vec::new();
    let mut rest = data;
    while let Some((&step, behind)) = rest.split_first() {
        rest = behind;
        let size = usize::from(step >> 3);
        match step & 7 {
            sends @ 0..=3 => {
                let Some(bytes) = sent(sends, size, 16, &mut rest) else {
                    return;
                };
                inbox.extend_from_slice(&bytes);
                client.receive(&mut inbox);
            }
            4 => {
                let (method, ends) = match size & 1 {
                    0 => (Method::GET, true),
                    _ => (Method::POST, false),
                };
                let asked = client.request(&method, "server", "/apis", &HeaderMap::new(), ends);
                open.extend(asked);
            }
            5 => {
                for id in &open {
                    let _ = client.poll_head(*id, &mut cx);
                    let _ = client.poll_body(*id, &mut cx);
                }
            }
            6 => {
                for id in &open {
                    let mut chunk = Bytes::from(vec![0; size * 100]);
                    let _ = client.poll_data(*id, &mut chunk, size == 0, &mut cx);
                }
            }
            _ => {
                client.written(size * 100);
                if !open.is_empty() {
                    client.let_go(open.swap_remove(size % open.len()));
                }
            }
        }
        client.check();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn whatever_a_server_sends(data in proptest::collection::vec(any::<u8>(), 0..400)) {
            // A server that greets, and requests that are under way.
            let begin = [1, 4, 0, 0, 0x04, 0x0c, 0x04];
            super::fuzz_client(&[&begin[..], &data].concat());
        }
    }
}
