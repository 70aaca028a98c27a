//! Test doubles of the controllers that act on what they do not find: the namespace controller, which deletes what discovery lists, and the
//! garbage collector, which collects what lost its owner. Each is at a server of the old version, on a connection of before that is
//! never silent for long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::{interval, timeout};

use super::rolling::{Settings, upgrade_all};
use super::{Direct, News};
use crate::fixtures::{SOON, admin, config_map};
use crate::load::{Call, Client, Endpoint, Failure, Reply};
use crate::nodes::{Agent, Cluster};
use crate::sim::ControlPlane;
use crate::sim::store::{Key, Scope};

/// What the controllers did, summed over all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Namespaces that were emptied and finished.
    pub namespaces: u64,
    /// Objects that were left in a namespace which the controller took to be empty.
    pub orphaned: u64,
    /// Dependents whose owner was looked up.
    pub dependents: u64,
    /// Dependents that were deleted although their owner lives.
    pub collected_wrongly: u64,
    /// Dependents that were not deleted although their owner is gone.
    pub never_collected: u64,
    /// Times at which a controller gave up and begins anew, as they do after any error.
    pub again: u64,
}

/// The controllers of one server.
struct Controllers {
    client: Client,
    plane: Arc<ControlPlane>,
    /// A name that no other client has, sent with its requests.
    name: String,
}

const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const GROUP: &str = "resource.k8s.io";
const OWNERS: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const DEPENDENTS: &str = "/api/v1/namespaces/default/configmaps";
/// A controller manager renews its Lease so often.
const RENEW: Duration = Duration::from_secs(2);
const MINOR: u8 = 34;
/// Namespaces that each controller is to empty after the last server was upgraded.
const AFTERWARDS: u64 = 3;

impl Found {
    /// Something was done, and all of it was right.
    pub fn is_right(&self) -> bool {
        let wrong = self.orphaned + self.collected_wrongly + self.never_collected;
        wrong == 0 && self.namespaces > 0 && self.dependents > 0
    }

    fn add(&mut self, more: Self) {
        self.namespaces += more.namespaces;
        self.orphaned += more.orphaned;
        self.dependents += more.dependents;
        self.collected_wrongly += more.collected_wrongly;
        self.never_collected += more.never_collected;
        self.again += more.again;
    }
}

/// Upgrades all servers, while the controllers work from the first ready answer of the new version on.
///
/// # Errors
/// A controller cannot connect, or the upgrade does not end.
pub fn run(cluster: &Cluster, agents: &[Agent]) -> Result<Found> {
    let settings = Settings {
        minor: MINOR,
        ..Settings::direct(cluster)?
    };
    let news = Arc::new(News::default());
    let over = Arc::new(AtomicBool::new(false));
    let mut work = Vec::new();
    // The first server is the first to be of the new version.
    for node in cluster.nodes.iter().skip(1) {
        let controllers = Controllers::connect(cluster, &node.name, node.at())?;
        let (news, over) = (Arc::clone(&news), Arc::clone(&over));
        let working = async move { controllers.work(&news, &over).await };
        work.push(cluster.clients.spawn(working));
    }
    let direct = Direct::watch(cluster, settings.clients.clone())?;
    let others = cluster.nodes.len() - 1;
    ensure!(
        direct.now() == others,
        "controllers have no connection of before"
    );
    upgrade_all(cluster, agents, &settings, &news)?;
    over.store(true, Ordering::Relaxed);
    let mut found = Found::default();
    for work in work {
        let ended = cluster.clients.on(async move { timeout(SOON, work).await });
        found.add(
            ended
                .context("a controller does not end")?
                .context("a controller")??,
        );
    }
    Ok(found)
}

impl Controllers {
    fn connect(cluster: &Cluster, name: &str, address: SocketAddr) -> Result<Self> {
        let tls = cluster
            .plane
            .pki()
            .client_config(admin(&cluster.plane), &["h2"])?;
        let endpoint = Endpoint {
            address,
            server_name: "kubernetes".try_into()?,
            tls: Arc::new(tls),
        };
        let controllers = Self {
            client: Client::new(endpoint, None),
            plane: Arc::clone(&cluster.plane),
            name: name.into(),
        };
        // The connection is made now.
        cluster.clients.on(async move {
            controllers.get("/api/v1/namespaces/default").await?;
            Ok(controllers)
        })
    }

    async fn work(&self, news: &News, over: &AtomicBool) -> Result<Found> {
        let mut found = Found::default();
        let mut tick = interval(RENEW);
        let mut afterwards = 0;
        for number in 0.. {
            // Whoever lists types in the second in which agents learn of a new one may not see it.
            while !news.are_old() {
                // As a controller manager, which asks for its Lease: nothing else is done yet.
                let _ = self.get("/api/v1/namespaces/default").await;
                tokio::time::timeout(Duration::from_millis(100), tick.tick())
                    .await
                    .ok();
            }
            match self.round(number, &mut found).await {
                Ok(()) if over.load(Ordering::Relaxed) => afterwards += 1,
                Ok(()) => {}
                Err(_) => {
                    found.again += 1;
                    tick.tick().await;
                }
            }
            if afterwards == AFTERWARDS {
                break;
            }
        }
        Ok(found)
    }

    /// One namespace is emptied, and one dependent looked after.
    ///
    /// # Errors
    /// A request that was not answered, or with 503: a controller begins anew then, and nothing that it has not finished counts.
    async fn round(&self, number: u64, found: &mut Found) -> Result<()> {
        let doomed = format!("doomed-{}-{number}", self.name);
        self.make("", "configmaps", &doomed, "map", json!({}))
            .await?;
        let claim = json!({"spec": {"devices": {}}});
        self.make(GROUP, "resourceclaims", &doomed, "claim", claim)
            .await?;
        self.empty(&doomed).await?;
        found.namespaces += 1;
        found.orphaned += self.left(&doomed).await?;

        let owner = format!("owner-{}-{number}", self.name);
        let dependent = format!("dependent-{}-{number}", self.name);
        self.make(GROUP, "deviceclasses", "", &owner, json!({"spec": {}}))
            .await?;
        let reference = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "name": owner, "uid": owner});
        let object = json!({"metadata": {"ownerReferences": [reference]}});
        self.make("", "configmaps", "default", &dependent, object)
            .await?;
        self.collect(&owner, &dependent).await?;
        found.dependents += 1;
        if !self.is_there(&dependent).await? {
            found.collected_wrongly += 1;
            return Ok(());
        }
        let key = Key::new(GROUP, "deviceclasses", "", &owner);
        let ended = self.plane.store().delete(&key, None).await;
        ended.map_err(|error| anyhow::anyhow!("store: {error:?}"))?;
        self.collect(&owner, &dependent).await?;
        found.never_collected += u64::from(self.is_there(&dependent).await?);
        Ok(())
    }

    /// As the namespace controller: all objects of all types that can be deleted, as far as discovery lists them.
    async fn empty(&self, namespace: &str) -> Result<()> {
        for root in ["/api", "/apis"] {
            let document = self.discover(root).await?;
            for path in deletable(root, &document, namespace) {
                let reply = self.send(&Call::delete(&path)).await?;
                // Not there, or not to be deleted as a whole: the real one lists and goes on.
                let known = reply.status.is_success() || matches!(reply.status.as_u16(), 404 | 405);
                ensure!(known, "{path}: {}", reply.status);
            }
        }
        Ok(())
    }

    /// As the garbage collector: the dependent is deleted if its owner is not found.
    async fn collect(&self, owner: &str, dependent: &str) -> Result<()> {
        let reply = self.send(&Call::get(&format!("{OWNERS}/{owner}"))).await?;
        if reply.status == StatusCode::NOT_FOUND {
            let path = format!("{DEPENDENTS}/{dependent}");
            let reply = self.send(&Call::delete(&path)).await?;
            ensure!(reply.status.is_success(), "{path}: {}", reply.status);
            return Ok(());
        }
        ensure!(reply.status.is_success(), "owner: {}", reply.status);
        Ok(())
    }

    async fn discover(&self, root: &str) -> Result<Value> {
        let mut call = Call::get(root);
        call.headers
            .insert(header::ACCEPT, HeaderValue::from_static(DISCOVERY));
        let reply = self.send(&call).await?;
        ensure!(reply.status.is_success(), "{root}: {}", reply.status);
        Ok(serde_json::from_slice(&reply.body)?)
    }

    async fn get(&self, path: &str) -> Result<Reply> {
        Ok(self.send(&Call::get(path)).await?)
    }

    async fn send(&self, call: &Call) -> Result<Reply, Failure> {
        self.client.send(call).await
    }

    /// Makes an object as some client of the new server would have made it.
    async fn make(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        mut object: Value,
    ) -> Result<()> {
        if resource == "configmaps" {
            let own = object["metadata"]["ownerReferences"].take();
            object = config_map(name);
            object["metadata"]["ownerReferences"] = own;
        }
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        let key = Key::new(group, resource, namespace, name);
        let made = self.plane.store().create(&key, object).await;
        made.map(drop)
            .map_err(|error| anyhow::anyhow!("store: {error:?}"))
    }

    /// Objects in a namespace.
    async fn left(&self, namespace: &str) -> Result<u64> {
        let mut left = 0;
        for (group, resource) in [("", "configmaps"), (GROUP, "resourceclaims")] {
            let scope = Scope::new(group, resource, namespace);
            let listed = self.plane.store().list(&scope).await;
            let (objects, _) = listed.map_err(|error| anyhow::anyhow!("store: {error:?}"))?;
            left += objects.len() as u64;
        }
        Ok(left)
    }

    async fn is_there(&self, dependent: &str) -> Result<bool> {
        let scope = Scope::new("", "configmaps", "default");
        let listed = self.plane.store().list(&scope).await;
        let (objects, _) = listed.map_err(|error| anyhow::anyhow!("store: {error:?}"))?;
        Ok(objects
            .iter()
            .any(|object| object["metadata"]["name"] == dependent))
    }
}

/// Collections of a namespace whose objects can be deleted, by a discovery document.
fn deletable(root: &str, document: &Value, namespace: &str) -> Vec<String> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut paths = Vec::new();
    for group in list(document, "items") {
        let name = group["metadata"]["name"].as_str().unwrap_or_default();
        for version in list(&group, "versions") {
            let version_name = version["version"].as_str().unwrap_or_default();
            let base = match root {
                "/api" => format!("/api/{version_name}"),
                _ => format!("/apis/{name}/{version_name}"),
            };
            for resource in list(&version, "resources") {
                let verbs = list(&resource, "verbs");
                let fits = resource["scope"] == "Namespaced"
                    && verbs.iter().any(|verb| verb == "deletecollection");
                let resource = resource["resource"].as_str().unwrap_or_default();
                if fits {
                    paths.push(format!("{base}/namespaces/{namespace}/{resource}"));
                }
            }
        }
    }
    paths
}
