//! What tests send.

use http::HeaderMap;

use super::frame::Frame;
use super::hpack::Decoder;

/// A whole frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = Frame {
        length: payload.len(),
        kind,
        flags,
        stream,
    };
    head.write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A field as a literal that stays out of the table; name and value are shorter than 127 bytes.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, name.len() as u8];
    field.extend_from_slice(name.as_bytes());
    field.push(value.len() as u8);
    field.extend_from_slice(value.as_bytes());
    field
}

/// The fields of the first block of a connection.
pub(crate) fn fields(block: &[u8]) -> HeaderMap {
    let decoded = Decoder::default().decode(block, usize::MAX, usize::MAX);
    decoded.unwrap().fields
}
