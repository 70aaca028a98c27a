//! Law 2: what one caller does is never booked on a server, nor paid for by another caller.

mod cancels;
mod resets;
mod strangers;
mod tunnels;
mod windows;

use std::sync::Arc;

use mvp_tests::agent::TestAgent;
use mvp_tests::sim::pki::{ClientAuth, Request};
use mvp_tests::sim::{ControlPlane, ServerSpec};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Two servers of one release, `cp-a` the local one of the agents of these tests.
async fn twins(change: impl Fn(ServerSpec) -> ServerSpec) -> ControlPlane {
    ControlPlane::builder()
        .servers(["cp-a", "cp-b"].map(|name| change(ServerSpec::new(name, 36))))
        .start()
        .await
        .unwrap()
}

fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

/// A user who may do nothing.
fn nobody(plane: &ControlPlane, name: &str) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().issue(&Request::new(name, &[])).unwrap())
}

fn tls(plane: &ControlPlane, auth: ClientAuth) -> Arc<rustls::ClientConfig> {
    plane.pki().client_config(auth, &[]).unwrap().into()
}

/// No server was ever held to be failing.
async fn nobody_is_blamed(plane: &ControlPlane, agent: &TestAgent) {
    for server in plane.servers() {
        let name = server.name();
        for (sample, expected) in [
            (format!("mvp_ejections_total{{server=\"{name}\"}}"), 0.0),
            (format!("mvp_server_available{{server=\"{name}\"}}"), 1.0),
        ] {
            assert_eq!(agent.metric(&sample).await.unwrap(), expected, "{sample}");
        }
    }
}
