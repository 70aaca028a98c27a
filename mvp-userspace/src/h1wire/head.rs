//! A request's head: what it says about the body behind it, and whether the HTTP library takes it.

use http::Uri;

use super::body::Body;
use crate::h2wire::{Refusal, judge};

/// A head that can be told from what follows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: &'a [u8],
    /// The fields, and the empty line.
    pub fields: &'a [u8],
    pub count: usize,
    pub body: Body,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects: bool,
    /// What follows may be another protocol.
    pub upgrades: bool,
}

impl<'a> Head<'a> {
    /// Reads a head that ends with its empty line.
    ///
    /// # Errors
    /// What follows cannot be told from this request: the connection cannot go on. What is refused here is what the HTTP library refuses
    /// ([RFC 9112] §2.2, §3, §5.1, §6.3), and transfer codings other than `chunked`, as in Go's `net/http` (`transfer.go`).
    ///
    /// [RFC 9112]: https://www.rfc-editor.org/rfc/rfc9112
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, fields) = bytes.split_at(end.ok_or(Refusal::Head)? + 1);
        let (method, target, version) = request_line(line)?;
        let mut head = Self {
            method,
            target,
            version,
            fields,
            count: 0,
            body: Body::NONE,
            expects: false,
            upgrades: method == b"CONNECT",
        };
        let is_http11 = version == b"HTTP/1.1";
        let (mut length, mut coding) = (None, false);
        for line in lines(fields) {
            let (name, value) = field(line)?;
            head.count += 1;
            if is(name, b"content-length") {
                let now = number(value)?;
                if length.is_some_and(|before| before != now) {
                    return Err(Refusal::Head);
                }
                length = Some(now);
            } else if is(name, b"transfer-encoding") {
                if coding || !is_http11 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::Encoding);
                }
                coding = true;
            } else if is(name, b"upgrade") {
                head.upgrades |= is_http11;
            } else if is(name, b"expect") {
                head.expects = true;
            }
        }
        // With both, the coding counts (RFC 9112 §6.3).
        head.body = match coding {
            true => Body::chunked(),
            false => Body::Sized(length.unwrap_or_default()),
        };
        Ok(head)
    }

    /// Why the HTTP library cannot represent the target, if it cannot.
    pub(super) fn target_refusal(&self) -> Option<Refusal> {
        let refusal = judge(self.target);
        if refusal.is_some() || self.target.starts_with(b"/") {
            return refusal;
        }
        // The forms with an authority, and whatever is no target at all.
        Uri::try_from(self.target)
            .is_err()
            .then_some(Refusal::Malformed)
    }
}

/// The lines of fields, up to the empty one, without their ends.
pub(super) fn lines(fields: &[u8]) -> impl Iterator<Item = &[u8]> {
    fields
        .split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
}

/// Name and value of a field's line.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let colon = line.iter().position(|byte| *byte == b':');
    let (name, value) = line.split_at(colon.ok_or(Refusal::Head)?);
    let value = trim(value.get(1..).unwrap_or_default());
    // A folded line, too, has a name that is none.
    let valid = is_token(name)
        && value
            .iter()
            .all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f));
    valid.then_some((name, value)).ok_or(Refusal::Head)
}

/// Whether the field has this name, given in lower case.
pub(super) fn is(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len() && name.eq_ignore_ascii_case(lower)
}

pub(super) fn is_token(text: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(token)
}

/// Method, target and version.
type RequestLine<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// One with more than two spaces is none: what some take for the version, others take for a part of the target.
fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Refusal> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let first = line.iter().position(|byte| *byte == b' ');
    let (method, rest) = line.split_at(first.ok_or(Refusal::Head)?);
    let last = rest.iter().rposition(|byte| *byte == b' ');
    let last = last.filter(|last| *last > 0).ok_or(Refusal::Head)?;
    let (target, version) = (rest.get(1..last), rest.get(last + 1..));
    let (target, version) = (target.unwrap_or_default(), version.unwrap_or_default());
    let valid = is_token(method) && matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
    let broken = target.iter().any(|byte| b" \r".contains(byte));
    match valid && !broken && !target.is_empty() {
        true => Ok((method, target, version)),
        false => Err(Refusal::Head),
    }
}

fn number(text: &[u8]) -> Result<u64, Refusal> {
    // `parse` takes a sign.
    if !text.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Head);
    }
    let text = std::str::from_utf8(text).map_err(|_| Refusal::Head)?;
    text.parse().map_err(|_| Refusal::Head)
}

fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<(Body, bool, bool), Refusal> {
        let text = format!("POST /a HTTP/1.1\r\n{fields}\r\n");
        Head::read(text.as_bytes()).map(|head| (head.body, head.expects, head.upgrades))
    }

    #[test]
    fn what_follows_is_told_as_the_library_tells_it() {
        let sized = |length| Ok((Body::Sized(length), false, false));
        let chunked = Ok((Body::chunked(), false, false));
        for (fields, expected) in [
            ("", sized(0)),
            ("Host: k\r\n", sized(0)),
            ("content-length:\t5 \r\n", sized(5)),
            ("Content-Length: 5\nContent-LENGTH: 5\r\n", sized(5)),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Err(Refusal::Head),
            ),
            ("Content-Length: +5\r\n", Err(Refusal::Head)),
            ("Content-Length:\r\n", Err(Refusal::Head)),
            (
                "Content-Length: 18446744073709551616\r\n",
                Err(Refusal::Head),
            ),
            ("Transfer-Encoding: Chunked\r\n", chunked),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                chunked,
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Err(Refusal::Encoding),
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err(Refusal::Encoding),
            ),
            (
                "Expect: 100-continue\r\nUpgrade: x\r\n",
                Ok((Body::NONE, true, true)),
            ),
            ("A : b\r\n", Err(Refusal::Head)),
            (" A: b\r\n", Err(Refusal::Head)),
            ("A: b\r\n c\r\n", Err(Refusal::Head)),
            ("A\r\n", Err(Refusal::Head)),
            (": b\r\n", Err(Refusal::Head)),
            ("A: \0\r\n", Err(Refusal::Head)),
            ("A: b\rc\r\n", Err(Refusal::Head)),
        ] {
            assert_eq!(read(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn the_first_line() {
        for (line, expected) in [
            ("GET / HTTP/1.1", Ok(None)),
            ("GET * HTTP/1.0", Ok(None)),
            ("GET https://k/a HTTP/1.1", Ok(None)),
            ("GET https://k/a#b HTTP/1.1", Ok(Some(Refusal::Malformed))),
            ("GET /a#b HTTP/1.1", Ok(Some(Refusal::Malformed))),
            ("GET /a b HTTP/1.1", Err(Refusal::Head)),
            ("GET a/b HTTP/1.1", Ok(Some(Refusal::Malformed))),
            ("GET  HTTP/1.1", Err(Refusal::Head)),
            ("GET HTTP/1.1", Err(Refusal::Head)),
            ("GET / HTTP/2.0", Err(Refusal::Head)),
            ("GET / http/1.1", Err(Refusal::Head)),
            ("G(T / HTTP/1.1", Err(Refusal::Head)),
            ("", Err(Refusal::Head)),
        ] {
            let text = format!("{line}\r\n\r\n");
            let read = Head::read(text.as_bytes()).map(|head| head.target_refusal());
            assert_eq!(read, expected, "{line:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(65_534));
        let head = Head::read(long.as_bytes()).unwrap();
        assert_eq!(head.target_refusal(), Some(Refusal::TooLong));
    }
}
