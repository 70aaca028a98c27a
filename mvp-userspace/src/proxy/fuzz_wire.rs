//! What a client sends, written out for the fuzzer.

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A chunked request of these fields and trailers.
pub(super) fn http1_text(
    fields: &[(Vec<u8>, Vec<u8>)],
    trailers: &[(Vec<u8>, Vec<u8>)],
) -> Vec<u8> {
    let mut text =
        b"POST /api/v1/namespaces/a/pods HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n"
            .to_vec();
    let lines = |text: &mut Vec<u8>, fields: &[(Vec<u8>, Vec<u8>)]| {
        for (name, value) in fields {
            text.extend_from_slice(name);
            text.extend_from_slice(b": ");
            text.extend_from_slice(value);
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
    };
    lines(&mut text, fields);
    text.extend_from_slice(b"1\r\nx\r\n0\r\n");
    lines(&mut text, trailers);
    text
}

/// One request on stream 1: HEADERS, DATA, and trailers.
pub(super) fn http2_text(
    fields: &[(Vec<u8>, Vec<u8>)],
    trailers: &[(Vec<u8>, Vec<u8>)],
) -> Vec<u8> {
    let own = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let mut head = vec![
        own(":method", "POST"),
        own(":scheme", "https"),
        own(":path", "/api/v1/namespaces/a/pods"),
        own(":authority", "a"),
    ];
    let lower = |fields: &[(Vec<u8>, Vec<u8>)]| {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect::<Vec<_>>()
    };
    head.extend(lower(fields));
    let mut wire = [PREFACE, EMPTY_SETTINGS].concat();
    frame(&mut wire, 1, 4, &hpack(&head));
    frame(&mut wire, 0, 0, b"x");
    frame(&mut wire, 1, 5, &hpack(&lower(trailers)));
    wire
}

fn frame(wire: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    wire.extend_from_slice(&length[1..]);
    wire.extend_from_slice(&[kind, flags, 0, 0, 0, 1]);
    wire.extend_from_slice(payload);
}

/// Literal fields that are never indexed (RFC 7541 section 6.2.3); names and values are shorter than 127 bytes.
fn hpack(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0) & 0x7f);
            block.extend_from_slice(text);
        }
    }
    block
}
