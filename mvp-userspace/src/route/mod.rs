//! Where a request goes. Decisions are pure; the table is an immutable snapshot.

mod server;

pub use server::Server;
