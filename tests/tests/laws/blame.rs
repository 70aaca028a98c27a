//! Law 2: what one caller does is never booked on a server, nor paid for by another caller.

mod cancels;
mod resets;
mod strangers;
mod tunnels;
mod windows;

use std::sync::Arc;

use mvp::config::Config;
use mvp_tests::agent::TestAgent;
use mvp_tests::fixtures;
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

/// On a machine so busy that polls and PINGs are late, lateness would be held against a server, rightly; these tests are about
/// other things.
fn calm(config: &mut Config) {
    fixtures::unpolled(config);
    config.threads = 1;
    config.discovery.timeout = fixtures::NEVER;
    config.upstream.connect_timeout = fixtures::SOON;
    config.upstream.ping_timeout = fixtures::NEVER;
    config.limits.handshake_timeout = fixtures::SOON;
}

/// An agent beside `cp-a`.
async fn calm_agent(plane: &ControlPlane, change: impl FnOnce(&mut Config)) -> TestAgent {
    let change = |config: &mut Config| {
        calm(config);
        change(config);
    };
    TestAgent::start_with(plane, "cp-a", change).await.unwrap()
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
