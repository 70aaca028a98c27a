//! How a server is set up.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::connection;
use crate::sim::api::authn::HeaderNames;
use crate::sim::discovery::Newest;
use crate::sim::surface::Apis;

/// kube-apiserver's limit unless --http2-max-streams-per-connection says otherwise.
const MAX_CONCURRENT_STREAMS: u32 = 100;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Host name: decides the identity lease's name.
    pub name: String,
    /// Kubernetes minor, 31 to 36.
    pub minor: u8,
    /// Options of lists and watches are judged as this minor does: also one whose APIs are not known here.
    pub query_minor: Option<u8>,
    /// All alpha and beta APIs are enabled.
    pub all_apis: bool,
    /// All alpha and beta feature gates are on as well.
    pub all_gates: bool,
    /// Port 0 is replaced by a free one at the first start and kept from then on.
    pub listen: SocketAddr,
    /// By which address clients and other servers know it, if not by that of `listen` (`--advertise-address`).
    pub advertise: Option<IpAddr>,
    /// It does not offer HTTP/2 (`--disable-http2-serving`).
    pub http1_only: bool,
    /// Streams of one connection (`--http2-max-streams-per-connection`).
    pub max_concurrent_streams: u32,
    /// An HTTP/2 connection ends after an answer to a caller who is not authenticated (anonymous, or 401), as on real servers
    /// (`UnauthenticatedHTTP2DOSMitigation`).
    pub ends_unauthenticated: bool,
    /// Receive window of an HTTP/2 connection, bytes.
    pub connection_window: u32,
    /// The newest form of discovery this server knows.
    pub discovery: Newest,
    /// How late this server is to serve a new CustomResourceDefinition.
    pub crd_delay: Duration,
    /// Requests that are kept for [`super::Server::requests`].
    pub log_capacity: usize,
    /// By which front proxies assert users here (`--requestheader-*-headers`).
    pub header_names: HeaderNames,
    /// For how long a server that was told to stop goes on while requests or watches are open on it.
    pub lingers: Duration,
}

impl ServerSpec {
    /// A server of this minor version on a free port of loopback, with the defaults of kube-apiserver.
    pub fn new(name: &str, minor: u8) -> Self {
        Self {
            name: name.into(),
            minor,
            query_minor: None,
            all_apis: false,
            all_gates: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            http1_only: false,
            max_concurrent_streams: MAX_CONCURRENT_STREAMS,
            ends_unauthenticated: false,
            connection_window: connection::CONNECTION_WINDOW,
            discovery: Newest::V2,
            crd_delay: Duration::ZERO,
            log_capacity: 4096,
            header_names: HeaderNames::default(),
            lingers: Duration::ZERO,
        }
    }

    /// Reads query options as this minor does, whatever it serves.
    pub fn reads_queries_as(mut self, minor: u8) -> Self {
        self.query_minor = Some(minor);
        self
    }

    /// Serves also what is off by default, as with `--runtime-config=api/all=true`.
    pub fn all_apis(mut self) -> Self {
        self.all_apis = true;
        self
    }

    /// All APIs and all feature gates: what the Kubernetes project publishes for a release.
    pub fn all_gates(mut self) -> Self {
        self.all_gates = true;
        self.all_apis()
    }

    /// Listens here.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// For a server that listens on all addresses.
    pub fn advertise(mut self, address: IpAddr) -> Self {
        self.advertise = Some(address);
        self
    }

    /// Does not offer HTTP/2.
    pub fn http1_only(mut self) -> Self {
        self.http1_only = true;
        self
    }

    /// Allows so many streams on a connection.
    pub fn max_concurrent_streams(mut self, limit: u32) -> Self {
        self.max_concurrent_streams = limit;
        self
    }

    /// Ends connections after an answer to a caller who is not authenticated.
    pub fn ends_unauthenticated(mut self) -> Self {
        self.ends_unauthenticated = true;
        self
    }

    /// Go's own default is 1 MiB; kube-apiserver's holds every stream's window.
    pub fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = bytes;
        self
    }

    /// Knows no newer form of discovery than this.
    pub fn discovery(mut self, newest: Newest) -> Self {
        self.discovery = newest;
        self
    }

    /// A CustomResourceDefinition is served so long after it was created.
    pub fn crd_delay(mut self, delay: Duration) -> Self {
        self.crd_delay = delay;
        self
    }

    /// The log of requests holds so many.
    pub fn log_capacity(mut self, requests: usize) -> Self {
        self.log_capacity = requests;
        self
    }

    /// Believes these headers of a front proxy.
    pub fn header_names(mut self, names: HeaderNames) -> Self {
        self.header_names = names;
        self
    }

    /// Stops as slowly as a real server: it says at `/readyz` that it shuts down, goes on accepting, and keeps open what is open, the
    /// watches too, for at most `most` (20 to 60 s were seen).
    pub fn lingers(mut self, most: Duration) -> Self {
        self.lingers = most;
        self
    }

    pub(super) fn apis(&self) -> Apis {
        match (self.all_apis, self.all_gates) {
            (_, true) => Apis::AllWithGates,
            (true, false) => Apis::All,
            (false, false) => Apis::Default,
        }
    }
}
