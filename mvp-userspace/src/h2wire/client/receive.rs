//! What a server sends, frame by frame (RFC 9113 §6).

use bytes::{Buf as _, BytesMut};

use super::Client;
use super::answer::{continuation, data, headers};
use super::stream::Fault;
use crate::h2wire::frame::{self, Frame, HEADER, LARGEST_WINDOW, code, flag, kind, setting};

/// Bytes that wait for a server which does not read, and yet goes on to ask for acknowledgements.
const UNREAD: usize = 1024 * 1024;
/// Why the connection ends, and the code for the server.
pub(super) struct Ends(pub u32, pub Fault);

pub(super) type Step = Result<(), Ends>;

pub(super) fn frames(client: &mut Client, bytes: &mut BytesMut) {
    while client.ended.is_none() {
        let Some(head) = Frame::read(bytes) else {
            return;
        };
        let step = if head.length > client.limits.frame as usize {
            Err(malformed(
                code::FRAME_SIZE_ERROR,
                "a frame above the agreed size",
            ))
        } else if bytes.len() < HEADER + head.length {
            return;
        } else {
            bytes.advance(HEADER);
            let payload = bytes.split_to(head.length);
            take(client, head, payload)
        };
        if let Err(Ends(code, fault)) = step {
            frame::go_away(code, &mut client.out);
            client.broken(fault);
        }
    }
}

fn take(client: &mut Client, head: Frame, payload: BytesMut) -> Step {
    if !client.greeted && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
        return Err(malformed(
            code::PROTOCOL_ERROR,
            "it does not begin with SETTINGS",
        ));
    }
    if let Some(block) = &client.block
        && (head.kind != kind::CONTINUATION || head.stream != block.stream)
    {
        return Err(malformed(
            code::PROTOCOL_ERROR,
            "a frame within a block of fields",
        ));
    }
    match head.kind {
        kind::DATA => data(client, head, payload),
        kind::HEADERS => headers(client, head, &payload),
        kind::CONTINUATION => continuation(client, head, &payload),
        kind::PRIORITY => match (head.stream, payload.len()) {
            (0, _) => Err(malformed(code::PROTOCOL_ERROR, "PRIORITY of no stream")),
            (_, 5) => Ok(()),
            (id, _) => {
                reject(
                    client,
                    id,
                    code::FRAME_SIZE_ERROR,
                    "PRIORITY of a wrong size",
                );
                Ok(())
            }
        },
        kind::RST_STREAM => reset(client, head, &payload),
        kind::SETTINGS => settings(client, head, &payload),
        kind::PUSH_PROMISE => Err(malformed(code::PROTOCOL_ERROR, "a push, which is off")),
        kind::PING => ping(client, head, &payload),
        kind::GOAWAY => go_away(client, head, &payload),
        kind::WINDOW_UPDATE => window_update(client, head, &payload),
        // §4.1: unknown ones are ignored.
        _ => Ok(()),
    }
}

fn reset(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    let code = number(payload).ok_or(malformed(
        code::FRAME_SIZE_ERROR,
        "RST_STREAM of a wrong size",
    ))?;
    let id = known(client, head, "RST_STREAM")?;
    let Some(stream) = client.streams.get_mut(&id) else {
        return Ok(());
    };
    if stream.is_active() {
        client.active = client.active.saturating_sub(1);
        stream.fail(Fault::Reset(code));
        client.wake_owner();
    }
    client.forget(id);
    Ok(())
}

fn settings(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
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
    client.greeted = true;
    for one in payload.chunks_exact(6) {
        let &[a, b, c, d, e, f] = one else { continue };
        let (name, value) = ([a, b], [c, d, e, f]);
        set(client, u16::from_be_bytes(name), u32::from_be_bytes(value))?;
    }
    frame::settings_ack(&mut client.out);
    unread(client)?;
    client.wake_writers();
    client.wake_owner();
    Ok(())
}

fn set(client: &mut Client, name: u16, value: u32) -> Step {
    match name {
        setting::ENABLE_PUSH if value != 0 => Err(malformed(
            code::PROTOCOL_ERROR,
            "a server that wants to be pushed to",
        )),
        setting::MAX_CONCURRENT_STREAMS => {
            client.allowed_streams = client.limits.streams.min(value as usize);
            Ok(())
        }
        setting::INITIAL_WINDOW_SIZE => {
            let (window, before) = (i64::from(value), client.first_window);
            if window > LARGEST_WINDOW {
                return Err(malformed(
                    code::FLOW_CONTROL_ERROR,
                    "a window above 2^31 - 1",
                ));
            }
            client.first_window = window;
            for stream in client.streams.values_mut() {
                stream.send_window += window - before;
                if stream.send_window > LARGEST_WINDOW {
                    return Err(malformed(
                        code::FLOW_CONTROL_ERROR,
                        "a window above 2^31 - 1",
                    ));
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
            client.largest_frame = value as usize;
            Ok(())
        }
        // The table is not used; how many fields the server takes, it says with 431; unknown ones are ignored (§6.5.2).
        _ => Ok(()),
    }
}

fn ping(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    let payload: [u8; 8] = payload
        .try_into()
        .map_err(|_| malformed(code::FRAME_SIZE_ERROR, "PING of a wrong size"))?;
    if head.stream != 0 {
        return Err(malformed(code::PROTOCOL_ERROR, "PING of a stream"));
    }
    if head.has(flag::ACK) {
        client.pong = true;
        return Ok(());
    }
    frame::ping(flag::ACK, payload, &mut client.out);
    client.wake_owner();
    unread(client)
}

fn go_away(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    if head.stream != 0 {
        return Err(malformed(code::PROTOCOL_ERROR, "GOAWAY of a stream"));
    }
    let (Some(last), Some(code)) = (number_of(payload), payload.get(4..).and_then(number_of))
    else {
        return Err(malformed(code::FRAME_SIZE_ERROR, "GOAWAY of a wrong size"));
    };
    let last = last & LARGEST_WINDOW as u32;
    client.going_away.get_or_insert(code);
    let mut ended = 0;
    for (id, stream) in &mut client.streams {
        if *id > last && stream.is_active() {
            ended += 1;
            stream.fail(Fault::GoingAway(code));
        }
    }
    client.active = client.active.saturating_sub(ended);
    client
        .streams
        .retain(|_, stream| !stream.let_go || stream.is_active());
    client.wake_owner();
    Ok(())
}

fn window_update(client: &mut Client, head: Frame, payload: &[u8]) -> Step {
    let more = number(payload).ok_or(malformed(
        code::FRAME_SIZE_ERROR,
        "WINDOW_UPDATE of a wrong size",
    ))?;
    let more = i64::from(more & LARGEST_WINDOW as u32);
    if head.stream == 0 {
        client.send_window += more;
        if more == 0 {
            return Err(malformed(code::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing"));
        }
        if client.send_window > LARGEST_WINDOW {
            return Err(malformed(
                code::FLOW_CONTROL_ERROR,
                "a window above 2^31 - 1",
            ));
        }
        client.wake_writers();
        return Ok(());
    }
    let id = known(client, head, "WINDOW_UPDATE")?;
    let Some(stream) = client.streams.get_mut(&id) else {
        return Ok(());
    };
    stream.send_window += more;
    if more == 0 {
        reject(client, id, code::PROTOCOL_ERROR, "WINDOW_UPDATE by nothing");
    } else if stream.send_window > LARGEST_WINDOW {
        reject(
            client,
            id,
            code::FLOW_CONTROL_ERROR,
            "a window above 2^31 - 1",
        );
    } else {
        stream.wake_writer();
    }
    Ok(())
}

/// The stream of a frame that has to be about one which the agent has begun (§5.1), whether or not it has ended.
pub(super) fn known(client: &Client, head: Frame, what: &'static str) -> Result<u32, Ends> {
    let begun = head.stream % 2 == 1 && head.stream < client.next;
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
pub(super) fn reject(client: &mut Client, id: u32, code: u32, why: &'static str) {
    client.end(id, code, Fault::Malformed(why));
    client.forget(id);
}

/// A server that makes the agent answer without reading the answers.
fn unread(client: &Client) -> Step {
    match client.out.len() > UNREAD {
        true => Err(Ends(
            code::ENHANCE_YOUR_CALM,
            Fault::OwnLimit("acknowledgements that the server does not read"),
        )),
        false => Ok(()),
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
