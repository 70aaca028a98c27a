//! What a load is sent to, a server or a proxy before it, and what a load on it saw and cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use http::{HeaderMap, header};
use rustls_pki_types::ServerName;

use super::machine;
use super::process::Process;
use super::upstream::{ANSWERED_BY, PATH, Upstream};
use super::watching::Watches;
use crate::load::{Answers, Endpoint, Get, Limit, Outcome, Session, bearer, tls};
use crate::sim::pki::Pki;

/// The name in the servers' certificate that clients ask for.
pub const SERVER_NAME: &str = "kubernetes.default.svc";

/// So many connections with so many streams each, every stream with one request under way.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// HTTP/2 connections.
    pub connections: usize,
    /// Streams of each.
    pub streams: usize,
    /// Appended to a metric's name.
    pub suffixes: Suffixes,
}

/// What is appended to the names of a load's metrics.
#[derive(Clone, Copy, Debug)]
pub struct Suffixes {
    /// To those of latency.
    pub latency: &'static str,
    /// To those of CPU and throughput.
    pub work: &'static str,
}

/// Latency is asked of an idle machine, CPU and throughput of a busy one: those have the plain names.
pub const LOADS: [Load; 2] = [
    Load {
        connections: 1,
        streams: 1,
        suffixes: Suffixes {
            latency: "",
            work: "_1x1",
        },
    },
    Load {
        connections: 16,
        streams: 4,
        suffixes: Suffixes {
            latency: "_16x4",
            work: "",
        },
    },
];

/// No event is to wait for another.
const BETWEEN_EVENTS: Duration = Duration::from_millis(5);

/// Where a load goes. With a process, that is ended when this is dropped.
pub struct Target {
    /// The subject's name in the table.
    pub name: &'static str,
    /// Where the load connects.
    pub endpoint: Endpoint,
    /// The process whose CPU is counted; `None`: the benchmark's own.
    pub process: Option<Process>,
}

/// What one round of one load showed.
pub struct Measured {
    /// Answers and latencies.
    pub outcome: Outcome,
    /// CPU of the target's process; `None` without one.
    pub cpu: Option<Duration>,
    /// CPU of the whole machine, in seconds.
    pub machine_cpu: f64,
}

impl Measured {
    /// CPU of the whole machine, for each answer.
    pub fn machine_cpu_micros(&self) -> f64 {
        self.machine_cpu * 1e6 / self.outcome.answers.total() as f64
    }
}

impl Target {
    /// A server at `address` with the certificate of `pki`.
    pub fn new(
        name: &'static str,
        address: std::net::SocketAddr,
        pki: &Pki,
        process: Option<Process>,
    ) -> Result<Self> {
        Ok(Self {
            name,
            endpoint: Endpoint {
                address,
                server_name: ServerName::try_from(SERVER_NAME)?,
                tls: Arc::new(tls(pki.read("ca.crt")?.as_bytes(), &["h2"])?),
            },
            process,
        })
    }

    /// Until the peer's answer arrives, as an agent has to learn first who serves the group.
    pub async fn wait_for_peer(&mut self, get: &Get) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = answered_by(&self.endpoint, get).await;
            if matches!(&seen, Ok(Some(server)) if server == "peer") {
                return Ok(());
            }
            if let Some(process) = &mut self.process {
                process.check()?;
            }
            if Instant::now() > deadline {
                bail!(
                    "{} forwards nothing to the peer; last answer {seen:?}; it wrote:\n{}",
                    self.name,
                    self.output()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A tenth of `duration` unmeasured, then `duration` measured.
    ///
    /// # Errors
    /// A connection that cannot be made, an answer that is no success, or one that is not the peer's.
    pub async fn measure(&self, get: &Get, load: Load, duration: Duration) -> Result<Measured> {
        let session = self.session(load.connections).await?;
        self.run(&session, get, load.streams, duration).await
    }

    /// So many open connections.
    ///
    /// # Errors
    /// A connection that cannot be made.
    pub async fn session(&self, connections: usize) -> Result<Session> {
        Session::open(std::slice::from_ref(&self.endpoint), connections).await
    }

    /// As [`Self::measure`], over connections that are open.
    ///
    /// # Errors
    /// An answer that is no success, or one that is not the peer's.
    pub async fn run(
        &self,
        session: &Session,
        get: &Get,
        streams: usize,
        duration: Duration,
    ) -> Result<Measured> {
        session
            .run(get, streams, Limit::duration(duration / 10))
            .await;
        let machine_before = machine::cpu()?;
        let before = self.process.as_ref().map(Process::cpu).transpose()?;
        let outcome = session.run(get, streams, Limit::duration(duration)).await;
        let after = self.process.as_ref().map(Process::cpu).transpose()?;
        let machine_cpu = machine::cpu()? - machine_before;
        let wrong = outcome.answers.not_ok();
        ensure!(
            wrong == 0 && outcome.answers.ok > 0,
            "{}: {wrong} of {} requests failed ({:?}); {}",
            self.name,
            outcome.answers.total(),
            outcome.answers,
            self.output()
        );
        // A local answer would be cheaper than a forwarded one, and wrong.
        let server = answered_by(&self.endpoint, get).await?;
        ensure!(
            server.as_deref() == Some("peer"),
            "{}: the answer came from {server:?}",
            self.name
        );
        Ok(Measured {
            outcome,
            cpu: before.zip(after).map(|(before, after)| after - before),
            machine_cpu,
        })
    }

    /// Tells one watch events, 5 ms apart, for `duration`: the latencies are those of events from the server's telling to the client's
    /// reading.
    ///
    /// # Errors
    /// The watch cannot be opened, or an event does not arrive.
    pub async fn watch(
        &self,
        upstream: &Upstream,
        get: &Get,
        duration: Duration,
    ) -> Result<Measured> {
        let connect = async || Ok(self.endpoint.connect().await?);
        let mut watches = Watches::none(upstream).await?;
        let open = watches.grow(1, &get.headers, connect).await;
        open.with_context(|| format!("{}: {}", self.name, self.output()))?;
        let events = duration.div_duration_f64(BETWEEN_EVENTS) as u32 + 1;
        let (began, machine_before) = (Instant::now(), machine::cpu()?);
        let before = self.process.as_ref().map(Process::cpu).transpose()?;
        let latency = watches.tell(events, BETWEEN_EVENTS).await?;
        let after = self.process.as_ref().map(Process::cpu).transpose()?;
        Ok(Measured {
            outcome: Outcome {
                answers: Answers {
                    ok: events.into(),
                    ..Answers::default()
                },
                latency,
                elapsed: began.elapsed(),
                bytes: 0,
            },
            cpu: before.zip(after).map(|(before, after)| after - before),
            machine_cpu: machine::cpu()? - machine_before,
        })
    }

    /// The end of what its process wrote.
    fn output(&self) -> String {
        self.process
            .as_ref()
            .map(Process::output)
            .unwrap_or_default()
    }
}

/// The GET of the benchmarks, with a bearer token as a service account would send.
pub fn request() -> Result<Get> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, "application/json".parse()?);
    headers.insert(header::USER_AGENT, "mvp-bench".parse()?);
    headers.insert(header::AUTHORIZATION, bearer(TOKEN)?);
    Ok(Get {
        uri: format!("https://{SERVER_NAME}{PATH}").parse()?,
        headers,
    })
}

/// The length of a service account's token, roughly.
const TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsImtpZCI6ImJlbmNobWFyayJ9.",
    "eyJpc3MiOiJodHRwczovL2t1YmVybmV0ZXMuZGVmYXVsdC5zdmMiLCJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6ZGVmYXVsdDpiZW5jaCJ9.",
    "bm90LWEtc2lnbmF0dXJlLWJ1dC1hcy1sb25nLWFzLW9uZS1ub3QtYS1zaWduYXR1cmUtYnV0LWFzLWxvbmctYXMtb25lLW5vdC1hLXNpZ25hdHVyZQ"
);

/// One request on a connection of its own, to the last byte of the answer. Which of the upstream's servers answered, if it
/// says so.
///
/// # Errors
/// No connection, no answer, or one that is no success.
pub async fn answered_by(endpoint: &Endpoint, get: &Get) -> Result<Option<String>> {
    let io = endpoint.connect().await?;
    // A reset at the end: no TIME_WAIT, thousands of which would slow the next connections down.
    socket2::SockRef::from(io.get_ref().0).set_linger(Some(Duration::ZERO))?;
    let (sender, connection) = h2::client::handshake(io).await?;
    let driver = tokio::spawn(connection);
    let mut request = http::Request::get(get.uri.clone()).body(())?;
    *request.headers_mut() = get.headers.clone();
    let response = sender
        .ready()
        .await?
        .send_request(request, true)?
        .0
        .await
        .context("no answer")?;
    let (head, mut body) = response.into_parts();
    while let Some(chunk) = body.data().await {
        body.flow_control().release_capacity(chunk?.len())?;
    }
    driver.abort();
    if !head.status.is_success() {
        bail!("status {}", head.status);
    }
    Ok(head
        .headers
        .get(ANSWERED_BY)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned))
}

/// The processors that this process may use; 1 if that is not known.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A clap parser.
pub fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a number above 0 is needed".into()),
    }
}
