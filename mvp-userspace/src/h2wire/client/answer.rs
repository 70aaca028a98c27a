//! What a server sends on one stream: the head of an answer, its body, its trailers (RFC 9113 §6.1, §6.2, §8.1).

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};

use super::Client;
use super::receive::{Ends, Step, known, malformed, reject};
use super::stream::{Fault, Head};
use crate::h2wire::frame::{Frame, code, flag};
use crate::h2wire::hpack::Decoded;

/// Frames in which one block of fields may come.
const BLOCK_FRAMES: usize = 1000;
/// Bytes of a coded block above what its fields may be.
const BLOCK_SPARE: usize = 64 * 1024;
/// A smaller chunk of a body is copied, so that it does not keep the whole buffer in which it came.
const SMALL: usize = 2048;

/// A block of fields that goes on in further frames.
#[derive(Debug)]
pub(super) struct Block {
    pub stream: u32,
    ends_stream: bool,
    bytes: Vec<u8>,
    frames: usize,
}

pub(super) fn data(client: &mut Client, head: Frame, payload: BytesMut) -> Step {
    let id = known(client, head, "DATA")?;
    let size = payload.len() as i64;
    client.receive_window -= size;
    if client.receive_window < 0 {
        return Err(malformed(
            code::FLOW_CONTROL_ERROR,
            "more DATA than the window holds",
        ));
    }
    let chunk = unpadded(head, payload)?;
    // What is not for a reader is given back at once.
    let beside = (size as usize).saturating_sub(chunk.len()) as u32;
    let Some(stream) = client.streams.get_mut(&id).filter(|s| s.fault.is_none()) else {
        client.give_back(size as u32);
        return Ok(());
    };
    stream.receive_window -= size;
    let wrong = if stream.received {
        Some((code::STREAM_CLOSED, "DATA behind the end"))
    } else if stream.receive_window < 0 {
        Some((
            code::FLOW_CONTROL_ERROR,
            "more DATA than the stream's window holds",
        ))
    } else if !stream.has_head {
        Some((code::PROTOCOL_ERROR, "DATA before the head"))
    } else {
        match &mut stream.left {
            None => None,
            Some(left) => match left.checked_sub(chunk.len() as u64) {
                Some(now) => {
                    *left = now;
                    None
                }
                None => Some((code::PROTOCOL_ERROR, "more than Content-Length says")),
            },
        }
    };
    if let Some((code, why)) = wrong {
        client.give_back(size as u32);
        reject(client, id, code, why);
        return Ok(());
    }
    stream.unreturned += beside;
    if stream.let_go {
        client.give_back(size as u32);
    } else {
        if !chunk.is_empty() {
            stream.chunks.push_back(chunk);
        }
        stream.wake_reader();
        client.give_back(beside);
    }
    if head.has(flag::END_STREAM) {
        received(client, id);
    }
    Ok(())
}

pub(super) fn headers(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    let stream = known(client, head, "HEADERS")?;
    let mut payload = without_padding(head, payload)?;
    if head.has(flag::PRIORITY) {
        payload = payload
            .get(5..)
            .ok_or(malformed(code::FRAME_SIZE_ERROR, "HEADERS of a wrong size"))?;
    }
    let block = Block {
        stream,
        ends_stream: head.has(flag::END_STREAM),
        bytes: Vec::new(),
        frames: 0,
    };
    if head.has(flag::END_HEADERS) {
        return whole(client, &block, payload);
    }
    client.block = Some(block);
    more(client, head, payload)
}

pub(super) fn continuation(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    if client.block.is_none() {
        return Err(malformed(code::PROTOCOL_ERROR, "CONTINUATION of nothing"));
    }
    more(client, head, payload)
}

fn more(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    let most = client.limits.header_list as usize + BLOCK_SPARE;
    let Some(block) = &mut client.block else {
        return Ok(());
    };
    block.frames += 1;
    block.bytes.extend_from_slice(payload);
    if block.frames > BLOCK_FRAMES || block.bytes.len() > most {
        let fault = Fault::OwnLimit("a block of fields without end");
        return Err(Ends(code::ENHANCE_YOUR_CALM, fault));
    }
    if head.has(flag::END_HEADERS)
        && let Some(mut block) = client.block.take()
    {
        let bytes = std::mem::take(&mut block.bytes);
        return whole(client, &block, &bytes);
    }
    Ok(())
}

fn whole(client: &mut Client, block: &Block, bytes: &[u8]) -> Step {
    let most = client.limits.header_list as usize;
    // Also what nobody wants any more: the tables of both ends have to stay equal.
    let decoded = client.decoder.decode(bytes, most).map_err(|error| {
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
    if decoded.too_large {
        return wrong("more fields than the agent takes");
    }
    if stream.has_head {
        if decoded.status.is_some() {
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
    let without_body = stream.is_head || [204, 304].contains(&status.as_u16());
    stream.left = match content_length(&decoded.fields) {
        Err(()) => return wrong("a Content-Length that is none"),
        Ok(_) if without_body => None,
        Ok(length) => length,
    };
    stream.has_head = true;
    stream.head = Some(Head {
        status,
        fields: decoded.fields,
    });
    stream.wake_reader();
    Ok(block.ends_stream)
}

/// The answer is at its end.
fn received(client: &mut Client, id: u32) {
    let Some(stream) = client.streams.get_mut(&id) else {
        return;
    };
    if stream.left.is_some_and(|left| left > 0) {
        reject(
            client,
            id,
            code::PROTOCOL_ERROR,
            "less than Content-Length says",
        );
        return;
    }
    let was_active = stream.is_active();
    stream.received = true;
    stream.wake_reader();
    if was_active && !stream.is_active() {
        client.active = client.active.saturating_sub(1);
        client.wake_owner();
    }
    client.forget(id);
}

fn unpadded(head: Frame, mut payload: BytesMut) -> Result<Bytes, Ends> {
    let kept = without_padding(head, &payload)?.len();
    if head.has(flag::PADDED) {
        payload.advance(1);
        payload.truncate(kept);
    }
    Ok(match kept < SMALL {
        true => Bytes::copy_from_slice(&payload),
        false => payload.freeze(),
    })
}

/// §6.1: the first byte says how many bytes at the end are padding.
fn without_padding(head: Frame, payload: &[u8]) -> Result<&[u8], Ends> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(malformed(
        code::FRAME_SIZE_ERROR,
        "no room for the padding's length",
    ))?;
    let kept = rest.len().checked_sub(usize::from(padding));
    kept.and_then(|kept| rest.get(..kept))
        .ok_or(malformed(code::PROTOCOL_ERROR, "more padding than payload"))
}

/// RFC 9110 §8.6: a list of the same number is that number.
fn content_length(fields: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut found = None;
    for value in fields.get_all(CONTENT_LENGTH) {
        let text = value.to_str().map_err(|_| ())?;
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| digits).ok_or(())?;
        if found.is_some_and(|found| found != number) {
            return Err(());
        }
        found = Some(number);
    }
    Ok(found)
}
