//! One kube-apiserver's part of the simulated native proxy, a process of its own in front of that server: it authenticates, answers by its
//! own server what that one serves, and forwards to another server's process what only that one serves.
//!
//!
//! file | does |
//! |---|---|
//!
//! `front` | accepts connections while the own server lives |
//!
//! `request` | one request: authentication, the decision, the forwarding |
//!
//! `known` | who serves what, by discovery |
//!
//! `link` | HTTP/2 connections to a server or to another process |

mod front;
mod known;
mod link;
mod request;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::sim::pki::Pki;

/// The arguments of `native`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Key material, with the names that kubeadm gives it
    #[arg(long)]
    pub pki: PathBuf,
    /// Where clients connect
    #[arg(long)]
    pub listen: SocketAddr,
    /// The server of which this is a part
    #[arg(long)]
    pub own: SocketAddr,
    /// Where another server's process listens; may be given several times
    #[arg(long)]
    pub peer: Vec<SocketAddr>,
    /// Threads of the runtime
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// CPU spent on each request that another server answers, on each hop
    #[arg(long, default_value_t = 0)]
    pub work_us: u64,
    /// Time waited once for each of them
    #[arg(long, default_value_t = 0)]
    pub wait_us: u64,
}

/// Runs until it is killed.
///
/// # Errors
/// The key material is not there, or the address is taken.
pub fn run(options: &Options) -> Result<()> {
    let pki = Pki::load(&options.pki)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let known = known::Known::default();
        let this = request::Forwarder {
            own: link::Link::new(options.own, &pki)?,
            peers: options
                .peer
                .iter()
                .map(|peer| link::Link::new(*peer, &pki))
                .collect::<Result<_>>()?,
            known,
            work: Duration::from_micros(options.work_us),
            wait: Duration::from_micros(options.wait_us),
        };
        front::serve(options.listen, options.own, &pki, this).await
    })
}
