//! A block of fields, which HEADERS begins and CONTINUATION continues (RFC 9113 §4.3, §6.2, §6.10).

use super::frame::{Frame, code, flag};
use super::receive::{Ends, malformed};
use super::stream::Fault;

/// Frames in which one block may come.
const MOST_FRAMES: usize = 1000;
/// Bytes of a coded block above what its fields may be.
const SPARE: usize = 64 * 1024;

/// One that goes on in further frames.
#[derive(Debug)]
pub struct Block {
    pub(super) stream: u32,
    pub(super) ends_stream: bool,
    bytes: Vec<u8>,
    frames: usize,
}

impl Block {
    pub(super) fn new(head: Frame) -> Self {
        Self {
            stream: head.stream,
            ends_stream: head.has(flag::END_STREAM),
            bytes: Vec::new(),
            frames: 0,
        }
    }

    /// Takes one more frame's part. `most`: bytes of fields.
    pub(super) fn add(&mut self, part: &[u8], most: u32) -> Result<(), Ends> {
        self.frames += 1;
        self.bytes.extend_from_slice(part);
        match self.frames > MOST_FRAMES || self.bytes.len() > most as usize + SPARE {
            true => Err(Ends(
                code::ENHANCE_YOUR_CALM,
                Fault::OwnLimit("a block of fields without end"),
            )),
            false => Ok(()),
        }
    }

    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// The fields' part of a HEADERS frame's payload.
pub(super) fn fields_of(head: Frame, payload: &[u8]) -> Result<&[u8], Ends> {
    let payload = without_padding(head, payload)?;
    if !head.has(flag::PRIORITY) {
        return Ok(payload);
    }
    let fields = payload.get(5..);
    fields.ok_or(malformed(code::FRAME_SIZE_ERROR, "HEADERS of a wrong size"))
}

/// §6.1: the first byte says how many bytes at the end are padding.
pub(super) fn without_padding(head: Frame, payload: &[u8]) -> Result<&[u8], Ends> {
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
