//! What is pinned in the kernel, with no agent running: `mvp status --pinned`, `mvp routes --pinned`, `mvp uninstall`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::admin::RouteView;
use crate::kernel::{Error, PinnedGuard, PinnedRoute, PinnedTable, PinnedView, read_pinned};
use crate::text::table::age;

/// `kernel.pinPath` where nobody says otherwise.
pub(super) const PIN_PATH: &str = "/sys/fs/bpf/mvp";

#[derive(clap::Args, Debug)]
pub(super) struct Pins {
    /// The agent's kernel.pinPath.
    #[arg(long, default_value = PIN_PATH, value_name = "FOLDER")]
    pub pin_path: PathBuf,
}

/// Guard, heartbeat, counters and what the table holds.
pub(super) fn status(pins: &Pins) -> Result<PinnedView, Error> {
    read_pinned(&pins.pin_path)
}

pub(super) fn status_text(view: &PinnedView) -> String {
    let guard = &view.guard;
    let ports: Vec<_> = view.ports.iter().map(u16::to_string).collect();
    let table = view.table.as_ref().map_or_else(
        || "none".to_owned(),
        |table| {
            format!(
                "{} routes of {} servers{}",
                table.routes.len(),
                table.servers.len(),
                match table.omitted {
                    0 => String::new(),
                    omitted => format!(", {omitted} found no room"),
                }
            )
        },
    );
    let mut out = String::new();
    for (name, value) in [
        ("program", attached(view).to_owned()),
        ("guard", guard_line(guard)),
        ("agent", agent_line(guard)),
        ("ports", ports.join(", ")),
        ("table", table),
    ] {
        let _ = writeln!(out, "{name:10}{value}");
    }
    let _ = writeln!(out);
    for (counter, value) in view.counters.iter().filter(|(_, value)| *value > 0) {
        let _ = writeln!(out, "{:18}{value}", counter.name());
    }
    out
}

pub(super) fn status_json(view: &PinnedView) -> Value {
    let guard = &view.guard;
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let counters: BTreeMap<_, _> = view
        .counters
        .iter()
        .map(|(counter, value)| (counter.name(), value))
        .collect();
    let servers = view.table.iter().flat_map(|table| &table.servers);
    let servers: Vec<_> = servers
        .map(|server| {
            json!({
                "name": server.name, "host": server.host, "port": server.port, "local": server.local,
                "known": server.known, "confirmed": server.confirmed,
            })
        })
        .collect();
    json!({
        "attached": view.attached,
        "armed": guard.armed,
        "reason": guard.reason.as_str(),
        "armedForMs": guard.armed_for.map(millis),
        "heartbeatAgeMs": guard.heartbeat_age.map(millis),
        "alive": guard.alive,
        "steered": guard.steered,
        "ports": view.ports,
        "routes": view.table.as_ref().map_or(0, |table| table.routes.len()),
        "omitted": view.table.as_ref().map_or(0, |table| table.omitted),
        "servers": servers,
        "counters": counters,
    })
}

/// As `mvp routes` shows them.
pub(super) fn routes(pins: &Pins) -> Result<Vec<RouteView>, Error> {
    let table = read_pinned(&pins.pin_path)?.table;
    Ok(table.map_or_else(Vec::new, |table| {
        let routes = table.routes.iter();
        routes.map(|route| route_view(&table, route)).collect()
    }))
}

fn route_view(table: &PinnedTable, route: &PinnedRoute) -> RouteView {
    let verbs = route.servers.iter().filter_map(|index| {
        let verbs = route.verbs(index).iter();
        let verbs = verbs.map(|verb| verb.as_str().to_owned()).collect();
        Some((table.servers.get(index)?.name.clone(), verbs))
    });
    let verbs: BTreeMap<_, _> = verbs.collect();
    let sources = verbs.keys().map(|name| (name.clone(), "pinned".to_owned()));
    RouteView {
        group: route.group.clone(),
        version: route.version.clone(),
        resource: route.resource.clone(),
        subresource: route.subresource.clone(),
        sources: sources.collect(),
        verbs,
    }
}

fn attached(view: &PinnedView) -> &'static str {
    if view.attached {
        "attached"
    } else {
        "not attached: connections go to kube-apiserver"
    }
}

fn guard_line(guard: &PinnedGuard) -> String {
    let state = if guard.armed { "armed" } else { "idle" };
    let since = guard
        .armed_for
        .map_or_else(String::new, |time| format!(", for {}", age_of(time)));
    format!("{state}: {}{since}", guard.reason.as_str())
}

fn agent_line(guard: &PinnedGuard) -> String {
    match guard.heartbeat_age {
        None => "no heartbeat ever: connections go to kube-apiserver".to_owned(),
        Some(time) if guard.alive => format!("alive, last heartbeat {} ago", age_of(time)),
        Some(time) => format!(
            "silent for {}: connections go to kube-apiserver",
            age_of(time)
        ),
    }
}

fn age_of(time: std::time::Duration) -> String {
    age(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
