//! The head that stands for one that is refused: what the refusal is written by, and nothing that has a body.

use super::head::{Head, field, is, is_token, lines};
use crate::h2wire::{REFUSED, Refusal, stand_in};

/// By these a refusal is written, and its caller found.
const KEPT: [&[u8]; 5] = [
    b"accept",
    b"audit-id",
    b"connection",
    b"host",
    b"user-agent",
];
/// The most bytes of all that is kept. Larger fields are left out.
const MOST: usize = 4096;
/// No method is longer than this.
const METHOD: usize = 32;

/// The head that is to be refused, alone or with its connection.
pub(super) fn essence(head: &Head<'_>, refusal: Refusal, closes: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    line(
        &mut bytes,
        &[
            method(head.method),
            b" ",
            &stand_in(head.target),
            b" ",
            head.version,
        ],
    );
    for text in kept(head.fields) {
        if bytes.len() + text.len() < 2 * MOST {
            line(&mut bytes, &[text]);
        }
    }
    finish(bytes, refusal, closes)
}

/// The same for a head that cannot be read; its connection ends.
pub(super) fn broken(bytes: &[u8], refusal: Refusal) -> Vec<u8> {
    let name = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    let mut head = Vec::new();
    line(&mut head, &[method(name), b" / HTTP/1.1"]);
    finish(head, refusal, true)
}

/// Whether a line of fields is one of those that are kept.
pub(super) fn is_kept(line: &[u8]) -> bool {
    line.len() <= MOST && field(line).is_ok_and(|(name, _)| KEPT.iter().any(|kept| is(name, kept)))
}

fn kept(fields: &[u8]) -> impl Iterator<Item = &[u8]> {
    lines(fields).filter(|line| is_kept(line))
}

/// A CONNECT would take the connection with it, and one that is none cannot be written.
fn method(name: &[u8]) -> &[u8] {
    match is_token(name) && name.len() <= METHOD && name != b"CONNECT" {
        true => name,
        false => b"GET",
    }
}

fn finish(mut bytes: Vec<u8>, refusal: Refusal, closes: bool) -> Vec<u8> {
    line(&mut bytes, &[REFUSED.as_bytes(), b": ", refusal.mark()]);
    if closes {
        line(&mut bytes, &[b"Connection: close"]);
    }
    line(&mut bytes, &[]);
    bytes
}

fn line(bytes: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_has_no_body() {
        let text = b"PUT /a#b HTTP/1.1\r\nHost: k\r\nContent-Length: 5\r\nExpect: 100-continue\r\nACCEPT: x\r\nUpgrade: y\r\nAuthorization: z\r\n\r\n";
        let head = Head::read(text).unwrap();
        assert_eq!(
            String::from_utf8(essence(&head, Refusal::Malformed, false)).unwrap(),
            "PUT /a_b HTTP/1.1\r\nHost: k\r\nACCEPT: x\r\nx-mvp-refused-target: 400\r\n\r\n"
        );
        assert_eq!(
            String::from_utf8(broken(b"CONNECT x\r\n\r\n", Refusal::Head)).unwrap(),
            "GET / HTTP/1.1\r\nx-mvp-refused-target: 400-head\r\nConnection: close\r\n\r\n"
        );
    }
}
