//! What the agent, its servers and the node report before an upgrade.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::client::{ClientError, Reply};
use super::super::command::{Ask, At};
use super::super::fleet::{self, Fleet, Member};
use super::super::talk::{get, parse};
use super::progress;
use super::serving;
use crate::admin::{CanaryView, SkewView, StatusView, encode};
use crate::config;

/// Everything that is judged.
pub(super) struct Facts {
    pub status: StatusView,
    pub skew: SkewView,
    /// By server, what it counted of deprecated APIs, or why it cannot be asked.
    pub deprecated: Vec<(String, Result<Vec<Deprecated>, String>)>,
    /// By server, in how many seconds the certificate that it shows ends, or why that is not known.
    pub serving: Vec<(String, Result<i64, String>)>,
    /// What became of this node's canary, or why the agent cannot be asked for one.
    pub canary: Result<CanaryView, String>,
    /// The agents of all nodes, if they were asked for, or why they are not known.
    pub agents: Option<Result<Agents, String>>,
    /// The local server's `--goaway-chance`; none where there is no manifest.
    pub goaway_chance: Option<f64>,
}

/// The report of each agent by name, or why it cannot be reached.
pub(super) type Agents = Vec<(String, Result<AgentReport, String>)>;

/// What one agent reports.
pub(super) struct AgentReport {
    pub status: StatusView,
    pub canary: Result<CanaryView, String>,
}

/// A request for a deprecated API since the server was started (`apiserver_requested_deprecated_apis`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Deprecated {
    /// `group/version resource`, as Kubernetes writes them.
    pub api: String,
    /// The minor version that does not serve it any more, if that is settled.
    pub removed: Option<String>,
}

/// # Errors
/// The agent cannot be asked. What a server does not answer is a fact.
pub(super) fn gather(ask: &Ask, fleet: &Fleet, manifest: &Path) -> Result<Facts, ClientError> {
    progress("asking the agent of this node");
    let status: StatusView = parse(&get(&ask.at, "/status")?.success()?)?;
    let skew = parse(&get(&ask.at, "/skew")?.success()?)?;
    let mut deprecated = Vec::new();
    for server in &status.servers {
        progress(&format!("asking {}", server.name));
        let target = format!("/mvp/servers/{}/metrics", encode(&server.name));
        let report = get(&ask.at, &target).and_then(Reply::success);
        let report = report.map(|body| requested(&String::from_utf8_lossy(&body)));
        deprecated.push((
            server.name.clone(),
            report.map_err(|error| error.to_string()),
        ));
    }
    progress("looking at the servers' certificates");
    let serving = serving::ends(&status.servers);
    progress("sending a canary through the agent of this node");
    let canary = canary(&ask.at).map_err(|error| error.to_string());
    let agents = fleet.is_asked().then(|| agents(fleet));
    progress("");
    Ok(Facts {
        status,
        skew,
        deprecated,
        serving,
        canary,
        agents,
        goaway_chance: config::goaway_chance(manifest).ok(),
    })
}

/// Has the agent send its canary requests.
pub(super) fn canary(at: &At) -> Result<CanaryView, ClientError> {
    parse(&get(at, "/mvp/canary")?.success()?)
}

fn agents(fleet: &Fleet) -> Result<Agents, String> {
    progress("finding the agents of all nodes");
    let members = fleet.members()?;
    let (done, of) = (AtomicUsize::new(0), members.len());
    progress(&format!("asking {of} agents"));
    let report = fleet::each(&members, |member| {
        let report = report(member);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        progress(&format!("{done} of {of} agents have answered"));
        (member.name.clone(), report)
    });
    Ok(report)
}

fn report(member: &Member) -> Result<AgentReport, String> {
    Ok(AgentReport {
        status: member.status()?,
        canary: member.canary(),
    })
}

/// The deprecated APIs of a scrape. `removed_release` is empty where none is planned.
fn requested(scrape: &str) -> Vec<Deprecated> {
    let lines = scrape
        .lines()
        .filter_map(|line| line.strip_prefix("apiserver_requested_deprecated_apis{"));
    let of = |line: &str| {
        let (labels, value) = line.split_once('}')?;
        if value.trim().parse::<f64>().ok()? == 0.0 {
            return None;
        }
        let label = |name: &str| {
            let start = format!("{name}=\"");
            let at = labels
                .split(',')
                .find_map(|label| label.trim().strip_prefix(&start))?;
            Some(at.trim_end_matches('"').to_owned())
        };
        let (group, version) = (label("group")?, label("version")?);
        let mut api = match group.as_str() {
            "" => version,
            group => format!("{group}/{version}"),
        };
        api += &format!(" {}", label("resource")?);
        if let Some(subresource) = label("subresource").filter(|name| !name.is_empty()) {
            api += &format!("/{subresource}");
        }
        let removed = label("removed_release").filter(|release| !release.is_empty());
        Some(Deprecated { api, removed })
    };
    let mut found: Vec<_> = lines.filter_map(of).collect();
    found.sort_by(|a, b| a.api.cmp(&b.api));
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deprecated_apis_of_a_scrape() {
        let scrape = "# TYPE apiserver_requested_deprecated_apis gauge
apiserver_requested_deprecated_apis{group=\"flowcontrol.apiserver.k8s.io\",removed_release=\"1.32\",resource=\"flowschemas\",subresource=\"\",version=\"v1beta3\"} 1
apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"endpoints\",subresource=\"\",version=\"v1\"} 1
apiserver_requested_deprecated_apis{group=\"batch\",removed_release=\"1.25\",resource=\"cronjobs\",subresource=\"status\",version=\"v1beta1\"} 0
apiserver_requested_deprecated_apis{broken
apiserver_request_total{group=\"\"} 5
";
        let found: Vec<_> = requested(scrape)
            .into_iter()
            .map(|one| (one.api, one.removed.unwrap_or_default()))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "flowcontrol.apiserver.k8s.io/v1beta3 flowschemas".to_owned(),
                    "1.32".to_owned()
                ),
                ("v1 endpoints".to_owned(), String::new()),
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_scrape_is_read(text in "(apiserver_requested_deprecated_apis\\{[ -~]{0,60}\\n){0,3}") {
            let _ = requested(&text);
        }
    }
}
