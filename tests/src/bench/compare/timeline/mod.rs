//! Three servers, upgraded one after the other while load runs: what each second of it is like, without an agent, with agents, behind
//! HAProxy, and with a simulation of the native proxy. Nodes, servers and agents are those of `bench upgrade`.

mod guard;
mod native;
mod seconds;
mod traffic;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::json;

pub(super) use guard::State;
pub(super) use seconds::Second;
use seconds::percentile;

use super::scenarios::{About, Better, Values, of};
use crate::netns::privileged;
use crate::nodes::{Agent, Binaries, Cluster, run_on_nodes};
use crate::upgrade::{Balancer, News, Settings, lingering, until_known, upgrade_node};

pub(super) const ABOUT: About = About {
    name: "timeline",
    title: "A rolling upgrade",
    how: "Three nodes with a simulated kube-apiserver each, upgraded from 1.35 to 1.36 one after the other under an open loop of GETs on \
          connections of before. From the first ready answer of the new version on every other request is about a type that only that version \
          has. A false 404 says that this type is not there.",
    metrics: &[
        of(
            "false_404",
            "answers that deny a type which is there",
            "",
            Better::Lower,
        )
        .headline(),
        of("errors", "requests without their answer", "", Better::Lower).headline(),
        of("p50_ms", "median latency over all", "ms", Better::Lower),
        of("p99_ms", "99 % within, over all", "ms", Better::Lower).headline(),
        of(
            "worst_p99_ms",
            "99 % within, in the worst second",
            "ms",
            Better::Lower,
        ),
        of("requests", "requests", "", Better::Neither),
    ],
};

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Way {
    NoAgent,
    HaproxyRoundRobin,
    MvpAuto,
    MvpAlways,
    NativeSimulated,
}

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Requests each second.
    pub rate: f64,
    /// Load before the first server is upgraded.
    pub before: Duration,
    /// From the end of the first old server to the first ready answer of the new one. Agents retire connections of before in that time,
    /// which takes up to 3 s.
    pub starts_in: Duration,
    /// The same of the others, at which nothing of before is left.
    pub others_start_in: Duration,
    /// Between two servers.
    pub between: Duration,
    /// Load after the last one.
    pub after: Duration,
}

/// One upgrade.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Timeline {
    pub way: Way,
    pub seconds: Vec<Second>,
    pub marks: Vec<Mark>,
    /// The guard of each node's agent, as it changes.
    pub guards: Vec<State>,
    /// The first few failures, in words.
    pub examples: Vec<String>,
    /// Nodes, by which marks and guards name them.
    pub nodes: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Mark {
    /// Seconds since the load began.
    pub at: f64,
    pub node: String,
    pub what: Event,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// The old server is told to stop.
    Stops,
    /// The new server is ready.
    Ready,
}

impl Way {
    pub(super) const ALL: [Self; 5] = [
        Self::NoAgent,
        Self::HaproxyRoundRobin,
        Self::MvpAuto,
        Self::MvpAlways,
        Self::NativeSimulated,
    ];

    /// In rows.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoAgent => "no_agent",
            Self::HaproxyRoundRobin => "haproxy_round_robin",
            Self::MvpAuto => "mvp_auto",
            Self::MvpAlways => "mvp_always",
            Self::NativeSimulated => "native_simulated",
        }
    }

    /// For people.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::NoAgent => "no agent",
            Self::HaproxyRoundRobin => "HAProxy, round robin with health checks",
            Self::MvpAuto => "mvp, inspect: auto",
            Self::MvpAlways => "mvp, inspect: always",
            Self::NativeSimulated => "native proxy (simulated)",
        }
    }

    /// Upgrades three servers on fresh nodes.
    ///
    /// # Errors
    /// Without root or the BPF object, and where the upgrade cannot be made. What clients saw is reported, and fails nothing.
    pub(super) fn run(self, binaries: &Binaries, pace: Pace) -> Result<Timeline> {
        ensure!(
            privileged("the timeline", true),
            "root and the BPF object are needed"
        );
        ensure!(
            binaries.server.is_file(),
            "there is no simulated server at {}: `cargo build -p mvp-tests --bin mvp-sim` builds it",
            binaries.server.display()
        );
        let work = move |cluster: Cluster| self.on(&cluster, pace);
        run_on_nodes(binaries.clone(), &[35, 35, 35], lingering, work)
            .with_context(|| format!("timeline: {}", self.title()))
    }

    fn on(self, cluster: &Cluster, pace: Pace) -> Result<Timeline> {
        crate::child::raise_descriptor_limit()?;
        let agents = Arc::new(self.agents(cluster));
        let mut settings = Settings::direct(cluster)?;
        let _balancer = match self {
            Self::HaproxyRoundRobin => {
                let balancer = Balancer::start(cluster)?;
                settings = balancer.settings(cluster)?;
                Some(balancer)
            }
            _ => None,
        };
        let _native = match self {
            Self::NativeSimulated => {
                let fronts = native::Fronts::start(cluster)?;
                settings.fronts.clone_from(&fronts.addresses);
                Some(fronts)
            }
            _ => None,
        };
        let news = Arc::new(News::default());
        let traffic = traffic::Traffic::start(cluster, &settings.fronts, pace.rate, &news)?;
        let start = traffic.start;
        let guards = guard::Sampler::start(&agents, cluster, start);
        let marks = upgrade(cluster, &agents, &mut settings, &news, pace, start);
        let (samples, examples) = traffic.finish(cluster)?;
        let guards = guards.finish();
        Ok(Timeline {
            way: self,
            seconds: seconds::by_second(&samples),
            marks: marks?,
            guards,
            examples,
            nodes: cluster.nodes.iter().map(|node| node.name.clone()).collect(),
        })
    }

    fn agents(self, cluster: &Cluster) -> Vec<Agent> {
        let inspect = match self {
            Self::MvpAuto => "auto",
            Self::MvpAlways => "always",
            Self::NoAgent | Self::HaproxyRoundRobin | Self::NativeSimulated => return Vec::new(),
        };
        let start = |node| cluster.agent_with(node, |config| config["inspect"] = json!(inspect));
        let agents: Vec<Agent> = cluster.nodes.iter().map(start).collect();
        if self == Self::MvpAuto {
            // Clients are to connect to the servers themselves, as on any other day.
            agents.iter().for_each(|agent| agent.until("idle"));
        }
        agents
    }
}

fn upgrade(
    cluster: &Cluster,
    agents: &[Agent],
    settings: &mut Settings,
    news: &News,
    pace: Pace,
    start: Instant,
) -> Result<Vec<Mark>> {
    let mut marks = Vec::new();
    let mark = |node: &str, what| Mark {
        at: start.elapsed().as_secs_f64(),
        node: node.into(),
        what,
    };
    thread::sleep(pace.before);
    settings.starts_in = pace.starts_in;
    for (number, node) in cluster.nodes.iter().enumerate() {
        if number > 0 {
            settings.starts_in = pace.others_start_in;
            thread::sleep(pace.between);
        }
        marks.push(mark(&node.name, Event::Stops));
        upgrade_node(cluster, node, settings)?;
        marks.push(mark(&node.name, Event::Ready));
        news.spread();
        until_known(agents, settings.minor, number)?;
    }
    thread::sleep(pace.after);
    Ok(marks)
}

impl Timeline {
    /// Its values, by the metrics of [`ABOUT`].
    pub(super) fn values(&self) -> Values {
        let sum = |count: fn(&Second) -> u64| self.seconds.iter().map(count).sum::<u64>() as f64;
        let mut all: Vec<f64> = self
            .seconds
            .iter()
            .flat_map(|second| second.latencies.iter().copied())
            .collect();
        all.sort_by(f64::total_cmp);
        let worst = self.seconds.iter().map(|second| second.p99_ms);
        vec![
            ("false_404", sum(|second| second.false_404)),
            ("errors", sum(|second| second.errors)),
            ("p50_ms", percentile(&all, 0.5)),
            ("p99_ms", percentile(&all, 0.99)),
            ("worst_p99_ms", worst.fold(0.0, f64::max)),
            ("requests", sum(|second| second.requests)),
        ]
    }
}
