//! Which mode moves what.

use super::Mode;
use super::flow::Flowing;

/// The mode for each thing that can flow over a pair. With two different ones the pair changes over in mid-stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plan {
    /// At the beginning, and while messages flow.
    pub messages: Mode,
    /// While bulk flows.
    pub bulk: Mode,
}

impl Plan {
    /// The mode for what flows.
    pub const fn mode(self, flowing: Flowing) -> Mode {
        match flowing {
            Flowing::Messages => self.messages,
            Flowing::Bulk => self.bulk,
        }
    }

    /// Whether it matters what flows.
    pub fn adapts(self) -> bool {
        self.messages != self.bulk
    }

    /// Whether the kernel is to move the bytes at any time.
    pub fn needs_kernel(self) -> bool {
        self.messages == Mode::Sockmap || self.bulk == Mode::Sockmap
    }
}

/// One mode for everything.
impl From<Mode> for Plan {
    fn from(mode: Mode) -> Self {
        Self {
            messages: mode,
            bulk: mode,
        }
    }
}
