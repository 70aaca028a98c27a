//! Where the messages of a WebSocket end (RFC 6455 §5.2), so that a watch over one can be ended between two events.

/// A close frame with code 1001, "going away" (RFC 6455 §7.4.1): unmasked, as everything that a server sends.
pub(super) const GOING_AWAY: [u8; 4] = [CLOSE | FIN, 2, 0x03, 0xe9];

const FIN: u8 = 0x80;
const CLOSE: u8 = 0x8;
/// From this opcode on a frame is a control frame, which may come between the frames of one message.
const CONTROL: u8 = 0x8;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
/// The two bytes that every frame has, an extended length and a mask.
const LONGEST_HEAD: usize = 2 + 8 + 4;

/// Follows one direction of a WebSocket by the heads of its frames. It never fails: bytes that are no WebSocket are read as
/// frames all the same, and pass as they are.
#[derive(Debug, Default)]
pub(super) struct Messages {
    head: [u8; LONGEST_HEAD],
    /// Bytes of the head that are here.
    known: usize,
    /// Bytes of the frame that are still to come after its head.
    left: u64,
    /// A message has begun whose last frame has not come.
    within: bool,
}

impl Messages {
    /// Whether a whole number of messages has passed.
    pub(super) fn between(&self) -> bool {
        self.known == 0 && self.left == 0 && !self.within
    }

    /// How many of these bytes may pass until the next end of a message; all of them if none ends here. Changes nothing.
    pub(super) fn until_between(&self, bytes: &[u8]) -> usize {
        let mut ahead = Self { ..*self };
        let mut passed = 0;
        while passed < bytes.len() && !(passed > 0 && ahead.between()) {
            passed += ahead.step(bytes.get(passed..).unwrap_or_default());
        }
        passed
    }

    /// These bytes have passed.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.step(bytes);
            bytes = bytes.get(taken..).unwrap_or_default();
        }
    }

    /// Takes at least one byte of those that are there, and none of the next frame.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let there = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let taken = self.left.min(there);
            self.left -= taken;
            return usize::try_from(taken).unwrap_or(bytes.len());
        }
        if let (Some(place), Some(byte)) = (self.head.get_mut(self.known), bytes.first()) {
            *place = *byte;
        }
        self.known += 1;
        if let Some(length) = self.length() {
            self.known = 0;
            self.left = length;
            let [first, ..] = self.head;
            if first & OPCODE < CONTROL {
                self.within = first & FIN == 0;
            }
        }
        1
    }

    /// The length of the payload, once the head is whole.
    fn length(&self) -> Option<u64> {
        let [_, second, extended @ ..] = self.head;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let (bytes, length) = match second & !MASKED {
            126 => {
                let [high, low, ..] = extended;
                (2, u16::from_be_bytes([high, low]).into())
            }
            127 => {
                let [a, b, c, d, e, f, g, h, ..] = extended;
                (8, u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
            short => (0, short.into()),
        };
        (self.known >= 2 && self.known == 2 + bytes + mask).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, mask: bool, length: usize) -> Vec<u8> {
        let masked = if mask { MASKED } else { 0 };
        let mut out = vec![first];
        match length {
            0..126 => out.push(masked | length as u8),
            126..65_536 => {
                out.push(masked | 126);
                out.extend((length as u16).to_be_bytes());
            }
            _ => {
                out.push(masked | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(std::iter::repeat_n(0xff, if mask { 4 } else { 0 }));
        out.extend(std::iter::repeat_n(0x81, length));
        out
    }

    #[test]
    fn the_goodbye_is_a_message_of_its_own() {
        let mut messages = Messages::default();
        messages.pass(&GOING_AWAY);
        assert!(messages.between());
    }

    #[test]
    fn a_message_in_parts_ends_with_its_last_frame() {
        let mut messages = Messages::default();
        messages.pass(&frame(0x01, false, 3));
        assert!(!messages.between());
        // A ping between the parts is whole, the message is not.
        messages.pass(&frame(0x89, false, 2));
        assert!(!messages.between());
        messages.pass(&frame(0x00, false, 200));
        assert!(!messages.between());
        messages.pass(&frame(0x80, false, 0));
        assert!(messages.between());
    }

    proptest! {
        /// Compares with the lengths of the frames, however the bytes are cut.
        #[test]
        fn ends_are_found_wherever_the_bytes_are_cut(
            lengths in prop::collection::vec((prop_oneof![0usize..130, 65_530usize..65_540], any::<bool>()), 1..6),
            cuts in prop::collection::vec(1usize..70_000, 0..20),
        ) {
            let mut bytes = Vec::new();
            let mut ends = Vec::new();
            for (length, mask) in lengths {
                bytes.extend(frame(0x82, mask, length));
                ends.push(bytes.len());
            }
            let mut messages = Messages::default();
            let (mut at, mut cuts) = (0, cuts.into_iter());
            while at < bytes.len() {
                let until = (at + cuts.next().unwrap_or(1000)).min(bytes.len());
                let next = ends.iter().copied().find(|end| *end > at).unwrap_or(bytes.len());
                prop_assert_eq!(messages.until_between(&bytes[at..until]), next.min(until) - at);
                messages.pass(&bytes[at..until]);
                at = until;
                prop_assert_eq!(messages.between(), ends.contains(&at));
            }
        }

        /// What is no WebSocket does no harm.
        #[test]
        fn any_bytes_pass(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let mut messages = Messages::default();
            for part in parts {
                let may = messages.until_between(&part);
                prop_assert!(may <= part.len());
                prop_assert!(may > 0 || part.is_empty());
                messages.pass(&part);
            }
        }
    }
}
