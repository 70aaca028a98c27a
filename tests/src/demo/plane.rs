//! The control plane of one half: three simulated servers on a runtime of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::StatusCode;
use serde_json::json;

use super::operation::{BINDINGS, CONFIG_MAPS, NAMESPACE, POLICIES, POLICY, SEEDS};
use super::traffic::Profile;
use crate::load::{Call, Client};
use crate::sim::pki::Pki;
use crate::sim::{ControlPlane, ServerSpec};

pub(super) const NAMES: [&str; 3] = ["cp-a", "cp-b", "cp-c"];
const OLD: u8 = 35;
const NEW: u8 = 36;

pub(super) struct Plane {
    sim: Arc<ControlPlane>,
    /// Dropped last: the servers' tasks run on it.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Plane {
    /// Starts three servers of the old minor, on 127.0.0.2 to 127.0.0.4, with the objects that the traffic reads.
    pub(super) async fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("servers")
            .enable_all()
            .build()?;
        let specs = NAMES.iter().zip(2..).map(|(name, last)| {
            let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
            ServerSpec::new(name, OLD).listen(address)
        });
        let sim = runtime.spawn(ControlPlane::builder().servers(specs).start());
        let sim = sim.await.context("control plane")??;
        let plane = Self {
            sim: Arc::new(sim),
            runtime: Some(runtime),
        };
        plane.seed().await?;
        Ok(plane)
    }

    pub(super) fn pki(&self) -> &Pki {
        self.sim.pki()
    }

    /// Names and addresses.
    pub(super) fn servers(&self) -> Vec<(String, SocketAddr)> {
        self.sim
            .servers()
            .iter()
            .map(|server| (server.name().to_owned(), server.addr()))
            .collect()
    }

    /// Ends the server as SIGTERM ends kube-apiserver.
    pub(super) async fn stop(&self, index: usize) -> Result<()> {
        self.on_servers(move |sim| async move { sim.server(index).stop().await })
            .await
    }

    /// Starts the stopped server at the same address with the new minor, and waits until it says that it is ready.
    pub(super) async fn start_upgraded(&self, index: usize) -> Result<()> {
        self.on_servers(move |sim| async move { sim.server(index).restart(NEW).await })
            .await?;
        let client = self.admin(index)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if matches!(client.send(&Call::get("/readyz")).await, Ok(reply) if reply.status == StatusCode::OK)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready within 10 s", NAMES[index]);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Creates the objects of the new resources through an upgraded server.
    pub(super) async fn seed_new(&self, index: usize) -> Result<()> {
        let client = self.admin(index)?;
        let version = "admissionregistration.k8s.io/v1";
        let policy = json!({"apiVersion": version, "kind": "MutatingAdmissionPolicy", "metadata": {"name": POLICY},
            "spec": {"failurePolicy": "Ignore", "reinvocationPolicy": "Never",
                "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}});
        let binding = json!({"apiVersion": version, "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": POLICY},
            "spec": {"policyName": POLICY}});
        create(&client, POLICIES, &policy).await?;
        create(&client, BINDINGS, &binding).await
    }

    async fn seed(&self) -> Result<()> {
        let client = self.admin(0)?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        create(&client, "/api/v1/namespaces", &namespace).await?;
        for number in 0..SEEDS {
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("seed-{number}")},
                "data": {"payload": "x".repeat(500)}});
            create(&client, CONFIG_MAPS, &object).await?;
        }
        Ok(())
    }

    /// A client of the server itself.
    fn admin(&self, index: usize) -> Result<Client> {
        Profile::Http2Token.client(self.pki(), self.sim.server(index).addr())
    }

    /// Whatever a server spawns must run on the servers' runtime.
    async fn on_servers<F, Fut>(&self, work: F) -> Result<()>
    where
        F: FnOnce(Arc<ControlPlane>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let runtime = self
            .runtime
            .as_ref()
            .context("the control plane has ended")?;
        runtime
            .spawn(work(self.sim.clone()))
            .await
            .context("a server panicked")?
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        // A runtime must not wait for its threads where another one runs.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn create(client: &Client, collection: &str, object: &serde_json::Value) -> Result<()> {
    let reply = client.send(&Call::create(collection, object)).await?;
    if reply.status != StatusCode::CREATED {
        bail!(
            "create in {collection}: {}: {}",
            reply.status,
            String::from_utf8_lossy(&reply.body)
        );
    }
    Ok(())
}
