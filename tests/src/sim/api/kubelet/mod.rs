//! The kubelet behind a kube-apiserver: `exec`, `attach` and `portforward` of pods that have containers, over SPDY, over WebSocket, and
//! over SPDY within WebSocket. Sources: kubelet `pkg/cri/streaming`, apimachinery `pkg/util/httpstream/{spdy,wsstream}`.

mod archive;
mod channels;
mod container;
mod ports;
mod sessions;
mod spdy;
mod spdy_headers;

use hyper_util::rt::TokioIo;
use serde_json::Value;

use self::container::Process;
pub use self::container::{Program, provide};
use super::{
    handler::{Answer, Request},
    resource::Target,
    status::{self, Failure},
    upgrade::{self, Switched},
};

/// Protocols of SPDY and of WebSocket, for what runs and for ports.
const EXEC_SPDY: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
const EXEC_WEBSOCKET: &[&str] = EXEC_SPDY;
const PORTS_SPDY: &[&str] = &["portforward.k8s.io"];
const PORTS_WEBSOCKET: &[&str] = &[TUNNEL, "v4.channel.k8s.io"];
/// SPDY within WebSocket, as kubectl does it since 1.31.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Which streams of a process are wanted.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// Whether a pod has what could run: others' streams echo.
pub(super) fn runs(pod: &Value) -> bool {
    pod["spec"]["containers"]
        .as_array()
        .is_some_and(|containers| !containers.is_empty())
}

/// The container that the query names, or the only one.
pub(super) fn container<'a>(request: &Request, pod: &'a Value) -> Result<&'a str, Failure> {
    let containers = pod["spec"]["containers"].as_array();
    let names: Vec<&str> = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["name"].as_str())
        .collect();
    let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
    match (
        request.query.get("container").unwrap_or_default(),
        &names[..],
    ) {
        ("", [only]) => Ok(*only),
        ("", _) => Err(status::bad_request(format!(
            "a container name must be specified for pod {pod}, choose one of: [{}]",
            names.join(" ")
        ))),
        (wanted, names) => names
            .iter()
            .find(|name| **name == wanted)
            .copied()
            .ok_or_else(|| {
                status::bad_request(format!("container {wanted} is not valid for pod {pod}"))
            }),
    }
}

/// Switches protocols and serves the stream.
pub(super) fn answer(request: &mut Request, target: &Target, pod: &Value) -> Answer {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if target.path.subresource == "portforward" {
        return forward(request, pod);
    }
    let container = container(request, pod)?;
    let (response, switched) = upgrade::switch(request, EXEC_WEBSOCKET, EXEC_SPDY)?;
    let wanted = Wanted {
        stdin: request.query.flag("stdin"),
        stdout: request.query.flag("stdout"),
        stderr: request.query.flag("stderr"),
    };
    let mut process = match target.path.subresource.as_str() {
        "exec" => container::start(uid, container, request.query.all("command")),
        _ => container::main_process((0..3).map(super::streams::line).collect()),
    };
    if !wanted.stdin {
        process.stdin = None;
    }
    serve(request, switched, Kind::Process(wanted, process))?;
    Ok(response)
}

/// What is served over a connection that has switched.
enum Kind {
    Process(Wanted, Process),
    /// The ports that the pod's containers listen on, and those that the query asks for.
    Ports {
        open: Vec<u16>,
        asked: Vec<u16>,
    },
}

fn forward(request: &mut Request, pod: &Value) -> Answer {
    let asked = request.query.all("ports");
    let asked: Vec<u16> = asked.iter().filter_map(|port| port.parse().ok()).collect();
    let (response, switched) = upgrade::switch(request, PORTS_WEBSOCKET, PORTS_SPDY)?;
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports =
        containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let open = ports
        .filter_map(|port| u16::try_from(port["containerPort"].as_u64()?).ok())
        .collect();
    serve(request, switched, Kind::Ports { open, asked })?;
    Ok(response)
}

fn serve(request: &mut Request, switched: Switched, kind: Kind) -> Result<(), Failure> {
    let Some(upgrade) = request.upgrade.take() else {
        return Err(status::bad_request("Upgrade request required"));
    };
    let mut ending = request.app.ending();
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let stream = TokioIo::new(upgraded);
        // Either side may break off at any time.
        let served = async {
            match (switched, kind) {
                (Switched::Spdy, Kind::Process(wanted, process)) => {
                    sessions::process(stream, wanted, process).await.ok()
                }
                (Switched::Spdy, Kind::Ports { open, .. }) => {
                    sessions::ports(stream, &open).await.ok()
                }
                (Switched::WebSocket(_), Kind::Process(wanted, process)) => {
                    let socket = channels::open(stream).await;
                    channels::process(socket, wanted, process).await.ok()
                }
                (Switched::WebSocket(TUNNEL), Kind::Ports { open, .. }) => {
                    let stream = channels::tunnel(channels::open(stream).await);
                    sessions::ports(stream, &open).await.ok()
                }
                (Switched::WebSocket(_), Kind::Ports { open, asked }) => {
                    let socket = channels::open(stream).await;
                    channels::ports(socket, &open, &asked).await.ok()
                }
            }
        };
        tokio::select! {
            _ = served => {}
            () = ending.wait() => {}
        }
    });
    Ok(())
}
