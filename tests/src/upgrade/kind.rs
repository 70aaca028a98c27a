//! The kinds of clients.

/// Each is at work at every server, but for [`Kind::TwoHundred`], of which there is one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// As kube-controller-manager: 20 watches, and every 2 s a Lease is renewed, discovery read and an object looked up, all on one
    /// connection.
    Manager,
    /// 20 requests each second, evenly, on one HTTP/2 connection.
    Twenty,
    /// 200 requests each second, evenly, on one HTTP/2 connection.
    TwoHundred,
    /// Requests about which the server thinks for 5 s, with half a second between an answer and the next.
    Slow,
    /// HTTP/1.1 connections that are kept, with two requests each second on each.
    Pool,
    /// Watches without an event, 50 on a connection.
    Watches,
}

impl Kind {
    /// Every kind, in the order of the table.
    pub const ALL: [Self; 6] = [
        Self::Manager,
        Self::Twenty,
        Self::TwoHundred,
        Self::Slow,
        Self::Pool,
        Self::Watches,
    ];

    /// The name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manager => "controller manager",
            Self::Twenty => "20 per second",
            Self::TwoHundred => "200 per second",
            Self::Slow => "5 s each",
            Self::Pool => "HTTP/1.1 pool",
            Self::Watches => "idle watches",
        }
    }

    /// Names of its clients begin with it.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Twenty => "twenty",
            Self::TwoHundred => "twohundred",
            Self::Slow => "slow",
            Self::Pool => "pool",
            Self::Watches => "watches",
        }
    }

    /// Whether not one request may be cut. Of the others one in 10,000 may.
    pub const fn is_never_cut(self) -> bool {
        matches!(self, Self::Manager | Self::Twenty | Self::TwoHundred)
    }
}
