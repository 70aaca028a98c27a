//! What a server does with one request: who asks, what for, whether it is allowed, and the answer.

mod admission;
pub mod authn;
pub mod authz;
pub mod body;
mod decode;
mod delete;
mod encode;
mod handler;
pub mod kubelet;
mod managed;
mod negotiate;
mod nonresource;
mod patch;
mod protobuf;
mod query;
mod read;
mod request_info;
mod resource;
mod reviews;
mod selectors;
mod sha1;
mod status;
mod streams;
mod swap;
mod upgrade;
mod watch;
mod write;

pub use handler::handle;
