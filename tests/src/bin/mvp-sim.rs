//! Simulated kube-apiservers on the command line: one server for a parent process, or a whole control plane to try
//! things with.

use std::{
    io::BufRead,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use clap::{Args, Parser, Subcommand};
use mvp_tests::sim::{
    ControlPlane, Server, ServerSpec,
    api::authz::Policy,
    control::{Command, Outcome, execute},
    pki::{KubeconfigUser, Pki},
    store::Store,
};
use tokio::sync::mpsc;

#[derive(Parser)]
#[command(name = "mvp-sim", about = "Simulated kube-apiservers")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run one server over a store that another process hosts; it is commanded over standard input
    Server(ServerArgs),
    /// Run a control plane in the foreground
    Plane(PlaneArgs),
}

#[derive(Args)]
struct ServerArgs {
    #[arg(long)]
    name: String,
    /// Kubernetes minor version, 31 to 36
    #[arg(long, value_parser = clap::value_parser!(u8).range(31..=36))]
    minor: u8,
    /// Enable all alpha and beta APIs
    #[arg(long)]
    all_apis: bool,
    /// Enable all alpha and beta feature gates as well
    #[arg(long)]
    all_gates: bool,
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address by which others know it, if it listens on all
    #[arg(long)]
    advertise: Option<IpAddr>,
    /// Folder with the key material
    #[arg(long)]
    pki: PathBuf,
    /// Unix socket of the store
    #[arg(long)]
    store: PathBuf,
    #[arg(long)]
    http1_only: bool,
    #[arg(long, default_value_t = 100)]
    max_concurrent_streams: u32,
    #[arg(long, default_value_t = 0)]
    crd_delay_ms: u64,
    /// For how long a server that is told to stop goes on while requests or watches are open on it
    #[arg(long, default_value_t = 0)]
    lingers_ms: u64,
    #[arg(long, default_value_t = 4096)]
    log_capacity: usize,
    /// Names of the front-proxy headers, as JSON
    #[arg(long)]
    header_names: Option<String>,
}

#[derive(Args)]
struct PlaneArgs {
    /// Number of servers; they are named cp-a, cp-b, …
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=26))]
    servers: u8,
    /// Kubernetes minor versions; the last one holds for all further servers
    #[arg(long, value_delimiter = ',', default_value = "35,36", value_parser = clap::value_parser!(u8).range(31..=36))]
    minor: Vec<u8>,
    #[arg(long)]
    all_apis: bool,
    /// Folder for key material and kubeconfigs
    #[arg(long)]
    dir: PathBuf,
    /// Servers listen on this port of 127.0.0.1 and those that follow it; 0: on free ports
    #[arg(long, default_value_t = 7443)]
    port: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Server(args) => server(args).await,
        Verb::Plane(args) => plane(args).await,
    }
}

async fn server(args: ServerArgs) -> Result<()> {
    let started = start(args).await;
    answer(&match &started {
        Ok(server) => Ok(serde_json::to_value(server.addr())?),
        Err(error) => Err(format!("{error:#}")),
    })?;
    let server = started?;
    // The end of standard input is the end of the parent.
    let mut lines = stdin();
    while let Some(line) = lines.recv().await {
        let outcome = match serde_json::from_str::<Command>(&line) {
            Ok(command) => execute(&server, command)
                .await
                .map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        answer(&outcome)?;
    }
    Ok(())
}

async fn start(args: ServerArgs) -> Result<Server> {
    let pki = Pki::load(&args.pki)?;
    let store = Store::connect(&args.store).await;
    let store =
        store.map_err(|error| anyhow::anyhow!("store {}: {error:?}", args.store.display()))?;
    let mut spec = ServerSpec::new(&args.name, args.minor).listen(args.listen);
    spec.advertise = args.advertise;
    spec.all_apis = args.all_apis;
    spec.all_gates = args.all_gates;
    spec.http1_only = args.http1_only;
    spec.max_concurrent_streams = args.max_concurrent_streams;
    spec.crd_delay = Duration::from_millis(args.crd_delay_ms);
    spec.lingers = Duration::from_millis(args.lingers_ms);
    spec.log_capacity = args.log_capacity;
    if let Some(names) = &args.header_names {
        spec.header_names = serde_json::from_str(names).context("--header-names")?;
    }
    Server::start_new(
        spec,
        &pki,
        &store,
        &Arc::new(ArcSwap::from_pointee(Policy::standard())),
    )
    .await
}

async fn plane(args: PlaneArgs) -> Result<()> {
    let mut builder = ControlPlane::builder().dir(&args.dir);
    for index in 0..args.servers {
        let minor = args
            .minor
            .get(usize::from(index))
            .or(args.minor.last())
            .context("--minor")?;
        let port = match args.port {
            0 => 0,
            first => first.checked_add(index.into()).context("--port")?,
        };
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let name = format!("cp-{}", char::from(b'a' + index));
        let mut spec = ServerSpec::new(&name, *minor).listen(listen);
        spec.all_apis = args.all_apis;
        builder = builder.server(spec);
    }
    let plane = builder.start().await?;
    let admin = KubeconfigUser::Certificate(plane.pki().admin()?);
    for server in plane.servers() {
        let file = plane.kubeconfig(
            &format!("{}.kubeconfig", server.name()),
            &server.url(),
            &admin,
        )?;
        println!(
            "{}  1.{}  {}  {}",
            server.name(),
            server.minor(),
            server.url(),
            file.display()
        );
    }
    println!(
        "commands: stop NAME, kill NAME, start NAME, restart NAME MINOR, hang NAME, resume NAME, goaway NAME"
    );
    let mut lines = stdin();
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            Some(line) = lines.recv() => match operate(&plane, &line).await {
                Ok(()) => println!("done"),
                Err(error) => println!("{error:#}"),
            },
        }
    }
}

async fn operate(plane: &ControlPlane, line: &str) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, name, rest @ ..] = words.as_slice() else {
        bail!("a command and a server, please")
    };
    let server = plane
        .named(name)
        .with_context(|| format!("there is no server {name}"))?;
    let command = match (*verb, rest) {
        ("stop", []) => Command::Stop,
        ("kill", []) => Command::Kill,
        ("start", []) => Command::Start,
        ("restart", [minor]) => Command::Restart {
            minor: minor.parse()?,
        },
        ("hang", []) => Command::Hang { on: true },
        ("resume", []) => Command::Hang { on: false },
        ("goaway", []) => Command::Goaway,
        _ => bail!("unknown command"),
    };
    execute(server, command).await.map(drop)
}

fn answer(outcome: &Outcome) -> Result<()> {
    println!("{}", serde_json::to_string(outcome)?);
    Ok(())
}

/// Lines of standard input; a thread reads them, since reading a terminal or a file cannot be awaited.
fn stdin() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receive
}
