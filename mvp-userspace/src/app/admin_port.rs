//! The admin port's listeners at the agent's start.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use crate::admin::{self, Admin, Door, Hosts, OperatorSocket};
use crate::config::{Config, Mode};
use crate::net::listen;

/// Between two tries to get the port from an agent that drains.
const RETRY: Duration = Duration::from_millis(100);

/// Both doors.
pub(super) struct AdminPort {
    reader: Reader,
    hosts: Hosts,
    /// `None`: it cannot be had, which is said in the log and keeps nobody from being served.
    socket: Option<OperatorSocket>,
}

/// Bound, or still another agent's.
enum Reader {
    Bound(TcpListener),
    /// With steering this agent replaces the one that has it, and gets it when that one has ended.
    Taken(SocketAddr),
}

impl AdminPort {
    /// # Errors
    /// One line that names the key.
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let address = config.admin.listen;
        let reader = match listen(address) {
            Ok(listener) => Reader::Bound(listener),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && config.kernel.steering != Mode::Off =>
            {
                Reader::Taken(address)
            }
            Err(error) => {
                return Err(error).with_context(|| format!("admin.listen: cannot bind {address}"));
            }
        };
        let path = &config.admin.socket;
        let socket = OperatorSocket::bind(path)
            .inspect_err(|error| {
                tracing::warn!(socket = %path.display(), %error, "admin.socket: cannot be bound; only signals change what this agent does");
            })
            .ok();
        let names = config.admin.hosts.iter().chain([&config.node]).cloned();
        Ok(Self {
            reader,
            hosts: Hosts::new(names),
            socket,
        })
    }

    pub(super) fn is_taken(&self) -> bool {
        matches!(self.reader, Reader::Taken(_))
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        match &self.reader {
            Reader::Bound(listener) => listener.local_addr(),
            Reader::Taken(address) => Ok(*address),
        }
    }

    /// Serves on tasks of this runtime, until it ends.
    ///
    /// # Errors
    /// The socket cannot be put into its place.
    pub(super) fn spawn(self, port: Admin) -> anyhow::Result<()> {
        let port = Arc::new(port);
        if let Some(socket) = self.socket {
            let socket = socket.publish().context("admin.socket")?;
            tokio::spawn(admin::serve(Door::Operator(socket), Arc::clone(&port)));
        }
        let (reader, hosts) = (self.reader, self.hosts);
        tokio::spawn(async move {
            let listener = match reader {
                Reader::Bound(listener) => listener,
                Reader::Taken(address) => loop {
                    match listen(address) {
                        Ok(listener) => break listener,
                        Err(_) => tokio::time::sleep(RETRY).await,
                    }
                },
            };
            admin::serve(Door::Reader(listener, hosts), port).await;
        });
        Ok(())
    }
}
