//! What waits for the socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};

/// A chunk of a body that is at least so large is not copied between the frames.
const LARGE: usize = 4096;
/// Written bytes that are kept in front of the rest at most.
const STALE: usize = 32 * 1024;
/// Room that an empty outbox keeps at most.
const KEPT: usize = 64 * 1024;

/// Frames in their order, and between them the large chunks of bodies.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Vec<u8>,
    /// How many of the bytes of `frames` have been written.
    written: usize,
    /// Each goes behind so many bytes of `frames`.
    large: VecDeque<(usize, Bytes)>,
    /// Bytes of all large chunks.
    large_bytes: usize,
}

impl Outbox {
    /// Where frames are appended.
    pub(super) fn frames(&mut self) -> &mut Vec<u8> {
        &mut self.frames
    }

    /// Appends a part of a body, whose frame's header has been appended.
    pub(super) fn chunk(&mut self, chunk: Bytes) {
        if chunk.len() < LARGE {
            self.frames.extend_from_slice(&chunk);
            return;
        }
        self.large_bytes += chunk.len();
        self.large.push_back((self.frames.len(), chunk));
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.frames.len() - self.written + self.large_bytes
    }

    /// Fills `slices` with what is to be written first, and returns how many of them it took.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut from = self.written;
        let mut filled = 0;
        let mut put = |bytes: &'a [u8]| {
            if let Some(slice) = slices.get_mut(filled)
                && !bytes.is_empty()
            {
                *slice = IoSlice::new(bytes);
                filled += 1;
            }
        };
        for (at, chunk) in &self.large {
            put(self.frames.get(from..*at).unwrap_or_default());
            put(chunk);
            from = *at;
        }
        put(self.frames.get(from..).unwrap_or_default());
        filled
    }

    /// So many bytes were written.
    pub(super) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let end = self.large.front().map_or(self.frames.len(), |(at, _)| *at);
            let of_frames = count.min(end - self.written);
            self.written += of_frames;
            count -= of_frames;
            let Some((_, chunk)) = self.large.front_mut().filter(|_| count > 0) else {
                break;
            };
            let of_chunk = count.min(chunk.len());
            chunk.advance(of_chunk);
            count -= of_chunk;
            self.large_bytes -= of_chunk;
            if chunk.is_empty() {
                self.large.pop_front();
            }
        }
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.len() == 0 {
            self.written = 0;
            match self.frames.capacity() > KEPT {
                true => self.frames = Vec::new(),
                false => self.frames.clear(),
            }
        } else if self.written >= STALE {
            self.frames.drain(..self.written);
            for (at, _) in &mut self.large {
                *at -= self.written;
            }
            self.written = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(outbox: &Outbox, most: usize) -> Vec<u8> {
        let mut slices = vec![IoSlice::new(&[]); most];
        let filled = outbox.slices(&mut slices);
        slices[..filled]
            .iter()
            .flat_map(|slice| slice.to_vec())
            .collect()
    }

    proptest! {
        /// Whatever is appended and however it is written: the bytes leave in their order.
        #[test]
        fn bytes_leave_in_their_order(
            steps in proptest::collection::vec((0_u8..3, 0_usize..12_000), 0..40),
            most in 1_usize..5,
        ) {
            let mut outbox = Outbox::default();
            let (mut expected, mut left) = (Vec::new(), Vec::new());
            let mut next = 0_u8;
            for (step, size) in steps {
                let bytes: Vec<u8> = (0..size).map(|at| (at as u8).wrapping_add(next)).collect();
                next = next.wrapping_add(37);
                match step {
                    0 => {
                        outbox.frames().extend_from_slice(&bytes);
                        expected.extend(bytes);
                    }
                    1 => {
                        outbox.chunk(bytes.clone().into());
                        expected.extend(bytes);
                    }
                    _ => {
                        let first = all(&outbox, most);
                        let written = first.len().min(size);
                        left.extend_from_slice(&first[..written]);
                        outbox.advance(written);
                    }
                }
                prop_assert_eq!(outbox.len(), expected.len() - left.len());
            }
            left.extend(all(&outbox, 100));
            prop_assert!(left == expected);
        }
    }

    #[test]
    fn an_empty_one_keeps_no_more_room_than_it_may() {
        let mut outbox = Outbox::default();
        outbox.frames().extend(vec![0; 4 * KEPT]);
        outbox.advance(4 * KEPT);
        assert_eq!((outbox.len(), outbox.frames.capacity()), (0, 0));
    }
}
