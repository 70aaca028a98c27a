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

    /// The same without a change between the kernel and userspace, which costs whoever sends a retransmission ([`crate::net::Mute`]): more than
    /// any mode gains. Where only one of the two modes is sockmap, the other one is for both.
    pub fn sound(self) -> Self {
        match (self.messages, self.bulk) {
            (Mode::Sockmap, Mode::Sockmap) => self,
            (Mode::Sockmap, bulk) => Self::from(bulk),
            (messages, Mode::Sockmap) => Self::from(messages),
            _ => self,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_plan_changes_between_the_kernel_and_userspace() {
        for messages in Mode::ALL {
            for bulk in Mode::ALL {
                let plan = Plan { messages, bulk }.sound();
                assert!(!plan.adapts() || !plan.needs_kernel(), "{plan:?}");
                let mixed = (messages == Mode::Sockmap) != (bulk == Mode::Sockmap);
                assert_eq!(plan == Plan { messages, bulk }, !mixed, "{plan:?}");
            }
        }
    }
}
