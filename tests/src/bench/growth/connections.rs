//! More and more connections that clients keep, each of which had one request.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use tokio::time::sleep;

use super::subject::{BOTH, Http2, Subject, affordable, endpoint};
use super::{Bench, kib_each};
use crate::bench::machine;
use crate::bench::report::Report;
use crate::bench::target::request;
use crate::bench::upstream::Upstream;
use crate::load::{Get, Limit, Session};
use crate::sim::pki::Pki;

const SIZES: [usize; 4] = [100, 1_000, 10_000, 20_000];
const QUICK: usize = 1_000;
/// What an operator of that size would set: more connections than `auto` allows, and nothing is ended while it is measured.
const SETTINGS: [&str; 2] = ["limits.connections=30000", "limits.idleTimeout=1h"];
/// Handshakes at once, each from an address of its own: 28,000 ports of one address are not enough for all sizes and the time after a close.
const LANES: u8 = 16;
/// Until memory is looked at.
const SETTLES: Duration = Duration::from_secs(1);

pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let affordable = affordable();
    let mut sizes = bench.sizes(&SIZES, QUICK);
    if sizes.iter().any(|size| *size > affordable) {
        println!(
            "{affordable} CONNECTIONS AT MOST: an agent with this limit of open files accepts no more; \
             root with CAP_SYS_RESOURCE may raise it"
        );
        sizes
            .iter_mut()
            .for_each(|size| *size = affordable.min(*size));
        sizes.dedup();
    }
    for http2 in BOTH {
        let measured = of_agent(bench, http2, &sizes, report);
        runtime.block_on(measured).context(http2.subject)?;
    }
    Ok(())
}

async fn of_agent(bench: &Bench, http2: Http2, sizes: &[usize], report: &mut Report) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = Pki::generate(dir.path())?;
    let upstream = Upstream::start(&pki)?;
    let mut settings = http2.settings();
    settings.extend(SETTINGS.map(String::from));
    let servers = [
        ("local".to_owned(), upstream.local),
        ("peer".to_owned(), upstream.peer),
    ];
    let agent = Subject::start(&bench.binary, &pki, dir.path(), &servers, &settings)?;
    let get = request()?;
    let to_agent = endpoint(agent.address, &pki)?;
    agent.wait_for_peer(&to_agent, &get).await?;
    let direct = Session::open(&[endpoint(upstream.peer, &pki)?], 1).await?;
    // What the first requests of all need, the connections to the server above all, is not the connections'.
    let one = Session::open(std::slice::from_ref(&to_agent), 1).await?;
    median_and_tail(&one, &get, bench.duration).await?;
    let bare = (agent.memory()?, machine::socket_memory()?);
    let mut kept: Vec<Session> = Vec::new();
    // That one is the first of all: an agent at its limit accepts no other beside them.
    let mut count = 1;
    for &size in sizes {
        let share = (size - count).div_ceil(usize::from(LANES));
        let lanes = (0..LANES).map(|lane| {
            let share = share.min((size - count).saturating_sub(share * usize::from(lane)));
            Session::open_from(IpAddr::from([127, 0, 1, lane + 1]), &to_agent, share)
        });
        for session in try_join_all(lanes).await? {
            let answers = session.run_each(&get).await;
            ensure!(answers.not_ok() == 0, "first requests: {answers:?}");
            kept.push(session);
        }
        count = size;
        sleep(SETTLES).await;
        let mut add = |subject: &str, what: &str, unit, value| {
            report.add(subject, &format!("connections_{size}_{what}"), unit, value);
        };
        let memory = kib_each(agent.memory()?, bare.0, size - 1);
        add(http2.subject, "kib_each", "KiB", memory);
        let sockets = kib_each(machine::socket_memory()?, bare.1, size - 1);
        add(http2.subject, "socket_kib_each", "KiB", sockets);
        let idle = agent.cpu(bench.duration).await?;
        add(http2.subject, "idle_cpu_ms_per_s", "ms/s", idle);
        let through = median_and_tail(&one, &get, bench.duration).await?;
        let without = median_and_tail(&direct, &get, bench.duration).await?;
        for (label, through, without) in
            [("p50", through.0, without.0), ("p99", through.1, without.1)]
        {
            add(http2.subject, &format!("get_{label}_us"), "us", through);
            add("direct", &format!("get_{label}_us"), "us", without);
            let ratio = format!("{}/direct", http2.subject);
            add(
                &ratio,
                &format!("get_{label}_ratio"),
                "x",
                through / without,
            );
        }
        println!("{}: {size} connections", http2.subject);
    }
    // They are all still there.
    for session in &kept {
        let answers = session.run_each(&get).await;
        ensure!(answers.not_ok() == 0, "last requests: {answers:?}");
    }
    Ok(())
}

/// Microseconds.
async fn median_and_tail(session: &Session, get: &Get, duration: Duration) -> Result<(f64, f64)> {
    let outcome = session.run(get, 1, Limit::duration(duration)).await;
    ensure!(outcome.answers.not_ok() == 0, "{:?}", outcome.answers);
    let latency = outcome.latency;
    Ok((latency.micros(0.5), latency.micros(0.99)))
}
