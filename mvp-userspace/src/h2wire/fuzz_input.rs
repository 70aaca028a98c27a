//! What the fuzz targets of both ends have in common: their limits, and how they read from their input what the other side sends.

use super::connection::Limits;
use super::frame::Frame;

/// What either target grants the other side: so little that an input of some hundred bytes gets above each limit.
pub(super) const LIMITS: Limits = Limits {
    stream_window: 1000,
    connection_window: 70_000,
    frame: 1 << 14,
    header_list: 4096,
    blocks_a_turn: 4,
    streams: 10,
};

/// The bytes that a step of either target sends, if it is one that sends, and takes what they are made of off the front: bytes that are no
/// frame perhaps, or a frame on one of the first `streams` streams. `size`: of the bytes or the payload.
pub(super) fn sent(step: u8, size: usize, streams: u8, rest: &mut &[u8]) -> Option<Vec<u8>> {
    if step == 0 {
        let (bytes, behind) = rest.split_at(size.min(rest.len()));
        *rest = behind;
        return Some(bytes.to_vec());
    }
    let (&[kind, flags, stream], behind) = rest.split_first_chunk()?;
    let (payload, behind) = behind.split_at(size.min(behind.len()));
    *rest = behind;
    let frame = Frame {
        length: payload.len(),
        // Also some that do not exist.
        kind: kind % 11,
        flags,
        stream: u32::from(stream % streams),
    };
    let mut bytes = Vec::new();
    frame.write(&mut bytes);
    bytes.extend_from_slice(payload);
    Some(bytes)
}
