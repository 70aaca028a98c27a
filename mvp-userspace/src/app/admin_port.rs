//! The admin port's listener at the agent's start.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::admin::{self, Admin};
use crate::config::{Config, Mode};
use crate::net::listen;

/// Between two tries to get the port from an agent that drains.
const RETRY: Duration = Duration::from_millis(100);

/// Bound, or still another agent's.
pub enum AdminPort {
    Bound(TcpListener),
    /// With steering this agent replaces the one that has it, and gets it when that one has ended.
    Taken(SocketAddr),
}

impl AdminPort {
    pub fn bind(config: &Config) -> io::Result<Self> {
        match listen(config.admin.listen) {
            Ok(listener) => Ok(Self::Bound(listener)),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && config.kernel.steering != Mode::Off =>
            {
                Ok(Self::Taken(config.admin.listen))
            }
            Err(error) => Err(error),
        }
    }

    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Taken(_))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Bound(listener) => listener.local_addr(),
            Self::Taken(address) => Ok(*address),
        }
    }

    /// Serves until dropped.
    pub async fn serve(self, port: Admin) {
        let listener = match self {
            Self::Bound(listener) => listener,
            Self::Taken(address) => loop {
                match listen(address) {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            },
        };
        admin::serve(listener, port).await;
    }
}
