//! A control plane: servers, the store and the key material they share.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Mutex;

use super::{
    api::{
        authn::User,
        authz::{Policy, Rule},
    },
    control::Command,
    identity,
    pki::{KubeconfigUser, Pki},
    process::ChildServer,
    server::{Server, ServerSpec},
    store::{Host, Key, Store},
};

/// Servers over one store, in this process.
#[derive(Debug)]
pub struct ControlPlane {
    servers: Vec<Server>,
    pki: Pki,
    store: Store,
    policy: Arc<ArcSwap<Policy>>,
    /// Offers the store to child processes, once there is one.
    host: Mutex<Option<Host>>,
    /// Removed with the control plane, unless a folder was given.
    _dir: Option<TempDir>,
}

/// What a control plane is to be like.
#[derive(Debug, Default)]
pub struct Builder {
    specs: Vec<ServerSpec>,
    dir: Option<PathBuf>,
    pki: Option<Pki>,
    nodes: bool,
    definitions: Vec<Value>,
}

impl Builder {
    /// Every server's machine has a Node, as its kubelet writes it. For servers with an address each.
    pub fn nodes(mut self) -> Self {
        self.nodes = true;
        self
    }

    /// One more server, behind those before.
    pub fn server(mut self, spec: ServerSpec) -> Self {
        self.specs.push(spec);
        self
    }

    /// More servers, in this order.
    pub fn servers(mut self, specs: impl IntoIterator<Item = ServerSpec>) -> Self {
        self.specs.extend(specs);
        self
    }

    /// CustomResourceDefinitions that are there before the first server starts, in a form that a server would store.
    pub fn definitions(mut self, definitions: Vec<Value>) -> Self {
        self.definitions = definitions;
        self
    }

    /// Where the key material goes; without it, a temporary folder.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Key material that exists already.
    pub fn pki(mut self, pki: Pki) -> Self {
        self.pki = Some(pki);
        self
    }

    /// Makes key material and store, and starts every server.
    ///
    /// # Errors
    /// A server cannot listen, or the folder cannot be written.
    pub async fn start(self) -> Result<ControlPlane> {
        let mut temporary = None;
        let pki = match (self.pki, self.dir) {
            (Some(pki), _) => pki,
            (None, Some(dir)) => Pki::generate(&dir)?,
            (None, None) => {
                let dir = TempDir::with_prefix("mvp-sim-")?;
                let pki = Pki::generate(dir.path())?;
                temporary = Some(dir);
                pki
            }
        };
        let store = Store::in_memory();
        identity::bootstrap(&store, &pki).await?;
        for definition in self.definitions {
            let name = definition["metadata"]["name"].as_str().unwrap_or_default();
            let key = Key::new(
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "",
                name,
            );
            let stored = store.create(&key, definition).await;
            stored.map_err(|error| anyhow!("definition {:?}: {error:?}", key.name))?;
        }
        let policy = Arc::new(ArcSwap::from_pointee(Policy::standard()));
        let mut servers = Vec::new();
        for spec in self.specs {
            let name = spec.name.clone();
            if self.nodes {
                identity::register_node(&store, &name, spec.listen.ip()).await?;
            }
            let server = Server::start_new(spec, &pki, &store, &policy).await;
            servers.push(server.with_context(|| format!("server {name}"))?);
        }
        Ok(ControlPlane {
            servers,
            pki,
            store,
            policy,
            host: Mutex::new(None),
            _dir: temporary,
        })
    }
}

impl ControlPlane {
    /// Without servers, and with key material of its own.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// In the order in which they were given.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// By position, in the order in which they were given.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn server(&self, index: usize) -> &Server {
        &self.servers[index]
    }

    /// The server of this name, if there is one.
    pub fn named(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name() == name)
    }

    /// The key material of all servers and users.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The objects of all servers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the servers accept and grant at this moment.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// All servers accept this bearer token from now on.
    pub fn add_token(&self, token: &str, user: User) {
        self.change_policy(|policy| {
            policy.tokens.insert(token.into(), user.clone());
        });
    }

    /// All servers grant this from now on.
    pub fn add_rule(&self, rule: Rule) {
        self.change_policy(|policy| policy.rules.push(rule.clone()));
    }

    /// This user may no longer read discovery and OpenAPI documents, unless a rule says so.
    pub fn take_discovery_from(&self, user: &str) {
        self.change_policy(|policy| policy.without_discovery.push(user.into()));
    }

    /// Starts a further server in a process of its own. `binary` is mvp-sim. It gets the policy as it is now.
    pub async fn spawn(&self, binary: &Path, spec: &ServerSpec) -> Result<ChildServer> {
        let socket = self.pki.path("store.sock");
        {
            let mut host = self.host.lock().await;
            if host.is_none() {
                *host = Some(Host::serve(&self.store, &socket)?);
            }
        }
        let child = ChildServer::spawn(binary, spec, &self.pki, &socket).await?;
        child
            .command(&Command::Policy((*self.policy()).clone()))
            .await?;
        Ok(child)
    }

    /// Writes a kubeconfig for `server` (a URL) next to the key material.
    pub fn kubeconfig(&self, file: &str, server: &str, user: &KubeconfigUser) -> Result<PathBuf> {
        self.pki.write_kubeconfig(file, server, user)
    }

    fn change_policy(&self, change: impl Fn(&mut Policy)) {
        self.policy.rcu(|policy| {
            let mut next = (**policy).clone();
            change(&mut next);
            next
        });
    }
}
