//! What the agent, its servers and the node tell before an upgrade.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;

use super::super::client::{ClientError, Reply};
use super::super::command::Ask;
use super::super::talk::{get, parse};
use crate::admin::{SkewView, StatusView, encode};
use crate::config;

/// Everything that is judged.
pub struct Facts {
    pub status: StatusView,
    pub skew: SkewView,
    /// By server, what it counted of deprecated APIs, or why it cannot be asked.
    pub deprecated: Vec<(String, Result<Vec<Deprecated>, String>)>,
    /// The local server's `--goaway-chance`; none where there is no manifest.
    pub goaway_chance: Option<f64>,
}

/// A request for a deprecated API since the server was started (`apiserver_requested_deprecated_apis`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deprecated {
    /// `group/version resource`, as Kubernetes writes them.
    pub api: String,
    /// The minor version that does not serve it any more, if that is settled.
    pub removed: Option<String>,
}

/// # Errors
/// The agent cannot be asked. What a server does not answer is a fact.
pub fn gather(ask: &Ask, manifest: &Path) -> Result<Facts, ClientError> {
    let status: StatusView = parse(&get(&ask.at, "/status")?.success()?)?;
    let skew = parse(&get(&ask.at, "/skew")?.success()?)?;
    let mut deprecated = Vec::new();
    for server in &status.servers {
        progress(&format!("asking {}", server.name));
        let target = format!("/mvp/servers/{}/metrics", encode(&server.name));
        let told = get(&ask.at, &target).and_then(Reply::success);
        let told = told.map(|body| requested(&String::from_utf8_lossy(&body)));
        deprecated.push((server.name.clone(), told.map_err(|error| error.to_string())));
    }
    progress("");
    Ok(Facts {
        status,
        skew,
        deprecated,
        goaway_chance: config::goaway_chance(manifest).ok(),
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

/// One line on standard error while people wait, which the next one replaces.
fn progress(words: &str) {
    let mut error = std::io::stderr();
    if error.is_terminal() {
        // Nothing depends on it.
        let _ = write!(error, "\r\x1b[K{words}");
        let _ = error.flush();
    }
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
