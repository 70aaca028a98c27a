//! Ends connections that clients made with kube-apiserver itself before the agent took connections from them, each in the moment
//! least likely to cut a request, so that they come back through the agent.
//!
//!
//! file | does |
//! |---|---|
//!
//! `moment` | decides when a connection may be ended |
//!
//! `seen` | distinguishes an answer from an acknowledgement, by the kernel's counts of bytes |
//!
//! `close` | finds a moment on a connection that is never quiet for long |
//!
//! `tally` | counts, and shows what is still open |
//!
//! `round` | the thread that looks at the connections and ends them |

mod close;
mod moment;
mod round;
mod seen;
mod tally;

pub use moment::{Due, QUIET_FIRST, QUIET_LAST, Schedule, TcpFigures};
pub use round::{Agents, Retiring, Scope};
pub use tally::{Ended, Open, RetireTally, RetireView};
