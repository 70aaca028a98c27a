//! What the look at a ClientHello makes of any bytes, compared with what rustls makes of them when it reads them itself.

use rustls::server::Acceptor;

use super::{Frame, MAX_HELLO, frame, parse};

/// The first byte chooses where a first look ends, the rest is what the client sends. Panics if the look and rustls disagree.
pub fn fuzz_hello(data: &[u8]) {
    let Some((cut, sent)) = data.split_first() else {
        return;
    };
    let sent = sent.get(..MAX_HELLO).unwrap_or(sent);
    let whole = frame(sent);
    // What an earlier look decided stands, whatever comes after it.
    let early = sent.get(..sent.len() * usize::from(*cut) / 255);
    let early = early.unwrap_or_default();
    match frame(early) {
        Frame::More(wanted) => assert!(wanted > early.len(), "it waits for what is there"),
        decided => assert_eq!(decided, whole, "a later look decides otherwise"),
    }
    let rustls = accepted(sent);
    match whole {
        Frame::Whole(end) => {
            let ours = parse(sent.get(..end).unwrap_or_default());
            let theirs = match rustls {
                Outcome::Hello(hello) => Some(hello),
                Outcome::More => {
                    panic!("rustls waits for more than what was taken for a whole hello")
                }
                Outcome::Refused => None,
            };
            assert_eq!(
                ours.map(|hello| (hello.server_name, hello.alpn)),
                theirs,
                "what is read differs"
            );
        }
        // rustls may find sooner that it will refuse, but never takes for whole what is not.
        Frame::More(_) => assert!(!matches!(rustls, Outcome::Hello(_)), "a hello was missed"),
        Frame::NotTls => assert!(!matches!(rustls, Outcome::Hello(_)), "a hello was refused"),
        Frame::TooLong => {}
    }
}

type Hello = (Option<String>, Vec<Vec<u8>>);

enum Outcome {
    Hello(Hello),
    More,
    Refused,
}

/// As a server reads them: segment by segment, asked after each.
fn accepted(mut sent: &[u8]) -> Outcome {
    let mut acceptor = Acceptor::default();
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                let name = hello.server_name().map(str::to_ascii_lowercase);
                let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec);
                return Outcome::Hello((name, alpn.collect()));
            }
            Ok(None) => {}
            Err(_) => return Outcome::Refused,
        }
        match acceptor.read_tls(&mut sent) {
            Ok(0) => return Outcome::More,
            Ok(_) => {}
            Err(_) => return Outcome::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the fuzzer begins with.
    fn seeds() -> Vec<Vec<u8>> {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fuzz/seeds/client_hello"
        );
        let files = std::fs::read_dir(folder).unwrap();
        files
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// A hello that is cut, changed in some bytes, or followed by others.
        #[test]
        fn changed_hellos_are_read_as_rustls_reads_them(
            which in any::<prop::sample::Index>(),
            early in any::<u8>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
            more in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let seeds = seeds();
            let mut data = which.get(&seeds).clone();
            data[0] = early;
            for (at, byte) in changes {
                let at = at.index(data.len());
                data[at] = byte;
            }
            if is_cut {
                data.truncate(cut.index(data.len()));
            }
            data.extend(more);
            fuzz_hello(&data);
        }
    }
}
