//! One kube-apiserver as every thread sees it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::config::Endpoint;

/// Shared by all threads and by every route table that mentions the server.
#[derive(Debug)]
pub struct Server {
    pub name: Arc<str>,
    pub endpoint: Endpoint,
    pub local: bool,
    /// Requests sent to it and not yet finished, over all threads.
    pub outstanding: AtomicUsize,
}
