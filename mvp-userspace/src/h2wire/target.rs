//! Requests that the HTTP library cannot represent, how they are marked, and what replaces their targets.

/// The field that marks a request whose head was replaced; its value says why.
pub const REFUSED: &str = "x-mvp-refused-target";

/// `http::Uri` takes no more bytes.
const LONGEST: usize = 65_534;
/// A stand-in is no longer than this: an entry of more than the HPACK table holds empties the table, however long it is.
const STAND_IN: usize = 8192;

/// Why a request cannot be carried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The target has characters that the library refuses, or a `#`.
    Malformed,
    /// The target is longer than the library takes.
    TooLong,
    /// Over HTTP/1.1: more bytes of header than the limit.
    HeaderBytes,
    /// Over HTTP/1.1: more fields than the limit.
    HeaderCount,
    /// Over HTTP/1.1: what is sent is no head of a request.
    Head,
    /// Over HTTP/1.1: a transfer coding other than `chunked`.
    Encoding,
}

impl Refusal {
    const ALL: [Self; 6] = [
        Self::Malformed,
        Self::TooLong,
        Self::HeaderBytes,
        Self::HeaderCount,
        Self::Head,
        Self::Encoding,
    ];

    /// The value of the field that marks the request.
    pub fn mark(self) -> &'static [u8] {
        self.text().as_bytes()
    }

    /// The same as a text.
    pub fn text(self) -> &'static str {
        match self {
            Self::Malformed => "400",
            Self::TooLong => "414",
            Self::HeaderBytes => "431-bytes",
            Self::HeaderCount => "431-count",
            Self::Head => "400-head",
            Self::Encoding => "501",
        }
    }

    /// What a mark says; one that a client has made up says that its request is malformed.
    pub fn of_mark(mark: &[u8]) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|refusal| refusal.mark() == mark)
            .unwrap_or(Self::Malformed)
    }
}

/// Whether the HTTP library would refuse the target, or cut it off at a `#`. One that is no path at all is a breach of HTTP, and the
/// library's to judge.
pub fn judge(target: &[u8]) -> Option<Refusal> {
    if target.len() <= LONGEST && target.iter().all(is_plain) {
        return None;
    }
    if target.len() > LONGEST {
        return Some(Refusal::TooLong);
    }
    let carried = !target.contains(&b'#') && http::uri::PathAndQuery::try_from(target).is_ok();
    (!carried).then_some(Refusal::Malformed)
}

/// A target that the library takes, of the same size as far as HPACK's table is concerned (RFC 7541 §4.1).
pub fn stand_in(target: &[u8]) -> Vec<u8> {
    let kept = target.iter().take(STAND_IN);
    let mut plain: Vec<u8> = kept
        .map(|byte| if is_plain(byte) { *byte } else { b'_' })
        .collect();
    if let Some(first) = plain.first_mut() {
        *first = b'/';
    }
    plain
}

/// Whether the byte is a character of RFC 3986 §3.3 and §3.4, which every library accepts.
fn is_plain(byte: &u8) -> bool {
    PLAIN.get(usize::from(*byte)).is_some_and(|plain| *plain)
}

static PLAIN: [bool; 256] = plain();

#[expect(
    clippy::indexing_slicing,
    reason = "computed while the agent is compiled"
)]
const fn plain() -> [bool; 256] {
    let mut plain = [false; 256];
    let marks = b"-._~!$&'()*+,;=:@%/?";
    let (mut byte, mut mark) = (0, 0);
    while byte < plain.len() {
        plain[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    while mark < marks.len() {
        plain[marks[mark] as usize] = true;
        mark += 1;
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_carried_and_what_is_not() {
        let long = [b"/".as_slice(), &[b'a'; LONGEST]].concat();
        for (target, refusal) in [
            (&b"/api/v1/pods?labelSelector=a%3Db"[..], None),
            (b"*", None),
            (b"", None),
            (b"/a#b", Some(Refusal::Malformed)),
            (b"#", Some(Refusal::Malformed)),
            (b"/`<>", Some(Refusal::Malformed)),
            (b"/\xff", Some(Refusal::Malformed)),
            (b"/a b", Some(Refusal::Malformed)),
            (&long, Some(Refusal::TooLong)),
        ] {
            assert_eq!(judge(target), refusal, "{:?}", target.get(..9));
        }
    }

    #[test]
    fn a_mark_says_what_it_was_made_of() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::of_mark(refusal.mark()), refusal);
        }
        assert_eq!(Refusal::of_mark(b"200"), Refusal::Malformed);
    }

    proptest! {
        #[test]
        fn a_stand_in_is_carried_whole(target in prop::collection::vec(any::<u8>(), 1..300)) {
            let plain = stand_in(&target);
            prop_assert_eq!(plain.len(), target.len());
            prop_assert_eq!(judge(&plain), None);
            let uri = http::uri::PathAndQuery::try_from(plain.as_slice()).unwrap();
            prop_assert_eq!(uri.as_str().as_bytes(), plain);
        }
    }
}
