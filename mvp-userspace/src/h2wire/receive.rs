//! What the other side sends, frame by frame (RFC 9113 §6).

use bytes::{Buf as _, Bytes, BytesMut};

use super::block::{Block, fields_of, without_padding};
use super::chunks::SMALL;
use super::connection::{Connection, Side};
use super::frame::{self, Frame, HEADER, LARGEST_WINDOW, code, flag, kind, setting};
use super::stream::Fault;

/// Bytes that wait for somebody who does not read, and yet goes on to ask for acknowledgements.
const UNREAD: usize = 1024 * 1024;

/// Why the connection ends, and the code for the other side.
#[derive(Debug)]
pub struct Ends(pub(super) u32, pub(super) Fault);

pub(super) type Step = Result<(), Ends>;

pub(super) fn frames<S: Side>(connection: &mut Connection<S>, bytes: &mut BytesMut) {
    while connection.ended.is_none() && !connection.has_enough() {
        match next(connection, bytes) {
            Ok(true) => {}
            Ok(false) => return,
            Err(Ends(code, fault)) => {
                let last = S::last_handled(connection);
                frame::go_away(last, code, connection.out.frames());
                connection.broken(fault);
            }
        }
    }
}

/// False: what is left is no whole frame.
fn next<S: Side>(connection: &mut Connection<S>, bytes: &mut BytesMut) -> Result<bool, Ends> {
    if !S::greets(connection, bytes)? {
        return Ok(false);
    }
    let Some(head) = Frame::read(bytes) else {
        return Ok(false);
    };
    if head.length > connection.limits.frame as usize {
        return Err(malformed(
            code::FRAME_SIZE_ERROR,
            "a frame above the agreed size",
        ));
    }
    let Some(payload) = bytes.get(HEADER..HEADER + head.length) else {
        return Ok(false);
    };
    may_come(connection, head)?;
    if head.kind == kind::DATA {
        let id = known(connection, head, "DATA")?;
        let kept = without_padding(head, payload)?.len();
        if kept < SMALL {
            let from = HEADER + usize::from(head.has(flag::PADDED));
            let chunk = bytes.get(from..from + kept).unwrap_or_default();
            data(connection, head, id, kept, |chunks| {
                if kept > 0 {
                    chunks.push_small(chunk);
                }
            })?;
            bytes.advance(HEADER + head.length);
        } else {
            // Nothing is copied.
            bytes.advance(HEADER);
            let mut payload = bytes.split_to(head.length);
            payload.advance(usize::from(head.has(flag::PADDED)));
            payload.truncate(kept);
            let chunk: Bytes = payload.freeze();
            data(connection, head, id, kept, |chunks| chunks.push(chunk))?;
        }
        unread(connection)?;
        return Ok(true);
    }
    take(connection, head, payload)?;
    bytes.advance(HEADER + head.length);
    unread(connection)?;
    Ok(true)
}

fn may_come<S: Side>(connection: &Connection<S>, head: Frame) -> Step {
    if !connection.greeted && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
        return Err(malformed(
            code::PROTOCOL_ERROR,
            "it does not begin with SETTINGS",
        ));
    }
    if let Some(block) = &connection.block
        && (head.kind != kind::CONTINUATION || head.stream != block.stream)
    {
        return Err(malformed(
            code::PROTOCOL_ERROR,
            "a frame within a block of fields",
        ));
    }
    Ok(())
}

fn take<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    match head.kind {
        kind::HEADERS => headers(connection, head, payload),
        kind::CONTINUATION => continuation(connection, head, payload),
        kind::PRIORITY => match (head.stream, payload.len()) {
            (0, _) => Err(malformed(code::PROTOCOL_ERROR, "PRIORITY of no stream")),
            (_, 5) => Ok(()),
            (id, _) => {
                let why = "PRIORITY of a wrong size";
                reject(connection, id, code::FRAME_SIZE_ERROR, why);
                Ok(())
            }
        },
        kind::RST_STREAM => reset(connection, head, payload),
        kind::SETTINGS => settings(connection, head, payload),
        kind::PUSH_PROMISE => Err(malformed(code::PROTOCOL_ERROR, "a push, which is off")),
        kind::PING => ping(connection, head, payload),
        kind::GOAWAY => go_away(connection, head, payload),
        kind::WINDOW_UPDATE => window_update(connection, head, payload),
        // §4.1: unknown ones are ignored.
        _ => Ok(()),
    }
}

/// `kept`: bytes without padding, which `keep` takes.
fn data<S: Side>(
    connection: &mut Connection<S>,
    head: Frame,
    id: u32,
    kept: usize,
    keep: impl FnOnce(&mut super::chunks::Chunks),
) -> Step {
    let size = head.length as u32;
    connection.receive_window -= i64::from(size);
    if connection.receive_window < 0 {
        return Err(malformed(
            code::FLOW_CONTROL_ERROR,
            "more DATA than the window holds",
        ));
    }
    // What is not for a reader is given back at once.
    let beside = size - kept as u32;
    let Some(stream) = connection
        .streams
        .get_mut(&id)
        .filter(|s| s.fault.is_none())
    else {
        connection.give_back(size);
        S::closed(connection, id);
        return Ok(());
    };
    stream.receive_window -= i64::from(size);
    let wrong = if stream.received {
        Some((code::STREAM_CLOSED, "DATA behind the end"))
    } else if stream.receive_window < 0 {
        Some((
            code::FLOW_CONTROL_ERROR,
            "more DATA than the stream's window holds",
        ))
    } else if !S::takes_data(&stream.own) {
        Some((code::PROTOCOL_ERROR, "DATA before the head"))
    } else {
        match &mut stream.left {
            None => None,
            Some(left) => match left.checked_sub(kept as u64) {
                Some(now) => {
                    *left = now;
                    None
                }
                None => Some((code::PROTOCOL_ERROR, "more than Content-Length says")),
            },
        }
    };
    if let Some((code, why)) = wrong {
        connection.give_back(size);
        reject(connection, id, code, why);
        return Ok(());
    }
    stream.unreturned += beside;
    stream.has_data |= kept > 0;
    stream.empty_end = head.has(flag::END_STREAM) && !stream.has_data;
    if stream.let_go {
        connection.give_back(size);
    } else {
        keep(&mut stream.chunks);
        stream.wake_reader();
        connection.give_back(beside);
    }
    if head.has(flag::END_STREAM) {
        received(connection, id);
    }
    Ok(())
}

fn headers<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    S::may_have_headers(connection, head)?;
    let fields = fields_of(head, payload)?;
    let block = Block::new(head);
    if head.has(flag::END_HEADERS) {
        return whole(connection, &block, fields);
    }
    connection.block = Some(block);
    more(connection, head, fields)
}

fn whole<S: Side>(connection: &mut Connection<S>, block: &Block, fields: &[u8]) -> Step {
    connection.burst.block();
    S::block(connection, block, fields)
}

fn continuation<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    if connection.block.is_none() {
        return Err(malformed(code::PROTOCOL_ERROR, "CONTINUATION of nothing"));
    }
    more(connection, head, payload)
}

fn more<S: Side>(connection: &mut Connection<S>, head: Frame, part: &[u8]) -> Step {
    let Some(block) = &mut connection.block else {
        return Ok(());
    };
    block.add(part, connection.limits.header_list)?;
    if head.has(flag::END_HEADERS)
        && let Some(mut block) = connection.block.take()
    {
        let bytes = block.take_bytes();
        return whole(connection, &block, &bytes);
    }
    Ok(())
}

fn reset<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    let code = number(payload).ok_or(malformed(
        code::FRAME_SIZE_ERROR,
        "RST_STREAM of a wrong size",
    ))?;
    let id = known(connection, head, "RST_STREAM")?;
    let Some(stream) = connection.streams.get_mut(&id) else {
        return Ok(());
    };
    if stream.is_active() {
        connection.active = connection.active.saturating_sub(1);
        stream.fail(Fault::Reset(code));
        connection.wake_owner();
    }
    S::settle(connection, id);
    Ok(())
}

fn settings<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    if head.stream != 0 {
        return Err(malformed(code::PROTOCOL_ERROR, "SETTINGS of a stream"));
    }
    if !payload.len().is_multiple_of(6) || (head.has(flag::ACK) && !payload.is_empty()) {
        return Err(malformed(
            code::FRAME_SIZE_ERROR,
            "SETTINGS of a wrong size",
        ));
    }
    if head.has(flag::ACK) {
        return Ok(());
    }
    connection.greeted = true;
    for one in payload.chunks_exact(6) {
        let &[a, b, c, d, e, f] = one else { continue };
        let (name, value) = ([a, b], [c, d, e, f]);
        set(
            connection,
            u16::from_be_bytes(name),
            u32::from_be_bytes(value),
        )?;
    }
    frame::settings_ack(connection.out.frames());
    connection.wake_writers();
    connection.wake_owner();
    Ok(())
}

fn set<S: Side>(connection: &mut Connection<S>, name: u16, value: u32) -> Step {
    match name {
        setting::INITIAL_WINDOW_SIZE => {
            let (window, before) = (i64::from(value), connection.first_window);
            let too_large = malformed(code::FLOW_CONTROL_ERROR, "a window above 2^31 - 1");
            if window > LARGEST_WINDOW {
                return Err(too_large);
            }
            connection.first_window = window;
            for stream in connection.streams.values_mut() {
                stream.send_window += window - before;
                if stream.send_window > LARGEST_WINDOW {
                    return Err(too_large);
                }
            }
            Ok(())
        }
        setting::MAX_FRAME_SIZE => {
            if !(1 << 14..1 << 24).contains(&value) {
                return Err(malformed(
                    code::PROTOCOL_ERROR,
                    "a frame size that nobody may set",
                ));
            }
            connection.largest_frame = value as usize;
            Ok(())
        }
        _ => S::set(connection, name, value),
    }
}

fn ping<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    let payload: [u8; 8] = payload
        .try_into()
        .map_err(|_| malformed(code::FRAME_SIZE_ERROR, "PING of a wrong size"))?;
    if head.stream != 0 {
        return Err(malformed(code::PROTOCOL_ERROR, "PING of a stream"));
    }
    if head.has(flag::ACK) {
        S::pong(connection, payload);
        return Ok(());
    }
    frame::ping(flag::ACK, payload, connection.out.frames());
    connection.wake_owner();
    Ok(())
}

fn go_away<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    if head.stream != 0 {
        return Err(malformed(code::PROTOCOL_ERROR, "GOAWAY of a stream"));
    }
    let (Some(last), Some(code)) = (number_of(payload), payload.get(4..).and_then(number_of))
    else {
        return Err(malformed(code::FRAME_SIZE_ERROR, "GOAWAY of a wrong size"));
    };
    S::go_away(connection, last & LARGEST_WINDOW as u32, code);
    connection.wake_owner();
    Ok(())
}

fn window_update<S: Side>(connection: &mut Connection<S>, head: Frame, payload: &[u8]) -> Step {
    let more = number(payload).ok_or(malformed(
        code::FRAME_SIZE_ERROR,
        "WINDOW_UPDATE of a wrong size",
    ))?;
    let more = i64::from(more & LARGEST_WINDOW as u32);
    if head.stream == 0 {
        let was_empty = connection.send_window <= 0;
        connection.send_window += more;
        if more == 0 {
            return Err(malformed(code::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing"));
        }
        if connection.send_window > LARGEST_WINDOW {
            return Err(malformed(
                code::FLOW_CONTROL_ERROR,
                "a window above 2^31 - 1",
            ));
        }
        if was_empty {
            connection.wake_writers();
        }
        return Ok(());
    }
    let id = known(connection, head, "WINDOW_UPDATE")?;
    let Some(stream) = connection.streams.get_mut(&id) else {
        return Ok(());
    };
    let was_empty = stream.send_window <= 0;
    stream.send_window += more;
    let too_large = stream.send_window > LARGEST_WINDOW;
    if more > 0 && !too_large {
        if was_empty {
            stream.wake_writer();
        }
        return Ok(());
    }
    match too_large {
        true => {
            let why = "a window above 2^31 - 1";
            reject(connection, id, code::FLOW_CONTROL_ERROR, why);
        }
        false => reject(
            connection,
            id,
            code::PROTOCOL_ERROR,
            "WINDOW_UPDATE by nothing",
        ),
    }
    Ok(())
}

/// The other side has said all that it has to say on a stream.
pub(super) fn received<S: Side>(connection: &mut Connection<S>, id: u32) {
    let Some(stream) = connection.streams.get_mut(&id) else {
        return;
    };
    if stream.left.is_some_and(|left| left > 0) {
        let why = "less than Content-Length says";
        reject(connection, id, code::PROTOCOL_ERROR, why);
        return;
    }
    let was_active = stream.is_active();
    stream.received = true;
    stream.wake_reader();
    if was_active && !stream.is_active() {
        connection.active = connection.active.saturating_sub(1);
        connection.wake_owner();
    }
    S::settle(connection, id);
}

/// The stream of a frame that has to be about one which has begun (§5.1), whether or not it has ended. Only clients begin any.
pub(super) fn known<S: Side>(
    connection: &Connection<S>,
    head: Frame,
    what: &'static str,
) -> Result<u32, Ends> {
    let begun = head.stream % 2 == 1 && head.stream <= connection.last;
    match begun {
        true => Ok(head.stream),
        false => {
            tracing::debug!(
                stream = head.stream,
                what,
                "a frame of a stream that nobody began"
            );
            Err(malformed(
                code::PROTOCOL_ERROR,
                "a frame of a stream that nobody began",
            ))
        }
    }
}

/// The stream ends, the connection stays.
pub(super) fn reject<S: Side>(
    connection: &mut Connection<S>,
    id: u32,
    code: u32,
    why: &'static str,
) {
    connection.end(id, code, Fault::Malformed(why));
    S::settle(connection, id);
}

/// Somebody goes on to send without reading what the agent sends.
fn unread<S: Side>(connection: &mut Connection<S>) -> Step {
    match connection.burst.frame() && connection.out.len() <= UNREAD {
        true => Ok(()),
        false => Err(Ends(
            code::ENHANCE_YOUR_CALM,
            Fault::OwnLimit("frames of somebody who does not read"),
        )),
    }
}

pub(super) fn malformed(code: u32, why: &'static str) -> Ends {
    Ends(code, Fault::ConnectionMalformed(why))
}

/// The payload as a number of 32 bits, if it is nothing else.
fn number(payload: &[u8]) -> Option<u32> {
    payload.try_into().ok().map(u32::from_be_bytes)
}

/// The first 32 bits of the payload.
fn number_of(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().copied().map(u32::from_be_bytes)
}
