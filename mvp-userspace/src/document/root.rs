//! The two discovery roots.

/// Which of the two discovery roots a document is the answer of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Root {
    /// `/api`: the core group, whose name is empty.
    Core,
    /// `/apis`: every other group.
    Groups,
}

impl Root {
    /// The path that clients ask for, without a slash at its end.
    pub fn path(self) -> &'static str {
        match self {
            Root::Core => "/api",
            Root::Groups => "/apis",
        }
    }

    /// True if an entry of `group` belongs into the root's document.
    pub fn holds(self, group: &str) -> bool {
        group.is_empty() == (self == Root::Core)
    }
}
