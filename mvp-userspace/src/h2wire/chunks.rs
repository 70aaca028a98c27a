//! The part of a body that has come and that its reader has not taken.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A smaller chunk is copied, so that it does not keep the whole buffer in which it came.
pub(super) const SMALL: usize = 2048;
/// Small chunks are put together up to this.
const TOGETHER: usize = 16 * 1024;

/// Small chunks lie behind one another, so that a body that comes byte by byte takes no more room than its bytes.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    whole: VecDeque<Bytes>,
    /// Behind all of `whole`.
    small: BytesMut,
}

impl Chunks {
    pub(super) fn push_small(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
        if self.small.len() >= TOGETHER {
            self.close();
        }
    }

    pub(super) fn push(&mut self, chunk: Bytes) {
        self.close();
        self.whole.push_back(chunk);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let first = self.whole.pop_front();
        first.or_else(|| (!self.small.is_empty()).then(|| std::mem::take(&mut self.small).freeze()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.small.is_empty()
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> usize {
        self.whole.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn close(&mut self) {
        if !self.small.is_empty() {
            let small = std::mem::take(&mut self.small);
            self.whole.push_back(small.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_out_in_their_order_and_small_ones_together() {
        let mut chunks = Chunks::default();
        for byte in *b"abc" {
            chunks.push_small(&[byte]);
        }
        chunks.push(Bytes::from_static(b"large"));
        chunks.push_small(b"d");
        assert_eq!(chunks.bytes(), 9);
        let mut taken = Vec::new();
        while let Some(chunk) = chunks.pop() {
            taken.push(chunk);
        }
        assert_eq!(taken, ["abc", "large", "d"]);
        assert!(chunks.is_empty());
        chunks.push_small(&[0; TOGETHER]);
        chunks.push_small(&[0; 1]);
        assert_eq!(chunks.pop().unwrap().len(), TOGETHER);
        chunks.clear();
        assert!(chunks.is_empty());
    }
}
