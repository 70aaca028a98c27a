//! What a server says on one stream: the head of an answer, and its trailers (RFC 9113 §8.1).

use http::StatusCode;

use super::Client;
use crate::h2wire::block::Block;
use crate::h2wire::frame::code;
use crate::h2wire::hpack::{Decoded, content_length};
use crate::h2wire::receive::{Step, malformed, received, reject};
use crate::h2wire::stream::Head;

pub(super) fn whole(client: &mut Client, block: &Block, bytes: &[u8]) -> Step {
    let most = client.limits.header_list as usize;
    // Also what nobody wants any more: the tables of both ends have to stay equal.
    let decoded = client
        .decoder
        .decode(bytes, most, usize::MAX)
        .map_err(|error| {
            tracing::debug!(%error, "a block of fields");
            malformed(code::COMPRESSION_ERROR, "a block of fields that is none")
        })?;
    let id = block.stream;
    match answer(client, block, decoded) {
        Ok(true) => received(client, id),
        Ok(false) => {}
        Err((code, why)) => reject(client, id, code, why),
    }
    Ok(())
}

/// Takes a head or trailers; true if the answer is at its end.
fn answer(
    client: &mut Client,
    block: &Block,
    decoded: Decoded,
) -> Result<bool, (u32, &'static str)> {
    let wrong = |why| Err((code::PROTOCOL_ERROR, why));
    let Some(stream) = client.streams.get_mut(&block.stream) else {
        return Ok(false);
    };
    if stream.fault.is_some() {
        return Ok(false);
    }
    if stream.received {
        return Err((code::STREAM_CLOSED, "HEADERS behind the end"));
    }
    if let Some(why) = decoded.malformed {
        return wrong(why);
    }
    if decoded.control.is_of_request() {
        return wrong("a pseudo-header field of requests");
    }
    if decoded.too_large {
        return wrong("more fields than the agent takes");
    }
    if stream.own.has_head {
        if decoded.control.status.is_some() {
            return wrong("a second head");
        }
        if !block.ends_stream {
            return wrong("trailers that do not end the answer");
        }
        stream.trailers = Some(decoded.fields);
        stream.wake_reader();
        return Ok(true);
    }
    let status = decoded
        .control
        .status
        .and_then(|status| StatusCode::from_u16(status).ok());
    let Some(status) = status else {
        return wrong("no :status");
    };
    if status.is_informational() {
        // 101 does not exist in HTTP/2 (§8.6).
        if block.ends_stream || status == StatusCode::SWITCHING_PROTOCOLS {
            return wrong("an interim answer that ends, or switches protocols");
        }
        return Ok(false);
    }
    let without_body = stream.own.is_head || [204, 304].contains(&status.as_u16());
    stream.left = match content_length(&decoded.fields) {
        Err(()) => return wrong("a Content-Length that is none"),
        Ok(_) if without_body => None,
        Ok(length) => length,
    };
    stream.own.has_head = true;
    stream.own.head = Some(Head {
        status,
        fields: decoded.fields,
    });
    stream.wake_reader();
    Ok(block.ends_stream)
}
