//! One agent for each server, as child processes, and what they measured.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::bench::agent::Agent;
use crate::bench::process::Process;
use crate::ports::free_port;
use crate::sim::pki::Pki;

pub(crate) struct Agents {
    agents: Vec<(Agent, Process)>,
    _dir: TempDir,
}

/// What all agents together counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Requests that another server answered.
    pub forwarded: u64,
    /// Quantiles of the time an agent added to a request, microseconds.
    pub added_p50_us: f64,
    pub added_p99_us: f64,
    /// What of the kernel part is loaded, in the agent's words.
    pub kernel: String,
}

impl Agents {
    /// Starts an agent for each server, on 127.0.0.12 and so on, and waits until all say that they are ready.
    pub(crate) async fn start(
        binary: &Path,
        servers: &[(String, SocketAddr)],
        pki: &Pki,
    ) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut agents = Vec::new();
        for (index, (name, local)) in servers.iter().enumerate() {
            let ip = format!("127.0.0.{}", index + 12);
            let agent = Agent {
                node: name.clone(),
                listen: free_port(&ip)?,
                admin: free_port(&ip)?,
                local: *local,
                peers: servers
                    .iter()
                    .filter(|(other, _)| other != name)
                    .cloned()
                    .collect(),
                threads: None,
            };
            let process = agent.start(binary, pki.dir(), dir.path())?;
            agents.push((agent, process));
        }
        let mut agents = Self { agents, _dir: dir };
        agents.wait_ready().await?;
        Ok(agents)
    }

    /// Names and addresses for clients.
    pub(crate) fn fronts(&self) -> Vec<(String, SocketAddr)> {
        self.agents
            .iter()
            .map(|(agent, _)| (agent.node.clone(), agent.listen))
            .collect()
    }

    /// Reads every agent's metrics and status.
    ///
    /// # Errors
    /// An agent has ended, or does not answer.
    pub(crate) async fn measure(&mut self) -> Result<Measured> {
        let mut scrapes = Vec::new();
        let mut kernel = String::new();
        for (agent, process) in &mut self.agents {
            process.check()?;
            let metrics = get(agent.admin, "/metrics").await?.1;
            scrapes.push((agent.node.clone(), metrics));
            let status: serde_json::Value =
                serde_json::from_str(&get(agent.admin, "/status").await?.1)
                    .with_context(|| format!("/status of the agent of {}", agent.node))?;
            kernel = status["kernel"].as_str().unwrap_or("unknown").to_owned();
        }
        let buckets = buckets(scrapes.iter().map(|(_, text)| text.as_str()));
        Ok(Measured {
            forwarded: scrapes
                .iter()
                .map(|(node, text)| forwarded(text, node))
                .sum(),
            added_p50_us: quantile(&buckets, 0.5) * 1e6,
            added_p99_us: quantile(&buckets, 0.99) * 1e6,
            kernel,
        })
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        for (agent, process) in &mut self.agents {
            loop {
                let answer = get(agent.admin, "/readyz").await;
                if matches!(answer, Ok((StatusCode::OK, _))) {
                    break;
                }
                process.check()?;
                if Instant::now() > deadline {
                    bail!(
                        "the agent of {} is not ready: {answer:?}\n{}",
                        agent.node,
                        process.output()
                    );
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }
}

async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, String)> {
    let exchange = async {
        let io = TokioIo::new(TcpStream::connect(address).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(connection);
        let request = Request::get(path)
            .header("host", address.to_string())
            .header("accept", "application/json");
        let response = sender
            .send_request(request.body(Empty::<Bytes>::new())?)
            .await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, exchange)
        .await
        .with_context(|| format!("no answer from http://{address}{path} within {limit:?}"))?
        .with_context(|| format!("http://{address}{path}"))
}

/// Requests that a server other than `node`'s own answered. The label is empty for the agent's own answers.
fn forwarded(metrics: &str, node: &str) -> u64 {
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("mvp_requests_total{"));
    lines
        .filter_map(|line| {
            let (labels, value) = line.rsplit_once("} ")?;
            let server = label(labels, "server")?;
            (!server.is_empty() && server != node).then(|| value.trim().parse::<f64>().ok())?
        })
        .sum::<f64>() as u64
}

/// Cumulative counts by upper bound (seconds), summed over agents, in ascending order.
fn buckets<'a>(scrapes: impl Iterator<Item = &'a str>) -> Vec<(f64, f64)> {
    let mut sum: Vec<(f64, f64)> = Vec::new();
    let lines = scrapes
        .flat_map(str::lines)
        .filter_map(|line| line.strip_prefix("mvp_added_seconds_bucket{"));
    for line in lines {
        let Some((labels, value)) = line.rsplit_once("} ") else {
            continue;
        };
        let bound = match label(labels, "le") {
            Some("+Inf") => f64::INFINITY,
            Some(text) => text.parse().unwrap_or(f64::INFINITY),
            None => continue,
        };
        let count = value.trim().parse().unwrap_or(0.0);
        match sum.iter_mut().find(|(known, _)| *known == bound) {
            Some((_, total)) => *total += count,
            None => sum.push((bound, count)),
        }
    }
    sum.sort_by(|a, b| a.0.total_cmp(&b.0));
    sum
}

/// As PromQL's `histogram_quantile`: linear within a bucket; the last finite bound if it lies beyond; 0 without values.
fn quantile(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let rank = quantile * total;
    let (mut below, mut lower) = (0.0, 0.0);
    for &(bound, count) in buckets {
        if count >= rank && count > below {
            if bound.is_infinite() {
                return lower;
            }
            return lower + (bound - lower) * (rank - below) / (count - below);
        }
        (below, lower) = (count, bound);
    }
    0.0
}

/// The value of one label. Names of servers and bounds hold neither quotes nor commas.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# TYPE mvp_requests counter
mvp_requests_total{decision="local_serves",server="cp-a",code="200"} 90
mvp_requests_total{decision="peer_serves",server="cp-b",code="200"} 7
mvp_requests_total{decision="local_down",server="cp-c",code="201"} 3
mvp_requests_total{decision="capable_server_unreachable",server="",code="503"} 2
mvp_added_seconds_bucket{le="0.0001"} 50
mvp_added_seconds_bucket{le="0.0002"} 90
mvp_added_seconds_bucket{le="+Inf"} 100
"#;

    #[test]
    fn forwarded_is_what_others_answered() {
        assert_eq!(forwarded(METRICS, "cp-a"), 10);
        assert_eq!(forwarded(METRICS, "cp-b"), 93);
    }

    #[test]
    fn quantiles_come_from_the_sum_of_all_agents() {
        let buckets = buckets([METRICS, METRICS].into_iter());
        assert_eq!(
            buckets,
            [(0.0001, 100.0), (0.0002, 180.0), (f64::INFINITY, 200.0)]
        );
        assert!((quantile(&buckets, 0.5) - 0.0001).abs() < 1e-9);
        assert!((quantile(&buckets, 0.7) - 0.00015).abs() < 1e-9);
        assert_eq!(quantile(&buckets, 0.99), 0.0002);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
