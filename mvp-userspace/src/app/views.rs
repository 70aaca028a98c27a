//! What the admin port shows, gathered from where it lives.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::{Method, Uri};

use super::canary::{Canary, canary, probe_view};
use super::manifest::ManifestLine;
use super::pass_through::PassThroughLine;
use super::routes::{routes, source_of};
use super::skew::skew;
use crate::admin::{
    CertificateView, ClassProofView, ConnectionView, ExplainView, ProofView, RelayView, ServerView,
    StatusView, ThreadView, Views,
};
use crate::config::Config;
use crate::discovery::{DiscoveryHandle, ServerStatus};
use crate::history::{History, Report, unix_millis};
use crate::identity::proof::{BelievedNames, ClassProof, OwnUser};
use crate::membership::{MembershipLine, ReadBy};
use crate::metrics::Metrics;
use crate::net::LoopHeartbeat;
use crate::proxy::one_view::replaced;
use crate::proxy::{Pool, Shared};
use crate::request::{NewerOptions, RequestInfo};
use crate::route::{Context, Knowledge, Reason, RouteTable, ServerSet, explain, newer, plan};
use crate::splice::ShortcutPart;
use crate::steering::{Cluster, GuardHandle, Watch};
use crate::steering::{Retirable, RetireTally};
use crate::tls::{IdentityClass, ReloadStats};

/// A data thread whose loop has not turned for so long makes no progress: it turns once per second.
const STALLED: Duration = Duration::from_secs(10);

/// Everything the views read.
pub(super) struct Sources {
    pub config: Config,
    /// [`Config::digest`], which does not change while the agent runs.
    pub config_digest: String,
    pub listen: String,
    pub kernel: String,
    pub retirable: Retirable,
    pub retired: RetireTally,
    pub shortcut: Arc<ShortcutPart>,
    pub pass_through: Arc<PassThroughLine>,
    pub guard: GuardHandle,
    /// `None`: agents cannot exchange signs.
    pub cluster: Option<Cluster>,
    pub watch: Watch,
    pub read_by: ReadBy,
    pub origin: Instant,
    pub shared: Arc<Shared>,
    pub discovery: DiscoveryHandle,
    pub membership: MembershipLine,
    pub manifest: ManifestLine,
    pub threads: Vec<ThreadSource>,
    pub reload: Arc<ReloadStats>,
    /// Connections of the control runtime, for the probes of other servers.
    pub pool: Arc<Pool>,
    /// Whom those probes ask as: Kubernetes' default roles let this group read exactly these.
    pub own: OwnUser,
    pub history: History,
    pub canary: Canary,
}

/// Why there is no [`Sources::cluster`].
const ALONE: &str = "signs are not shared with other agents: peers.kubernetes.enabled is false";

/// Changes the log's filter; the logging itself is the command line's.
pub(super) type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// A data thread's connections and heartbeat.
pub(super) struct ThreadSource {
    pub name: String,
    pub load: Arc<AtomicUsize>,
    pub heartbeat: LoopHeartbeat,
}

pub(super) fn views(sources: Arc<Sources>, set_log_level: SetLogLevel) -> Views {
    Views {
        status: {
            let sources = Arc::clone(&sources);
            Box::new(move || status(&sources))
        },
        servers: {
            let sources = Arc::clone(&sources);
            Box::new(move || servers(&sources))
        },
        routes: {
            let sources = Arc::clone(&sources);
            Box::new(move || routes(&sources.shared.table.load(), &sources.discovery.status()))
        },
        skew: {
            let sources = Arc::clone(&sources);
            Box::new(move || skew(&sources.discovery.table(), &sources.discovery.status()))
        },
        history: {
            let history = sources.history.clone();
            Box::new(move |since| {
                let now = unix_millis();
                history.view(now.saturating_sub(millis(since)), now)
            })
        },
        report: {
            let sources = Arc::clone(&sources);
            Box::new(move |since| report(&sources, since))
        },
        explain: {
            let sources = Arc::clone(&sources);
            Box::new(move |method, target| explain_view(&sources, method, target))
        },
        explain_connection: {
            let sources = Arc::clone(&sources);
            Box::new(move |address, name| explain_connection(&sources, address, name))
        },
        metrics: {
            let sources = Arc::clone(&sources);
            Box::new(move || (Metrics::CONTENT_TYPE, sources.shared.metrics.render()))
        },
        stalled: {
            let sources = Arc::clone(&sources);
            Box::new(move || stalled(&sources))
        },
        probe: {
            let sources = Arc::clone(&sources);
            Box::new(move |name, path| {
                let sources = Arc::clone(&sources);
                Box::pin(async move { probe_view(&sources, &name, &path).await })
            })
        },
        canary: {
            let sources = Arc::clone(&sources);
            Box::new(move || Box::pin(canary(Arc::clone(&sources))))
        },
        set_log_level,
        retire: {
            let retired = sources.retired.clone();
            Box::new(move || retired.hurry(Instant::now()).then(|| retired.view()))
        },
        cluster: {
            let cluster = sources.cluster.clone();
            Box::new(move |order| {
                let cluster = cluster.clone();
                Box::pin(async move {
                    match cluster {
                        Some(cluster) => cluster.operator(order).await,
                        None => Err(ALONE.to_owned()),
                    }
                })
            })
        },
        guard: {
            let guard = sources.guard.clone();
            Box::new(move |word| {
                guard.operator(word);
                guard.view()
            })
        },
    }
}

fn report(sources: &Sources, since: Duration) -> Report {
    let now = unix_millis();
    let all = sources.history.view(0, now);
    let view = sources.history.view(now.saturating_sub(millis(since)), now);
    Report::of(&view, &all.events, &sources.config.node)
}

/// Everything that the agent knows of itself at this moment.
pub(super) fn status(sources: &Sources) -> StatusView {
    let (config, shared) = (&sources.config, &sources.shared);
    StatusView {
        node: config.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_ms: millis(sources.origin.elapsed()),
        stance: (&sources.watch.stance()).into(),
        guard: sources.guard.view(),
        cluster: match &sources.cluster {
            Some(cluster) => cluster.line(),
            None => ALONE.to_owned(),
        },
        kernel: sources.kernel.clone(),
        retiring: sources.retirable.line(),
        retirement: sources.retired.view(),
        shortcut: sources.shortcut.line(),
        pass_through: sources.pass_through.get(),
        events: sources.discovery.events().to_string(),
        members: members(sources),
        membership: sources.membership.get(),
        manifest: sources.manifest.get(),
        restart_needed: sources.manifest.restart_needed(),
        traffic: sources.history.traffic(),
        listen: sources.listen.clone(),
        interoperability_proxy: config.interoperability_proxy,
        config_digest: sources.config_digest.clone(),
        connections: shared.load.connections.load(Ordering::Relaxed) as u64,
        streams: shared.load.requests.load(Ordering::Relaxed) as u64,
        upgrades: shared.metrics.upgrades_open(),
        relay: relay(shared),
        threads: sources
            .threads
            .iter()
            .map(|thread| ThreadView {
                name: thread.name.clone(),
                connections: thread.load.load(Ordering::Relaxed) as u64,
                silent_ms: millis(thread.heartbeat.age()),
            })
            .collect(),
        certificates: certificates(&sources.reload),
        servers: servers(sources),
        ..StatusView::default()
    }
}

/// Where the list of servers is from.
fn members(sources: &Sources) -> String {
    let peers = &sources.config.peers;
    if !peers.kubernetes.enabled {
        return "of the configuration".to_owned();
    }
    match sources.read_by.get().as_str() {
        "" => "from Kubernetes, not read yet".to_owned(),
        by => format!("from Kubernetes, read {by}"),
    }
}

fn servers(sources: &Sources) -> Vec<ServerView> {
    let table = sources.discovery.table();
    sources
        .discovery
        .status()
        .into_iter()
        .map(|status| server_view(status, &table))
        .collect()
}

fn explain_view(sources: &Sources, method: &str, target: &str) -> Result<ExplainView, String> {
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| format!("{method:?} is no method"))?;
    let uri: Uri = target
        .parse()
        .map_err(|error| format!("{target:?} is no path: {error}"))?;
    let info =
        RequestInfo::parse(&method, uri.path(), uri.query()).map_err(|error| error.to_string())?;
    let table = sources.shared.table.load();
    let context = Context {
        hop_marked: false,
        interoperability: sources.shared.interoperability,
        class: IdentityClass::FrontProxy,
    };
    let mut plan = plan(&info, &table, context);
    let replaced = match context.interoperability {
        true => replaced(&info, uri.query(), &sources.shared),
        false => None,
    };
    if let Some((reason, servers)) = &replaced
        && !servers.is_empty()
    {
        plan = plan.preferring(servers, *reason);
    }
    let server = plan.next(ServerSet::EMPTY).map(|(server, _)| server);
    let mut reason = plan.reason();
    let candidates = match info.is_resource {
        true => table.lookup(info.key()),
        false => None,
    };
    let candidates = candidates.map_or(ServerSet::EMPTY, |entry| entry.servers());
    let mut line = explain(&plan);
    // Without a server that lets the request pass there is no answer to replace.
    if let (Some((instead, _)), true) = (replaced, server.is_some())
        && instead != reason
    {
        reason = instead;
        line += &format!("; then {}: {}", reason.as_str(), reason.meaning());
    }
    if context.interoperability
        && method == Method::GET
        && NewerOptions::read(uri.query()).any()
        && let Some(asked) = &server
        && let Some(newer) = newer(&info, &table, asked, context.class)
    {
        let (reason, name) = (Reason::QueryOnPeer, &newer.name);
        line += &format!(
            "; {name}, which is newer, if {} refuses an option of the query ({})",
            asked.name,
            reason.as_str()
        );
    }
    Ok(ExplainView {
        method: method.to_string(),
        path: target.to_owned(),
        is_resource: info.is_resource,
        verb: info.verb.as_str().to_owned(),
        group: info.group.to_string(),
        version: info.version.to_string(),
        resource: info.resource.to_string(),
        subresource: info.subresource.to_string(),
        namespace: info.namespace.to_string(),
        name: info.name.to_string(),
        decision: reason.as_str().to_owned(),
        reason: reason.meaning().to_owned(),
        server: server.map(|server| server.name.to_string()),
        candidates: candidates
            .iter()
            .filter_map(|index| Some(table.member(index)?.server.name.to_string()))
            .collect(),
        line,
    })
}

fn explain_connection(
    sources: &Sources,
    address: IpAddr,
    server_name: Option<&str>,
) -> ConnectionView {
    let shared = &sources.shared;
    let explained = shared.relays.explain(shared, address, server_name);
    let (decision, reason) = match explained.reason {
        Some(reason) => (reason.as_str(), reason.meaning()),
        None => ("relayed", "the connection would be forwarded whole"),
    };
    ConnectionView {
        address: address.to_string(),
        server_name: server_name.map(str::to_owned),
        decision: decision.to_owned(),
        reason: reason.to_owned(),
        server: explained.server,
        line: explained.line,
    }
}

fn relay(shared: &Shared) -> RelayView {
    let technique = shared.relays.splicing().technique();
    let open = shared.relays.open().into_iter();
    RelayView {
        open: open.map(|(name, count)| (name, count as u64)).collect(),
        clients: shared.relays.clients() as u64,
        mode: technique.plan.messages.name().to_owned(),
        bulk: technique.plan.bulk.name().to_owned(),
        why: technique.why.clone(),
    }
}

fn stalled(sources: &Sources) -> Vec<String> {
    sources
        .threads
        .iter()
        .filter(|thread| thread.heartbeat.age() > STALLED)
        .map(|thread| thread.name.clone())
        .collect()
}

fn server_view(status: ServerStatus, table: &RouteTable) -> ServerView {
    let server = table
        .members()
        .iter()
        .map(|member| &member.server)
        .find(|server| *server.name == *status.name);
    let source = source_of(&status);
    ServerView {
        knowledge: knowledge_name(status.knowledge).to_owned(),
        name: status.name,
        url: status.url,
        local: status.local,
        version: status.version,
        ready: status.ready.unwrap_or(false),
        stopping: status.stopping,
        available: server.is_some_and(|server| server.available()),
        age_ms: status.age.map(millis),
        source,
        keys: status.keys as u64,
        outstanding: server.map_or(0, |server| {
            server.outstanding.load(Ordering::Relaxed) as u64
        }),
        proof: ProofView {
            asserted_users: class_view(&status.proofs.front_proxy),
            tokens: class_view(&status.proofs.bare),
            header_names: match &status.proofs.names {
                BelievedNames::Unknown => "unknown".to_owned(),
                BelievedNames::Known(_) => "known".to_owned(),
                BelievedNames::Unreadable(why) => format!("unreadable: {why}"),
            },
        },
        last_error: status.last_error.or_else(|| status.proofs.why()),
    }
}

fn class_view(proof: &ClassProof) -> ClassProofView {
    ClassProofView {
        proved: proof.is_proved(),
        age_ms: proof.at().map(|at| millis(at.elapsed())),
        why: proof.why(),
    }
}

pub(super) fn knowledge_name(knowledge: Knowledge) -> &'static str {
    match knowledge {
        Knowledge::Never | Knowledge::Absent => "none",
        Knowledge::Confirmed => "fresh",
        Knowledge::Down | Knowledge::Unconfirmed => "stale",
    }
}

fn certificates(reload: &ReloadStats) -> Vec<CertificateView> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    reload
        .files()
        .iter()
        .map(|file| CertificateView {
            file: file.path.display().to_string(),
            key: file.key.clone(),
            expires_in_seconds: file.not_after().map(|at| at.saturating_sub(now)),
            last_error: file.last_error(),
            reloads: file.successes.load(Ordering::Relaxed),
        })
        .filter(|view| view.expires_in_seconds.is_some() || view.last_error.is_some())
        .collect()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
