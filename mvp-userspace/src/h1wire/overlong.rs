//! A head above the limit: read to its end without being kept, so that the request behind it can be told from it.

use super::essence::is_kept;
use super::head::{field, is};

/// The most bytes of a line. A longer one is left out.
const LINE: usize = 4096;
/// The most bytes of all lines that are kept.
const KEPT: usize = 16 * 1024;

/// What is kept of it.
#[derive(Debug, Default)]
pub(super) struct Overlong {
    /// The first line without its target, and those fields that say how the request is refused and where its body ends.
    kept: Vec<u8>,
    line: Vec<u8>,
    /// The length of the line under way, whether it is kept or not.
    length: usize,
    has_first: bool,
    broken: bool,
    /// Bytes that have come.
    pub seen: usize,
}

impl Overlong {
    /// Takes what belongs to the head. With its end, how many bytes that were.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            at += part.len();
            self.seen += part.len();
            self.length += part.len();
            let room = LINE - self.line.len();
            self.line
                .extend_from_slice(part.get(..room).unwrap_or(part));
            if part.ends_with(b"\n") && self.line_ends() {
                return Some(at);
            }
        }
        None
    }

    /// A head of what was kept. `None`: a field that says where the body ends was too long to be one.
    pub(super) fn into_head(mut self) -> Option<Vec<u8>> {
        self.kept.extend_from_slice(b"\r\n");
        (!self.broken).then_some(self.kept)
    }

    /// Whether that was the empty line.
    fn line_ends(&mut self) -> bool {
        let whole = self.length == self.line.len();
        self.length = 0;
        let line = std::mem::take(&mut self.line);
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if !self.has_first {
            // Whatever the target is, it is refused; a long line has its version out of sight.
            self.has_first = true;
            let method = text.split(|byte| *byte == b' ').next().unwrap_or_default();
            let old = whole && text.ends_with(b" HTTP/1.0");
            let rest: &[u8] = if old { b" / HTTP/1.0" } else { b" / HTTP/1.1" };
            self.keep(method);
            self.kept.truncate(self.kept.len().saturating_sub(2));
            self.keep(rest);
            return false;
        }
        if text.is_empty() {
            return true;
        }
        let name = field(text).map_or(&b""[..], |(name, _)| name);
        let frames = [&b"content-length"[..], b"transfer-encoding", b"expect"];
        let frames = frames.iter().any(|frame| is(name, frame));
        let fits = whole && self.kept.len() < KEPT;
        // What is no field at all cannot be told from one that says where the body ends.
        self.broken |= (frames && !fits) || (whole && name.is_empty());
        if fits && (frames || is_kept(text)) {
            self.keep(text);
        }
        false
    }

    fn keep(&mut self, line: &[u8]) {
        self.kept.extend_from_slice(line);
        self.kept.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(text: &str, step: usize) -> (Option<usize>, Option<String>) {
        let mut overlong = Overlong::default();
        let mut taken = 0;
        for chunk in text.as_bytes().chunks(step) {
            if let Some(end) = overlong.take(chunk) {
                let head = overlong.into_head();
                return (
                    Some(taken + end),
                    head.map(|head| String::from_utf8(head).unwrap()),
                );
            }
            taken += chunk.len();
        }
        (None, None)
    }

    #[test]
    fn only_what_matters_is_kept() {
        let long = "v".repeat(3 * LINE);
        let text = format!(
            "POST /{long} HTTP/1.1\r\nX: {long}\r\nHost: k\nContent-Length: 3\r\nY: y\r\nAccept: {long}\r\nAccept: a\r\n\r\nabc"
        );
        for step in [1, 3, 1000, text.len()] {
            let (end, head) = through(&text, step);
            assert_eq!(end, Some(text.len() - 3), "{step}");
            let kept = "POST / HTTP/1.1\r\nHost: k\r\nContent-Length: 3\r\nAccept: a\r\n\r\n";
            assert_eq!(head.as_deref(), Some(kept), "{step}");
        }
        assert_eq!(through("GET / HTTP/1.1\r\nX: y\r\n", 5), (None, None));
        for bad in [
            format!("Content-Length: {}", "1".repeat(LINE)),
            "no field".into(),
        ] {
            let text = format!("GET / HTTP/1.1\r\n{bad}\r\n\r\n");
            assert_eq!(through(&text, 9), (Some(text.len()), None), "{bad:.20}");
        }
    }
}
