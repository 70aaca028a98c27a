//! Agents in this process, in front of a simulated control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mvp::config::{self, Config};

use crate::bench;
use crate::client::Client;
use crate::fixtures::SOON;
use crate::operator::{self, operate};
use crate::sim::ControlPlane;
use crate::sim::pki::ClientAuth;

/// An agent with the local server `node` and all other servers of the plane as peers. Stopped when dropped.
pub struct TestAgent {
    agent: Option<mvp::app::Agent>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Its read-only port.
    pub admin: SocketAddr,
    socket: tempfile::TempDir,
}

impl TestAgent {
    /// Starts an agent and waits until it is ready.
    pub async fn start(plane: &ControlPlane, node: &str) -> anyhow::Result<Self> {
        Self::start_with(plane, node, |_| {}).await
    }

    /// The same with a changed configuration.
    pub async fn start_with(
        plane: &ControlPlane,
        node: &str,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let agent = Self::start_unready(plane, node, change)?;
        agent.wait_ready().await?;
        Ok(agent)
    }

    /// Starts an agent and does not wait: for servers that cannot be reached.
    pub fn start_unready(
        plane: &ControlPlane,
        node: &str,
        change: impl FnOnce(&mut Config),
    ) -> anyhow::Result<Self> {
        let unused = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let settings = settings(plane, node, unused(1), unused(2))?;
        let text = settings.config(plane.pki().dir()).to_string();
        let mut config = config::parse(&text, Path::new("/"))?;
        // Any free ports: a file may not say so, since nobody would find them.
        config.listen.set_port(0);
        config.admin.listen.set_port(0);
        // A machine that is busy with other tests is no server that hangs; who tests that says how long.
        config.upstream.connect_timeout = SOON;
        if own_http2_client() {
            config.upstream.http2 = mvp::config::Http2::Own;
        }
        if own_http2_server() {
            config.serving_http2 = mvp::config::Http2::Own;
        }
        change(&mut config);
        Self::of(config)
    }

    /// Starts an agent of this very configuration, with an operator's socket of its own, and does not wait.
    pub fn of(mut config: Config) -> anyhow::Result<Self> {
        let socket = tempfile::tempdir()?;
        config.admin.socket = socket.path().join("admin.sock");
        let agent = mvp::app::Agent::start(config, Box::new(|_| Ok(())))?;
        Ok(Self {
            address: agent.listen_address(),
            admin: agent.admin_address(),
            socket,
            agent: Some(agent),
        })
    }

    /// A client of this agent over HTTP/2.
    pub async fn http2(&self, plane: &ControlPlane, auth: ClientAuth) -> anyhow::Result<Client> {
        Client::http2(self.address, &plane.pki().client_config(auth, &[])?.into()).await
    }

    /// A client of this agent over HTTP/1.1.
    pub async fn http1(&self, plane: &ControlPlane, auth: ClientAuth) -> anyhow::Result<Client> {
        Client::http1(self.address, &plane.pki().client_config(auth, &[])?.into()).await
    }

    /// Begins the graceful end.
    pub fn drain(&self) {
        if let Some(agent) = &self.agent {
            agent.drain();
        }
    }

    /// Where operators ask it.
    pub fn socket(&self) -> PathBuf {
        self.socket.path().join("admin.sock")
    }

    /// Body and status of a path on the admin port, for whoever may reach that.
    pub async fn admin_get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let (status, answer) = operator::read(self.admin, http::Method::GET, path).await?;
        Ok((status, answer.text()))
    }

    /// Body and status of a path, as an operator gets them.
    pub async fn operate(&self, method: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let (status, answer) = operate(&self.socket(), method.parse()?, path, "").await?;
        Ok((status, answer.text()))
    }

    /// The value of a metric's sample, by its full name with labels as they stand in the output; 0 if it is not there.
    pub async fn metric(&self, sample_name: &str) -> anyhow::Result<f64> {
        sample(&self.admin_get("/metrics").await?.1, sample_name)
    }

    /// Waits until the agent says that it is ready.
    pub async fn wait_ready(&self) -> anyhow::Result<()> {
        eventually("the agent is ready", Duration::from_secs(60), || async {
            let (code, awaited) = self.admin_get("/readyz").await?;
            anyhow::ensure!(code == 200, "{awaited}");
            Ok(true)
        })
        .await
    }
}

impl Drop for TestAgent {
    fn drop(&mut self) {
        if let Some(agent) = self.agent.take() {
            // Its own threads end it; a test's runtime must not wait for them.
            std::thread::spawn(move || agent.stop());
        }
    }
}

/// The usual settings of the agent of `node` in front of `plane`.
pub fn settings(
    plane: &ControlPlane,
    node: &str,
    listen: SocketAddr,
    admin: SocketAddr,
) -> anyhow::Result<bench::agent::Agent> {
    Ok(bench::agent::Agent {
        node: node.to_owned(),
        listen,
        admin,
        local: plane.named(node).context("no such server")?.addr(),
        peers: plane
            .servers()
            .iter()
            .filter(|s| s.name() != node)
            .map(|s| (s.name().to_owned(), s.addr()))
            .collect(),
        threads: Some(2),
    })
}

/// One sample of a scrape, by its full name with labels as they stand there; 0 if it is not there.
pub fn sample(scrape: &str, name: &str) -> anyhow::Result<f64> {
    let value = scrape
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map_or(Ok(0.0), str::parse)?)
}

/// Whether agents are to speak to servers by their own HTTP/2 client (`upstream.http2`): `MVP_TEST_HTTP2=h2wire` runs every test so.
pub fn own_http2_client() -> bool {
    std::env::var_os("MVP_TEST_HTTP2").is_some_and(|name| name == "h2wire")
}

/// Whether agents are to speak to clients by their own HTTP/2 server (`serving.http2`): `MVP_TEST_SERVING=h2wire` runs every test so.
pub fn own_http2_server() -> bool {
    std::env::var_os("MVP_TEST_SERVING").is_some_and(|name| name == "h2wire")
}

/// Polls a condition until it holds.
///
/// # Errors
/// It did not hold within `limit`; the message has the last error of the condition.
pub async fn eventually<F, Fut>(what: &str, limit: Duration, mut condition: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<bool>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let outcome = condition().await;
        if let Ok(true) = outcome {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("not within {limit:?}: {what} ({outcome:?})");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
