//! Where the events of a watch begin and end. A stream may end between two events, since every client resumes it.

use http::HeaderValue;

/// Follows a watch's bytes in the framing of its media type (apimachinery/pkg/runtime/serializer).
#[derive(Debug, PartialEq)]
pub enum WatchFraming {
    /// JSON: each line is one event.
    Lines { whole: bool },
    /// Protobuf: each event has its length before it, four bytes, big-endian (util/framer).
    Framed(FrameProgress),
    /// Any other media type: only the begin of the stream is known to be between two events.
    Opaque { begun: bool },
}

#[derive(Debug, PartialEq)]
pub enum FrameProgress {
    Length { read: u8, value: u32 },
    Content { left: u32 },
}

const BETWEEN: FrameProgress = FrameProgress::Length { read: 0, value: 0 };

impl WatchFraming {
    /// By the answer's `Content-Type`.
    pub fn of(content_type: Option<&HeaderValue>) -> Self {
        let media = content_type.map_or(&b""[..], HeaderValue::as_bytes);
        let is = |name: &str| {
            let end = media
                .get(name.len())
                .is_none_or(|next| b"; ".contains(next));
            end && media
                .get(..name.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
        };
        if is("application/json") {
            Self::Lines { whole: true }
        } else if is("application/vnd.kubernetes.protobuf") {
            Self::Framed(BETWEEN)
        } else {
            Self::Opaque { begun: false }
        }
    }

    /// True if what was passed on so far is whole events.
    pub fn at_boundary(&self) -> bool {
        match self {
            Self::Lines { whole } => *whole,
            Self::Framed(frame) => *frame == BETWEEN,
            Self::Opaque { begun } => !begun,
        }
    }

    /// Takes note of bytes that were passed on.
    pub fn passed(&mut self, chunk: &[u8]) {
        let Some(last) = chunk.last() else { return };
        match self {
            Self::Lines { whole } => *whole = *last == b'\n',
            Self::Framed(frame) => frame.passed(chunk),
            Self::Opaque { begun } => *begun = true,
        }
    }
}

impl FrameProgress {
    fn passed(&mut self, mut chunk: &[u8]) {
        while let [first, rest @ ..] = chunk {
            match self {
                FrameProgress::Length { read, value } => {
                    let value = *value << 8 | u32::from(*first);
                    *self = match *read {
                        3 if value == 0 => BETWEEN,
                        3 => FrameProgress::Content { left: value },
                        read => FrameProgress::Length {
                            read: read + 1,
                            value,
                        },
                    };
                    chunk = rest;
                }
                FrameProgress::Content { left } => {
                    let taken = chunk
                        .len()
                        .min(usize::try_from(*left).unwrap_or(usize::MAX));
                    chunk = chunk.get(taken..).unwrap_or_default();
                    // At most `left`, so it fits.
                    *left -= u32::try_from(taken).unwrap_or(*left);
                    if *left == 0 {
                        *self = BETWEEN;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content_type: &str) -> WatchFraming {
        WatchFraming::of(Some(&HeaderValue::from_str(content_type).unwrap()))
    }

    #[test]
    fn media_types() {
        let lines = WatchFraming::Lines { whole: true };
        assert_eq!(of("application/json"), lines);
        assert_eq!(of("application/json;as=Table;g=meta.k8s.io;v=v1"), lines);
        assert_eq!(of("Application/JSON; charset=utf-8"), lines);
        let framed = of("application/vnd.kubernetes.protobuf;stream=watch");
        assert_eq!(framed, WatchFraming::Framed(BETWEEN));
        for other in ["application/cbor-seq", "application/jsonx", "text/plain"] {
            assert_eq!(of(other), WatchFraming::Opaque { begun: false }, "{other}");
        }
        assert_eq!(
            WatchFraming::of(None),
            WatchFraming::Opaque { begun: false }
        );
    }

    #[test]
    fn lines_end_with_a_newline() {
        let mut events = of("application/json");
        assert!(events.at_boundary());
        events.passed(b"{\"type\"");
        assert!(!events.at_boundary());
        events.passed(b"");
        assert!(!events.at_boundary());
        events.passed(b":1}\n{}\n");
        assert!(events.at_boundary());
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let mut stream = Vec::new();
        let mut ends = vec![0];
        // A newline at the end of a part of a frame means nothing.
        for content in [&b"k8s\0\n"[..], b"", &[b'\n'; 300], b"x"] {
            stream.extend_from_slice(&(content.len() as u32).to_be_bytes());
            stream.extend_from_slice(content);
            ends.push(stream.len());
        }
        for size in [1, 2, 3, 7, 64, stream.len()] {
            let mut events = of("application/vnd.kubernetes.protobuf;stream=watch");
            let mut passed = 0;
            for chunk in stream.chunks(size) {
                events.passed(chunk);
                passed += chunk.len();
                assert_eq!(
                    events.at_boundary(),
                    ends.contains(&passed),
                    "{size} {passed}"
                );
            }
        }
    }

    #[test]
    fn of_what_is_not_known_no_event_is_whole() {
        let mut events = of("application/cbor-seq");
        assert!(events.at_boundary());
        events.passed(b"\n");
        assert!(!events.at_boundary());
    }
}
