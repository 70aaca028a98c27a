//! What end-to-end tests say again and again: planes, objects, definitions, events of a watch.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mvp::config::Config;
use serde_json::{Value, json};

use crate::agent::{TestAgent, eventually};
use crate::client::{Client, empty};
use crate::sim::pki::ClientAuth;
use crate::sim::store::Key;
use crate::sim::{ControlPlane, Server, ServerSpec};

/// In 1.36 and in no version before.
pub const ONLY_36: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies";
/// A type that every server serves.
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Where CustomResourceDefinitions are created.
pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Nobody serves it; the group is unknown too.
pub const NOWHERE: &str = "/apis/nowhere.example.com/v1/widgets";

/// For conditions that hold as soon as the machine finds time.
pub const SOON: Duration = Duration::from_secs(30);
/// Longer than any test.
pub const NEVER: Duration = Duration::from_secs(3600);
/// A server that is silent is found within this (DESIGN's promise).
pub const SILENT: Duration = Duration::from_secs(15);

/// Servers `cp-a`, `cp-b`, … of these minors.
pub async fn plane(minors: &[u8]) -> ControlPlane {
    let specs = (b'a'..).zip(minors);
    let specs = specs.map(|(letter, minor)| spec(letter, *minor));
    ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap()
}

/// The server `cp-LETTER`.
pub fn spec(letter: u8, minor: u8) -> ServerSpec {
    ServerSpec::new(&format!("cp-{}", char::from(letter)), minor)
}

/// The administrator's certificate.
pub fn admin(plane: &ControlPlane) -> ClientAuth {
    ClientAuth::Certificate(plane.pki().admin().unwrap())
}

/// For an agent that waits for a refresh as long as a busy machine needs: with the default of 250 ms it would rightly answer
/// 503 where a test wants to see what a complete refresh brings.
pub fn patient(config: &mut Config) {
    config.discovery.refresh = SOON;
}

/// The same, and nothing but such a refresh makes changes known.
pub fn unpolled(config: &mut Config) {
    patient(config);
    config.discovery.interval = NEVER;
    config.discovery.stale_after = NEVER;
}

/// An HTTP/2 connection of the administrator to an agent.
pub async fn client(plane: &ControlPlane, agent: &TestAgent) -> Client {
    agent.http2(plane, admin(plane)).await.unwrap()
}

/// An HTTP/2 connection of the administrator to a server itself.
pub async fn direct(plane: &ControlPlane, server: &Server) -> Client {
    let tls = plane.pki().client_config(admin(plane), &[]).unwrap();
    Client::http2(server.addr(), &tls.into()).await.unwrap()
}

/// An object of [`CONFIG_MAPS`].
pub fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

/// An object of [`ONLY_36`].
pub fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"reinvocationPolicy": "Never", "failurePolicy": "Fail", "mutations": []},
    })
}

/// Where the store keeps it.
pub fn policy_key(name: &str) -> Key {
    Key::new(
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        "",
        name,
    )
}

/// A namespaced definition `PLURAL.GROUP` with one version v1; `subresources` as it stands there.
pub fn definition(group: &str, plural: &str, kind: &str, subresources: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": subresources,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

/// Requests to exactly this target that the server received.
pub fn received(server: &Server, target: &str) -> usize {
    let requests = server.requests();
    requests.iter().filter(|r| r.target == target).count()
}

/// Waits until an agent holds a server to be usable.
pub async fn available(agent: &TestAgent, server: &str) {
    let sample = format!("mvp_server_available{{server=\"{server}\"}}");
    eventually(&sample, SOON, || async {
        Ok(agent.metric(&sample).await? == 1.0)
    })
    .await
    .unwrap();
}

/// A watch's events, read one by one.
pub struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    /// Opens a watch; `target` has its query already.
    pub async fn open(client: &Client, target: &str) -> anyhow::Result<Self> {
        let request = client.request(Method::GET, target, &[], empty())?;
        Self::of(client.send(request).await?)
    }

    /// The events of a watch whose answer has begun.
    ///
    /// # Errors
    /// The answer is not 200.
    pub fn of(response: Response<Incoming>) -> anyhow::Result<Self> {
        if response.status() != 200 {
            bail!("watch: {}", response.status());
        }
        Ok(Self {
            body: response.into_body(),
            buffer: BytesMut::new(),
        })
    }

    /// The next event; `None` after a clean end.
    ///
    /// # Errors
    /// The stream broke, or it ended in the middle of an event.
    pub async fn next(&mut self) -> anyhow::Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line).context("event")?));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => bail!("ended in the middle of an event"),
            }
        }
    }
}

/// `metadata.resourceVersion` of an object, an event's object or a list.
pub fn revision(value: &Value) -> String {
    let metadata = match value.get("object") {
        Some(object) => &object["metadata"],
        None => &value["metadata"],
    };
    metadata["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
