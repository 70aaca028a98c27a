//! What `mvp doctor` finds out about this node's certificates and about every kube-apiserver, with the configuration that the agent
//! would have.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{DoctorLine, Outcome, finding};
use crate::admin::{SkewState, SkewView};
use crate::app::skew;
use crate::config::{Config, Endpoint, goaway_chance};
use crate::discovery::{
    Discovery, DiscoveryConnection, DiscoveryHandle, HubSettings, ServerStatus, SyncCounters,
};
use crate::identity::proof::OwnUser;
use crate::identity::{HeaderNames, TrustCell};
use crate::membership::{Membership, storage_versions};
use crate::route::Knowledge;
use crate::steering::{try_to_share, way_to_servers};
use crate::tls::{Alpn, ClientTls, IdentityClass, Lifetime, Reload, ServerTls};

/// The time for every server to answer once.
const PATIENCE: Duration = Duration::from_secs(15);
/// The least time for TCP and TLS with one server.
const CONNECT: Duration = Duration::from_secs(5);
/// The time for Kubernetes to report which servers there are.
const LISTED: Duration = Duration::from_secs(5);
/// A path that nobody may read: its 403 names the user as whom the server took the request.
const NOBODYS: &str = "/mvp/nobody-may-read-this";
/// The most bytes that are read of a Status.
const STATUS: usize = 64 << 10;
/// The most types that are named of those that a server lacks.
const NAMED: usize = 3;

/// Examines files and servers; changes nothing.
pub(super) fn examine(config: &Config) -> Vec<DoctorLine> {
    let (mut found, client_tls) = certificates(config);
    found.push(goaway(&config.kernel.manifest));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match (runtime, client_tls) {
        (Ok(runtime), Some(tls)) => found.extend(runtime.block_on(servers(config, tls))),
        (Err(error), _) => found.push(failed("servers", error.to_string())),
        // Another line reports it.
        (_, None) => {}
    }
    found
}

/// Whether clients move by themselves from connections that were made before an upgrade began.
fn goaway(manifest: &Path) -> DoctorLine {
    let result = match goaway_chance(manifest) {
        Ok(chance) if chance > 0.0 => Ok(format!(
            "{chance}: a connection over HTTP/2 moves after {:.0} requests on average, and so comes to the agent when it takes connections",
            1.0 / chance
        )),
        Ok(_) => Err(
            "not set: connections made before an upgrade begins move when the agent retires them (retire.within). With \
             --goaway-chance=0.001 on every kube-apiserver, busy ones move after 1000 requests on average; not for a single server"
                .to_owned(),
        ),
        Err(error) => Err(error.to_string()),
    };
    finding("--goaway-chance", result, Outcome::Off)
}

fn failed(subject: &'static str, detail: String) -> DoctorLine {
    finding(subject, Err(detail), Outcome::Failed)
}

fn certificates(config: &Config) -> (Vec<DoctorLine>, Option<Arc<ClientTls>>) {
    const SUBJECT: &str = "certificate";
    let mut found = Vec::new();
    let mut owners: Vec<Arc<dyn Reload>> = Vec::new();
    let client = ClientTls::load(config).map(Arc::new);
    let loaded = [
        ServerTls::load(config)
            .map(|tls| Arc::new(tls) as Arc<dyn Reload>)
            .map_err(|error| error.to_string()),
        TrustCell::open(config)
            .map(|trust| Arc::new(trust) as Arc<dyn Reload>)
            .map_err(|error| error.to_string()),
        match &client {
            Ok(tls) => Ok(Arc::clone(tls) as Arc<dyn Reload>),
            Err(error) => Err(error.to_string()),
        },
    ];
    for owner in loaded {
        match owner {
            Ok(owner) => owners.push(owner),
            Err(error) => found.push(failed(SUBJECT, error)),
        }
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    for (key, validity) in owners.iter().flat_map(|owner| owner.validities()) {
        let days = validity.1.saturating_sub(now) / 86_400;
        let result = match Lifetime::at(validity, now) {
            Lifetime::Expired => Err(format!("{key}: expired {} days ago", -days)),
            _ if validity.0 > now => Err(format!("{key}: not valid yet")),
            Lifetime::Ending => Ok(format!("{key}: only {days} days left")),
            Lifetime::Aging | Lifetime::Fresh => Ok(format!("{key}: {days} days left")),
        };
        found.push(finding(SUBJECT, result, Outcome::Failed));
    }
    if config.upstream.client.is_none() {
        let why = "upstream.clientCertFile is not set: only tokens can be forwarded";
        found.push(finding("identity", Err(why.to_owned()), Outcome::Off));
    }
    (found, client.ok())
}

async fn servers(config: &Config, tls: Arc<ClientTls>) -> Vec<DoctorLine> {
    let counters = Arc::new(SyncCounters::default());
    let from = way_to_servers(config);
    let own = HeaderNames::new(config.request_header.as_ref())
        .map_err(|error| error.to_string())
        .and_then(|names| OwnUser::new(&names).map_err(|error| error.to_string()));
    let own = match own {
        Ok(own) => own,
        Err(error) => return vec![failed("requestHeader", error)],
    };
    let settings = HubSettings::new(
        &config.discovery,
        &config.upstream,
        from,
        Arc::new(move || tls.config(IdentityClass::FrontProxy, Alpn::H2OrHttp1)),
        own,
    );
    let settings = match settings {
        Ok(mut settings) => {
            // A person waits, and needs the reason for a failure more than a quick answer.
            settings.dialer.connect_timeout = settings.dialer.connect_timeout.max(CONNECT);
            settings
        }
        Err(error) => return vec![failed("upstream.serverName", error.to_string())],
    };
    let dialer = config
        .upstream
        .client
        .is_some()
        .then(|| settings.dialer.clone());
    let membership = Membership::start(
        &config.peers,
        &config.local,
        config.advertise,
        dialer,
        Arc::clone(&counters),
    )
    .await;
    let Membership {
        mut members,
        restarts,
        read_by,
        line: _,
        reader,
    } = match membership {
        Ok(membership) => membership,
        Err(error) => return vec![failed("members", error.to_string())],
    };
    let mut found = Vec::new();
    if config.peers.kubernetes.enabled {
        let listed = tokio::time::timeout(LISTED, members.changed())
            .await
            .is_ok();
        let result = match listed {
            true => Ok(format!(
                "{} servers, read {}",
                members.borrow().len(),
                read_by.get()
            )),
            false => Err(format!(
                "Kubernetes lists no server: read {}",
                read_by.get()
            )),
        };
        found.push(finding("members", result, Outcome::Off));
    }
    let published = reader.clone();
    let offered = counters.published.offered();
    if let Some(reader) = reader {
        let result = try_to_share(reader.client()).await;
        let told = result.map(|()| "one agent's sign arms all agents".to_owned());
        found.push(finding("signs", told, Outcome::Off));
    }
    if config.upstream.client.is_some() {
        let local = &config.local;
        found.push(identity(&settings, local, &config.node, true).await);
        let listed = Arc::clone(&members.borrow());
        let peers = listed
            .iter()
            .filter(|peer| (&peer.host, peer.port) != (&local.host, local.port));
        for peer in peers {
            found.push(identity(&settings, peer, &peer.name, false).await);
        }
    }
    let discovery = Discovery::start(
        settings.clone(),
        config.local.clone(),
        members,
        restarts,
        counters,
        &tokio::runtime::Handle::current(),
    );
    let done = discovery.first_round_done();
    if tokio::time::timeout(PATIENCE, done).await.is_err() {
        found.push(failed(
            "servers",
            format!("not all answered within {PATIENCE:?}"),
        ));
    }
    let statuses = discovery.status();
    // Without the type, which is the default, there is nothing to say.
    if let Some(reader) = published
        && *offered.borrow()
    {
        let result = storage_versions(reader.apart().client()).await;
        let told = result.map(|count| {
            format!("{count} objects: they say what a server serves that cannot be asked")
        });
        found.push(finding("StorageVersions", told, Outcome::Off));
    }
    found.extend(statuses.iter().map(server));
    found.extend(without_an_agent(&discovery, &statuses));
    found
}

fn server(status: &ServerStatus) -> DoctorLine {
    let role = if status.local { "local" } else { "peer" };
    let name = format!("{} ({role}, {})", status.name, status.url);
    let result = match (&status.last_error, status.knowledge, status.ready) {
        (Some(error), ..) => Err(format!("{name}: {error}")),
        (None, Knowledge::Confirmed, Some(false)) => Err(format!("{name}: it is not ready")),
        (None, Knowledge::Confirmed, _) => Ok(format!(
            "{name}: {}, {} resources",
            status.version.as_deref().unwrap_or("no version"),
            status.keys
        )),
        _ => Err(format!("{name}: it did not tell what it serves")),
    };
    let bad = if status.local {
        Outcome::Failed
    } else {
        Outcome::Off
    };
    finding("server", result, bad)
}

/// Whether the server takes an asserted user for exactly that user.
async fn identity(
    settings: &HubSettings,
    endpoint: &Endpoint,
    name: &str,
    local: bool,
) -> DoctorLine {
    let bad = if local { Outcome::Failed } else { Outcome::Off };
    let asked = async {
        let connection = DiscoveryConnection::open(&settings.dialer, endpoint).await?;
        connection
            .get(NOBODYS, "application/json", None, STATUS)
            .await
    };
    let result = match asked.await {
        Err(error) => Err(format!("{name}: {error}")),
        Ok(answer) => {
            let body = String::from_utf8_lossy(&answer.body);
            accepted(answer.status.as_u16(), &body).map_or_else(
                |why| Err(format!("{name}: {why}")),
                |()| Ok(format!("{name}: takes an asserted user for that user")),
            )
        }
    };
    finding("identity", result, bad)
}

/// What an answer for [`NOBODYS`] says of the asserted user `system:mvp`.
fn accepted(status: u16, body: &str) -> Result<(), String> {
    match status {
        403 if body.contains("User \\\"system:mvp\\\" cannot get path") => Ok(()),
        403 => Err("it takes the agent for somebody else: upstream.clientCertFile is an ordinary client certificate, or the header names differ".to_owned()),
        401 => Err("it does not accept upstream.clientCertFile as a front proxy's: look at --requestheader-client-ca-file and --requestheader-allowed-names".to_owned()),
        404 | 200 => Err("it lets the agent read everything: upstream.clientCertFile is the certificate of a privileged client".to_owned()),
        other => Err(format!("it answered {other}, which says nothing about the asserted user")),
    }
}

/// What clients of each node would receive without an agent, for types that only another server has.
fn without_an_agent(discovery: &DiscoveryHandle, statuses: &[ServerStatus]) -> Vec<DoctorLine> {
    let view = skew(&discovery.table(), statuses);
    if view.rows.is_empty() {
        let same = "nothing differs: every server that answered serves the same".to_owned();
        return vec![finding("without an agent", Ok(same), Outcome::Off)];
    }
    let servers = view.servers.iter();
    servers
        .filter_map(|server| {
            let lacks = lacking(&view, &server.name);
            let more = lacks.len().saturating_sub(NAMED);
            let named = lacks.iter().take(NAMED).cloned().collect::<Vec<_>>();
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            let line = format!(
                "a client of {} gets 404 or 405 for {}{more}, which others serve",
                server.name,
                named.join(", ")
            );
            (!lacks.is_empty()).then(|| finding("without an agent", Ok(line), Outcome::Off))
        })
        .collect()
}

fn lacking(view: &SkewView, server: &str) -> Vec<String> {
    let rows = view.rows.iter().filter(|row| {
        row.servers
            .get(server)
            .is_some_and(|cell| matches!(cell.state, SkewState::Lacks | SkewState::Partial))
    });
    rows.map(|row| {
        let group = match row.group.as_str() {
            "" => row.version.clone(),
            group => format!("{group}/{}", row.version),
        };
        match row.subresource.as_str() {
            "" => format!("{group} {}", row.resource),
            subresource => format!("{group} {}/{subresource}", row.resource),
        }
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_of_the_asserted_user_is_a_proof() {
        let own = r#"{"message":"forbidden: User \"system:mvp\" cannot get path \"/x\""}"#;
        assert_eq!(accepted(403, own), Ok(()));
        let other =
            r#"{"message":"forbidden: User \"front-proxy-client\" cannot get path \"/x\""}"#;
        for (status, body) in [(403, other), (401, ""), (404, ""), (200, ""), (500, own)] {
            assert!(accepted(status, body).is_err(), "{status}");
        }
    }
}
