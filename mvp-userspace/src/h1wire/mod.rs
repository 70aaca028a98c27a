//! HTTP/1.1 as it is on the wire, read before the HTTP library.
//!
//! The library answers what it cannot represent without a body and closes the connection, and cuts a target off at a `#`. So heads are
//! looked at first, by the rules by which the library finds them: what it would not take as it is, is replaced by a head that it
//! takes and that says how the request is to be refused. Where a body ends is followed too, so that nothing in one is taken for a
//! request. Pure.

mod body;
mod essence;
mod head;
mod heads;
#[cfg(test)]
mod heads_tests;
mod overlong;

pub(crate) use heads::{Answered, HeadLimits, Heads};
