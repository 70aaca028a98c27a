//! Agents in this process, in front of a simulated control plane.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mvp::config::{self, Config, Http2};

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
        if let Some(name) = http2_client() {
            config.upstream.http2 = http2(name);
        }
        if let Some(name) = http2_server() {
            config.serving_http2 = http2(name);
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

/// What is to speak HTTP/2 to servers (`upstream.http2`), if not what does so by default: `MVP_TEST_HTTP2` names it for every test.
pub fn http2_client() -> Option<&'static str> {
    http2_of("MVP_TEST_HTTP2")
}

/// What is to speak HTTP/2 to clients (`serving.http2`), likewise: `MVP_TEST_SERVING`.
pub fn http2_server() -> Option<&'static str> {
    http2_of("MVP_TEST_SERVING")
}

fn http2_of(variable: &str) -> Option<&'static str> {
    let name = std::env::var_os(variable)?;
    let known = ["h2", "h2wire"].into_iter().find(|known| name == *known);
    Some(known.unwrap_or_else(|| panic!("{variable} is neither h2 nor h2wire")))
}

/// The implementation of this name.
fn http2(name: &str) -> Http2 {
    match name {
        "h2wire" => Http2::Own,
        _ => Http2::Library,
    }
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
