//! A node with a simulated kube-apiserver, a process of its own that may be killed, stopped and started again.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use crate::sim::control;
use crate::sim::identity::register_node;
use crate::sim::{ChildServer, ControlPlane, ServerSpec};
use serde_json::Value;

use super::{PORT, Place};

/// A node with a kube-apiserver in a process of its own.
pub struct Node {
    /// Its network namespace, with its runtime.
    pub place: Arc<Place>,
    /// The name of its server.
    pub name: String,
    plane: Arc<ControlPlane>,
    spec: ServerSpec,
    /// `None` after it was killed.
    server: Mutex<Option<Arc<ChildServer>>>,
}

impl Node {
    /// Node `cp-a` is number 1; `spec` sets up the server of this name.
    pub(super) fn start(
        place: Place,
        plane: &Arc<ControlPlane>,
        number: u8,
        spec: impl FnOnce(&str) -> ServerSpec,
    ) -> Self {
        let name = format!("cp-{}", char::from(b'a' + number - 1));
        // On every address of both families by one socket, and known to others by that of its node, as kube-apiserver does.
        let any = (Ipv6Addr::UNSPECIFIED, PORT);
        let address: IpAddr = place.address.parse().unwrap();
        let spec = spec(&name).listen(any.into()).advertise(address);
        let (store, node) = (plane.store().clone(), name.clone());
        place.on(async move { register_node(&store, &node, address).await.unwrap() });
        let started = Self {
            place: Arc::new(place),
            name,
            plane: Arc::clone(plane),
            spec,
            server: Mutex::default(),
        };
        started.start_server();
        started
    }

    /// The address of its server.
    pub fn at(&self) -> SocketAddr {
        format!("{}:{PORT}", self.place.address).parse().unwrap()
    }

    /// The minor version of its server.
    pub fn minor(&self) -> u8 {
        self.spec.minor
    }

    /// The process of its server.
    pub fn server(&self) -> Arc<ChildServer> {
        let server = self.server.lock().unwrap();
        Arc::clone(server.as_ref().expect("the server was killed"))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill_server(&self) {
        let server = self.server.lock().unwrap().take();
        let server = Arc::into_inner(server.expect("the server was killed before"));
        let server = server.expect("nobody commands the server meanwhile");
        server.kill().unwrap();
    }

    /// A new process, after [`Self::kill_server`].
    pub fn start_server(&self) {
        let (plane, spec) = (Arc::clone(&self.plane), self.spec.clone());
        let binary = self.place.binaries.server.clone();
        let started = async move { plane.spawn(&binary, &spec).await.unwrap() };
        let server = self.place.on(started);
        *self.server.lock().unwrap() = Some(Arc::new(server));
    }

    /// Has its server carry out a command.
    ///
    /// # Panics
    /// The server cannot.
    pub fn command(&self, command: control::Command) -> Value {
        let server = self.server();
        self.place
            .on(async move { server.command(&command).await.unwrap() })
    }

    /// Peers of the requests for `target` that the server received.
    pub fn received(&self, target: &str) -> Vec<SocketAddr> {
        let all = self.command(control::Command::Requests);
        let all = all.as_array().unwrap().iter();
        all.filter(|request| request["target"] == target)
            .map(|request| {
                request["peer"]
                    .as_str()
                    .unwrap()
                    .parse::<SocketAddr>()
                    .unwrap()
            })
            .map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()))
            .collect()
    }
}
