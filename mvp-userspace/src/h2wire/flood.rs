//! How much of a connection's thread the other side may take (CVE-2023-44487 and its relatives): what is counted for whoever decides.

use super::connection::{Connection, Side};
use super::frame::code;

/// Frames that are taken from somebody who does not read what the agent sends, as Go's server counts its own control frames
/// (`maxQueuedControlFrames`).
const UNHEARD_FRAMES: usize = 10_000;

/// What came in one turn of the thread's event loop, and what came while the other side read nothing.
#[derive(Debug, Default)]
pub struct Burst {
    /// Blocks of fields in this turn.
    blocks: usize,
    /// Frames since the other side last read anything, while something waits for it.
    unheard: Option<usize>,
}

/// What a client does that costs the agent more than the client, counted for whoever allows so much of it in a time.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Misdeeds {
    /// Requests that the client had given up before they were accepted.
    pub given_up: usize,
    /// Streams that were reset for an error of the client's own.
    pub errors: usize,
    /// Frames on streams that had ended already, such as the rest of an upload that was refused early.
    pub late: usize,
}

impl<S: Side> Connection<S> {
    /// A turn of the thread's event loop begins, for [`Self::has_enough`].
    pub fn begin_turn(&mut self) {
        self.burst.begin_turn();
    }

    /// Whether what else comes has to wait for the next turn, so that others come between.
    pub fn has_enough(&self) -> bool {
        self.burst.is_enough(self.limits.blocks_a_turn)
    }

    /// The socket took not all that there was (`true`), or all of it.
    pub fn blocked(&mut self, blocked: bool) {
        self.burst.blocked(blocked);
    }
}

impl Burst {
    /// Nothing has come in this turn.
    pub fn begin_turn(&mut self) {
        self.blocks = 0;
    }

    /// A block of fields has begun, or come.
    pub fn block(&mut self) {
        self.blocks += 1;
    }

    /// Whether there were `most` blocks in this turn.
    pub fn is_enough(&self, most: usize) -> bool {
        self.blocks >= most
    }

    /// A frame has come. False: too many came from somebody who does not read.
    pub fn frame(&mut self) -> bool {
        match &mut self.unheard {
            Some(unheard) => {
                *unheard += 1;
                *unheard <= UNHEARD_FRAMES
            }
            None => true,
        }
    }

    /// The socket took nothing (`true`), or all that there was.
    pub fn blocked(&mut self, blocked: bool) {
        match blocked {
            true => {
                self.unheard.get_or_insert(0);
            }
            false => self.unheard = None,
        }
    }
}

impl Misdeeds {
    /// The agent resets a stream with this code.
    pub fn reset(&mut self, with: u32) {
        match with {
            // An early answer, and what went wrong at a server: not the client's doing.
            code::NO_ERROR | code::INTERNAL_ERROR | code::CANCEL => {}
            code::STREAM_CLOSED => self.late += 1,
            _ => self.errors += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_count_only_while_nothing_is_read() {
        let mut burst = Burst::default();
        assert!((0..2 * UNHEARD_FRAMES).all(|_| burst.frame()));
        burst.blocked(true);
        assert!((0..UNHEARD_FRAMES).all(|_| burst.frame()));
        burst.blocked(true);
        assert!(!burst.frame(), "it is not forgotten by a second look");
        burst.blocked(false);
        assert!(burst.frame());
    }

    #[test]
    fn what_is_not_the_clients_doing_is_not_counted() {
        let mut misdeeds = Misdeeds::default();
        for code in [code::NO_ERROR, code::INTERNAL_ERROR, code::CANCEL] {
            misdeeds.reset(code);
        }
        assert_eq!(misdeeds, Misdeeds::default());
        for code in [
            code::STREAM_CLOSED,
            code::PROTOCOL_ERROR,
            code::REFUSED_STREAM,
        ] {
            misdeeds.reset(code);
        }
        assert_eq!((misdeeds.late, misdeeds.errors), (1, 2));
    }
}
