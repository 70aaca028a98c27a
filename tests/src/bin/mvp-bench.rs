//! `mvp-bench`: the benchmarks, and their parts for use under a profiler.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use http::Uri;
use mvp_tests::bench::{
    compare, discovery, forward, freshness, growth, haproxy, kernel, neighbour, target, upgrade,
    upstream,
};
use mvp_tests::load::{Endpoint, Limit, Session, bearer, tls};
use mvp_tests::ports;
use mvp_tests::sim::pki::Pki;
use rustls_pki_types::ServerName;

#[derive(Parser)]
#[command(about = "Benchmarks of the mixed version proxy")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// What forwarding adds to a small GET: direct, through mvp, through HAProxy
    Forward(forward::Options),
    /// Discovery through mvp against direct: whole documents and "not modified"; agreeing servers and differing ones
    Discovery(discovery::Options),
    /// How long until new types are seen through every agent
    Freshness(freshness::Options),
    /// What the agent takes as servers, types, connections and watches become many
    Growth(growth::Options),
    /// What the kernel part costs and saves: the idle guard, relayed connections, sockmap, the short-cut, the steering program
    Kernel(kernel::Options),
    /// What a good client feels while a hostile neighbour attacks
    Neighbour(neighbour::Options),
    /// Rolling upgrades under clients of every kind, which connected before
    Upgrade(upgrade::Options),
    /// The agent, HAProxy, Envoy, nginx and a simulation of the native proxy compared with no proxy at all
    Compare(compare::Options),
    /// A part of `compare`: one server's part of the simulated native proxy
    #[command(hide = true)]
    Native(compare::native::Options),
    /// Run the fast upstream alone, and write the configuration of an agent and of an HAProxy before it
    Upstream(UpstreamArgs),
    /// Load one URL, or several at once, and print what was seen
    Load(LoadArgs),
}

#[derive(clap::Args)]
struct UpstreamArgs {
    /// Folder for key material and configurations; made if missing
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
    /// Threads of the proxies
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How the servers answer
    #[arg(long, value_enum, default_value = "real")]
    answers: upstream::Answering,
}

#[derive(clap::Args)]
struct LoadArgs {
    /// https URLs with an IP address and a port; the path defaults to the benchmark's object
    #[arg(required = true)]
    urls: Vec<Uri>,
    /// CA of the servers' certificates
    #[arg(long, value_name = "FILE")]
    ca: PathBuf,
    /// Name verified in the certificate, and sent as SNI
    #[arg(long, default_value = "kubernetes.default.svc")]
    server_name: String,
    /// Bearer token instead of the benchmark's
    #[arg(long)]
    token: Option<String>,
    /// Connections for each URL
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Streams on each connection
    #[arg(long, default_value_t = 1)]
    streams: usize,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// End after so many requests
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    requests: u64,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Forward(options) => forward::run(&options),
        Verb::Discovery(options) => discovery::run(&options),
        Verb::Freshness(options) => freshness::run(&options),
        Verb::Growth(options) => growth::run(&options),
        Verb::Kernel(options) => kernel::run(&options),
        Verb::Neighbour(options) => neighbour::run(&options),
        Verb::Upgrade(options) => upgrade::run(&options),
        Verb::Compare(options) => compare::run(&options),
        Verb::Native(options) => compare::native::run(&options),
        Verb::Upstream(args) => run_upstream(&args),
        Verb::Load(args) => run_load(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mvp-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_upstream(args: &UpstreamArgs) -> Result<()> {
    std::fs::create_dir_all(&args.dir).with_context(|| format!("folder {}", args.dir.display()))?;
    let dir = std::fs::canonicalize(&args.dir)?;
    let pki = Pki::generate(&dir)?;
    let upstream = upstream::Upstream::start(&pki)?;
    upstream.answer(args.answers);
    let agent = forward::agent(&upstream, args.threads)?;
    let config = agent.write_config(&dir, &dir)?;
    let listen = ports::free_port("127.0.0.1")?;
    let haproxy = haproxy::write_config(&pki, listen, upstream.peer, args.threads, &dir)?;
    let ca = dir.join("ca.crt");
    println!("peer      https://{}{}", upstream.peer, upstream::PATH);
    println!("local     https://{}", upstream.local);
    println!("mvp       mvp agent --config {}", config.display());
    println!("haproxy   haproxy -db -f {}", haproxy.display());
    for (name, address) in [
        ("direct", upstream.peer),
        ("mvp", agent.listen),
        ("haproxy", listen),
    ] {
        println!(
            "{name:<9} mvp-bench load --ca {} --connections 16 --streams 4 https://{address}",
            ca.display()
        );
    }
    loop {
        std::thread::park();
    }
}

fn run_load(args: &LoadArgs) -> Result<()> {
    let ca = std::fs::read(&args.ca).with_context(|| format!("file {}", args.ca.display()))?;
    let tls = Arc::new(tls(&ca, &["h2"])?);
    let server_name = ServerName::try_from(args.server_name.clone()).context("--server-name")?;
    let mut get = target::request()?;
    if let Some(token) = &args.token {
        get.headers
            .insert(http::header::AUTHORIZATION, bearer(token)?);
    }
    let mut endpoints = Vec::new();
    for url in &args.urls {
        endpoints.push(Endpoint {
            address: address(url)?,
            server_name: server_name.clone(),
            tls: tls.clone(),
        });
    }
    if let Some(path) = one_path(&args.urls)? {
        get.uri = format!("https://{}{path}", args.server_name).parse()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let limit = Limit {
        duration: Duration::try_from_secs_f64(args.seconds)?,
        requests: args.requests,
    };
    let outcome = runtime.block_on(async {
        let session = Session::open(&endpoints, args.connections).await?;
        anyhow::Ok(session.run(&get, args.streams, limit).await)
    })?;
    println!(
        "{:.0} req/s over {:.2} s, {} bytes",
        outcome.requests_per_second(),
        outcome.elapsed.as_secs_f64(),
        outcome.bytes
    );
    for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
        println!(
            "p{:<5} {:>10.1} us",
            quantile * 100.0,
            outcome.latency.micros(quantile)
        );
    }
    println!("{:?}", outcome.answers);
    if outcome.answers.not_ok() > 0 {
        bail!("{} requests failed", outcome.answers.not_ok());
    }
    Ok(())
}

fn address(url: &Uri) -> Result<SocketAddr> {
    let authority = url
        .authority()
        .with_context(|| format!("{url}: no address"))?;
    authority
        .as_str()
        .parse()
        .with_context(|| format!("{url}: an IP address and a port are needed"))
}

/// The path that all URLs have in common, unless they have none.
fn one_path(urls: &[Uri]) -> Result<Option<&str>> {
    let mut paths = urls
        .iter()
        .map(|url| url.path_and_query().map_or("/", |path| path.as_str()));
    let first = paths.next().unwrap_or("/");
    if paths.any(|path| path != first) {
        bail!("all URLs must have the same path");
    }
    Ok((first != "/").then_some(first))
}
