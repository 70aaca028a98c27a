//! How servers make themselves known, and what every cluster holds from the start.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::sim::{
    clock,
    pki::Pki,
    server::App,
    store::{Key, Scope, Store, StoreError, revision},
};

const RENEW: Duration = Duration::from_secs(10);
const LEASES: &str = "coordination.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";

/// Name of a server's identity lease: the hash of its host name (apiserver `server.NewConfig`).
pub fn lease_name(hostname: &str) -> String {
    let component = "kube-apiserver";
    let mut message = Vec::new();
    for part in [hostname, component] {
        message.extend((part.len() as u16).to_be_bytes());
        message.extend(part.as_bytes());
    }
    format!("apiserver-{}", base32(&Sha256::digest(&message)[..16]))
}

/// Namespaces, the kubernetes Service, and the ConfigMap that publishes the authentication configuration.
pub async fn bootstrap(store: &Store, pki: &Pki) -> Result<()> {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        let namespace = json!({
            "metadata": {"labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        create(
            store,
            &Key::new("", "namespaces", "", name),
            ("v1", "Namespace"),
            namespace,
        )
        .await?;
    }
    let service = json!({
        "metadata": {"labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "clusterIP": "10.96.0.1",
            "type": "ClusterIP",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443}],
        },
        "status": {"loadBalancer": {}},
    });
    create(
        store,
        &Key::new("", "services", "default", "kubernetes"),
        ("v1", "Service"),
        service,
    )
    .await?;
    let authentication = json!({"data": {
        "client-ca-file": pki.read("ca.crt")?,
        "requestheader-allowed-names": "[\"front-proxy-client\"]",
        "requestheader-client-ca-file": pki.read("front-proxy-ca.crt")?,
        "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]",
        "requestheader-group-headers": "[\"X-Remote-Group\"]",
        "requestheader-uid-headers": "[\"X-Remote-Uid\"]",
        "requestheader-username-headers": "[\"X-Remote-User\"]",
    }});
    let key = Key::new(
        "",
        "configmaps",
        "kube-system",
        "extension-apiserver-authentication",
    );
    create(store, &key, ("v1", "ConfigMap"), authentication).await
}

/// The Node object that a kubelet writes for a machine: its name, and the address that servers on it are reached at.
pub async fn register_node(store: &Store, name: &str, address: IpAddr) -> Result<()> {
    let node = json!({
        "metadata": {"labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "node-role.kubernetes.io/control-plane": "",
        }},
        "spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": address.to_string()},
            {"type": "Hostname", "address": name},
        ]},
    });
    create(
        store,
        &Key::new("", "nodes", "", name),
        ("v1", "Node"),
        node,
    )
    .await
}

/// Writes the identity lease and enters the address in the EndpointSlice. Returns the holder identity of this start.
pub(super) async fn register(app: &App) -> Result<String> {
    let name = lease_name(&app.name);
    let holder = format!("{name}_{}", Uuid::new_v4());
    if app.minor >= 35 {
        // Since 1.35 a server clears away its own stale lease before it writes a new one.
        let key = Key::new(LEASES, "leases", "kube-system", &name);
        ignore_missing(app.store.delete(&key, None).await)?;
    }
    hold(app, &holder).await?;
    join(app).await?;
    publish_names(app).await?;
    Ok(holder)
}

/// Writes the identity lease as it is now, whether or not there is one (`component-helpers/apimachinery/lease`).
async fn hold(app: &App, holder: &str) -> Result<()> {
    let name = lease_name(&app.name);
    let key = Key::new(LEASES, "leases", "kube-system", &name);
    let labels = json!({"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": app.name});
    let mut metadata = json!({"labels": labels});
    if app.minor >= 36 {
        metadata["annotations"] =
            json!({"kubernetes.io/peer-advertise-address": app.address.to_string()});
    }
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": 3600, "renewTime": clock::now_micro()});
    let lease = json!({"metadata": metadata, "spec": spec});
    change(
        &app.store,
        &key,
        ("coordination.k8s.io/v1", "Lease"),
        |current| {
            let mut next = current.cloned().unwrap_or_else(|| lease.clone());
            next["spec"] = spec.clone();
            next["metadata"]["labels"] = lease["metadata"]["labels"].clone();
            Some(next)
        },
    )
    .await
}

/// Adds the names of this server's front-proxy headers to the ConfigMap that publishes the authentication configuration: each
/// kube-apiserver writes the union of what is there and of its own (`clusterauthenticationtrust/cluster_authentication_trust_controller.go`).
async fn publish_names(app: &App) -> Result<()> {
    let key = Key::new(
        "",
        "configmaps",
        "kube-system",
        "extension-apiserver-authentication",
    );
    let names = &app.header_names;
    change(&app.store, &key, ("v1", "ConfigMap"), |current| {
        let mut next = current?.clone();
        for (field, own) in [
            ("requestheader-username-headers", &names.users),
            ("requestheader-uid-headers", &names.uids),
            ("requestheader-group-headers", &names.groups),
            ("requestheader-extra-headers-prefix", &names.extra_prefixes),
        ] {
            let text = next["data"][field].as_str().unwrap_or("[]");
            let mut all: Vec<String> = serde_json::from_str(text).unwrap_or_default();
            for name in own {
                if !all.contains(name) {
                    all.push(name.clone());
                }
            }
            next["data"][field] = json!(serde_json::to_string(&all).unwrap_or_default());
        }
        (Some(&next) != current).then_some(next)
    })
    .await
}

/// Every ten seconds until cancelled: renews the lease, or writes it anew if somebody has deleted it, and enters the address in the
/// EndpointSlice again if somebody has taken it out (`pkg/controlplane/reconcilers`, `DefaultEndpointReconcilerInterval`).
pub(super) async fn renew(app: Arc<App>, holder: String) {
    loop {
        tokio::time::sleep(RENEW).await;
        if hold(&app, &holder).await.is_err() || join(&app).await.is_err() {
            return;
        }
    }
}

/// Leaves the EndpointSlice; since 1.35 the lease goes too.
pub(super) async fn unregister(app: &App) -> Result<()> {
    if app.minor >= 35 {
        let key = Key::new(LEASES, "leases", "kube-system", &lease_name(&app.name));
        ignore_missing(app.store.delete(&key, None).await)?;
    }
    let address = app.address.ip().to_string();
    let slices = slices(&app.store).await?;
    for slice in &slices {
        if slice["ports"][0]["port"] != app.address.port() {
            continue;
        }
        let key = slice_key(slice["metadata"]["name"].as_str().unwrap_or_default());
        change(
            &app.store,
            &key,
            ("discovery.k8s.io/v1", "EndpointSlice"),
            |current| {
                let mut next = current?.clone();
                let endpoints = next["endpoints"].as_array_mut()?;
                endpoints.retain(|endpoint| endpoint["addresses"][0] != *address);
                // The reconciler never publishes an empty list.
                (!endpoints.is_empty() || slices.len() > 1).then_some(next)
            },
        )
        .await?;
        let now = app.store.get(&key).await;
        if let Ok(now) = now
            && now["endpoints"].as_array().is_some_and(Vec::is_empty)
        {
            ignore_missing(app.store.delete(&key, Some(revision(&now))).await)?;
        }
    }
    Ok(())
}

/// A slice has one port for all its endpoints, so servers that differ in their port only get one each; the first is
/// named as in real clusters.
async fn join(app: &App) -> Result<()> {
    let (address, port) = (app.address.ip().to_string(), app.address.port());
    let endpoint = json!({"addresses": [address], "conditions": {"ready": true}});
    let known = slices(&app.store).await?;
    let own = known.iter().find(|slice| slice["ports"][0]["port"] == port);
    let name = match own {
        Some(slice) => slice["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        None if known.is_empty() => "kubernetes".into(),
        None => format!("kubernetes-{port}"),
    };
    let family = if app.address.is_ipv6() {
        "IPv6"
    } else {
        "IPv4"
    };
    change(
        &app.store,
        &slice_key(&name),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        |current| {
            let mut next = current.cloned().unwrap_or_else(|| {
                json!({
                    "metadata": {"labels": {"kubernetes.io/service-name": "kubernetes"}},
                    "addressType": family,
                    "endpoints": [],
                    "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                })
            });
            let endpoints = next["endpoints"].as_array_mut()?;
            if endpoints.iter().any(|one| one["addresses"][0] == *address) {
                return None;
            }
            endpoints.push(endpoint.clone());
            endpoints
                .sort_by_key(|one| one["addresses"][0].as_str().unwrap_or_default().to_owned());
            Some(next)
        },
    )
    .await
}

async fn slices(store: &Store) -> Result<Vec<Value>> {
    let (objects, _) = store
        .list(&Scope::new(DISCOVERY, "endpointslices", "default"))
        .await
        .map_err(failed)?;
    let ours =
        |slice: &Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes";
    Ok(objects
        .iter()
        .filter(|slice| ours(slice))
        .map(|slice| (**slice).clone())
        .collect())
}

fn slice_key(name: &str) -> Key {
    Key::new(DISCOVERY, "endpointslices", "default", name)
}

/// Creates the object, or does nothing if it is there.
async fn create(store: &Store, key: &Key, kind: (&str, &str), object: Value) -> Result<()> {
    change(store, key, kind, |current| {
        current.is_none().then(|| object.clone())
    })
    .await
}

/// Creates or replaces an object by a function of its current state; `None` leaves it.
pub(super) async fn change(
    store: &Store,
    key: &Key,
    kind: (&str, &str),
    next: impl Fn(Option<&Value>) -> Option<Value>,
) -> Result<()> {
    loop {
        let current = match store.get(key).await {
            Ok(object) => Some(object),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(failed(error)),
        };
        let Some(mut object) = next(current.as_deref()) else {
            return Ok(());
        };
        let done = match &current {
            Some(current) => store.update(key, object, revision(current)).await,
            None => {
                object["apiVersion"] = json!(kind.0);
                object["kind"] = json!(kind.1);
                object["metadata"]["name"] = json!(key.name);
                if !key.namespace.is_empty() {
                    object["metadata"]["namespace"] = json!(key.namespace);
                }
                object["metadata"]["uid"] = json!(Uuid::new_v4().to_string());
                object["metadata"]["creationTimestamp"] = json!(clock::now());
                store.create(key, object).await
            }
        };
        match done {
            Ok(_) => return Ok(()),
            Err(StoreError::Conflict | StoreError::Exists | StoreError::NotFound) => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn ignore_missing<T>(result: Result<T, StoreError>) -> Result<()> {
    match result {
        Ok(_) | Err(StoreError::NotFound | StoreError::Conflict) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn failed(error: StoreError) -> anyhow::Error {
    anyhow!("store: {error:?}")
}

/// RFC 4648 without padding, in lower case.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut out = String::new();
    let (mut buffer, mut bits) = (0u32, 0);
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(ALPHABET[(buffer >> bits) as usize & 31] as char);
        }
    }
    if bits > 0 {
        out.push(ALPHABET[(buffer << (5 - bits)) as usize & 31] as char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_names_as_kube_apiserver_computes_them() {
        assert_eq!(
            lease_name("test-server-a"),
            "apiserver-tcwjsvs6hjq4qbwzx5rvp5fsqe"
        );
        assert_eq!(lease_name("cp-0"), "apiserver-4b2ufvnxx37ysfh3nqp2d5jthy");
    }
}
