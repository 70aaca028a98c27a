//! A relay of whole connections in a process of its own, as the agent has it: looks at the ClientHello, connects to the one
//! server that it knows, joins. What it leaves out is whether to relay.

use std::future::pending;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use mvp::kernel::Splice;
use mvp::net::{
    AcceptLoop, Accepted, Admission, AdmissionLimits, Peeked, ThreadInbox, listen, peek,
    tune_client, tune_upstream,
};
use mvp::splice::calibrate::{self, TrafficKind};
use mvp::splice::{Mode, PairLimits, PairOutcome, Signal, Splicer, selftest};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bench::target::SERVER_NAME;

/// The arguments of `relayer`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where clients connect
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where every connection goes
    #[arg(long)]
    pub server: SocketAddr,
    /// sockmap, splice or copy [default: what a calibration chooses, as the agent does]
    #[arg(long)]
    pub mode: Option<Way>,
    /// Threads, each with a runtime of its own
    #[arg(long)]
    pub threads: usize,
}

/// A [`Mode`] by its name.
#[derive(Clone, Copy, Debug)]
pub struct Way(pub Mode);

impl FromStr for Way {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mode = Mode::ALL.into_iter().find(|mode| mode.name() == text);
        mode.map(Self).ok_or_else(|| "no such mode".into())
    }
}

/// What the line begins with that names the mode in use.
pub(super) const CHOSEN: &str = "mode: ";
/// What a line begins with about a pair that was moved by something else.
pub(super) const OTHERWISE: &str = "not by the mode asked for: ";
/// A ClientHello takes a round trip.
const PATIENCE: Duration = Duration::from_secs(10);
const PAIRS: usize = 4096;
/// A pair that moved fewer bytes had a single request, to look whether all is well, and may be over before it is joined.
const MEASURED: u64 = 16 * 1024;

/// Relays until it is killed.
pub fn run(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (splicer, mode) = match options.mode {
            Some(Way(Mode::Sockmap)) => (splicer(Some(Splice::load()?)), Mode::Sockmap),
            Some(Way(mode)) => (splicer(None), mode),
            None => automatic().await?,
        };
        println!("{CHOSEN}{}", mode.name());
        let sinks = (0..options.threads)
            .map(|_| data_thread(options.server, Arc::clone(&splicer), mode))
            .collect::<Result<_>>()?;
        let accept = AcceptLoop {
            listener: listen(options.listen)?,
            sinks,
            total: Arc::default(),
            limit: PAIRS,
            admission: Admission::new(AdmissionLimits {
                connections: PAIRS,
                handshakes: PAIRS,
                patience: PATIENCE,
            }),
        };
        accept.run(pending(), |_| {}, None).await;
        Ok(())
    })
}

fn splicer(kernel: Option<Splice>) -> Arc<Splicer> {
    Arc::new(Splicer::new(kernel, PAIRS))
}

/// The self-test and the calibration decide, for connections that carry requests.
async fn automatic() -> Result<(Arc<Splicer>, Mode)> {
    let kernel = match Splice::load() {
        Ok(kernel) => match selftest::run(&kernel).await.failure() {
            None => Some(kernel),
            Some((case, why)) => {
                println!("no sockmap: self-test {}: {why}", case.name());
                None
            }
        },
        Err(error) => {
            println!("no sockmap: {error}");
            None
        }
    };
    let modes: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|&mode| mode != Mode::Sockmap || kernel.is_some())
        .collect();
    let splicer = splicer(kernel);
    let figures = calibrate::run(&splicer, &modes).await?;
    println!("{figures:?}");
    let mode = calibrate::choose(&figures, TrafficKind::Messages);
    Ok((splicer, mode))
}

fn data_thread(server: SocketAddr, splicer: Arc<Splicer>, mode: Mode) -> Result<ThreadInbox> {
    let (sink, inbox) = ThreadInbox::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("data".into())
        .spawn(move || runtime.block_on(serve(inbox, server, splicer, mode)))?;
    Ok(sink)
}

async fn serve(
    mut inbox: UnboundedReceiver<Accepted>,
    server: SocketAddr,
    splicer: Arc<Splicer>,
    mode: Mode,
) {
    let (_signal, signals) = watch::channel(Signal::Run);
    while let Some(accepted) = inbox.recv().await {
        let (splicer, signals) = (Arc::clone(&splicer), signals.clone());
        tokio::spawn(async move {
            match relay(accepted, server, &splicer, mode, signals).await {
                Ok(outcome) if outcome.mode == mode && outcome.reason.is_none() => {}
                Ok(outcome) if outcome.bytes.iter().sum::<u64>() < MEASURED => {}
                Ok(outcome) => println!("{OTHERWISE}{outcome:?}"),
                Err(error) => println!("not relayed: {error:#}"),
            }
        });
    }
}

async fn relay(
    accepted: Accepted,
    server: SocketAddr,
    splicer: &Splicer,
    mode: Mode,
    signals: watch::Receiver<Signal>,
) -> Result<PairOutcome> {
    let client = TcpStream::from_std(accepted.stream)?;
    tune_client(&client)?;
    let peeked = peek(&client, Instant::now() + PATIENCE).await?;
    ensure!(
        matches!(&peeked, Peeked::Hello(hello) if hello.server_name.as_deref() == Some(SERVER_NAME)),
        "{peeked:?}"
    );
    let upstream = TcpStream::connect(server).await.context("the server")?;
    tune_upstream(&upstream)?;
    let limits = PairLimits::default();
    let outcome = splicer.join(client.into(), upstream.into(), mode, &limits, signals);
    Ok(outcome.await)
}
