//! Two connections joined: what do sockmap and splice(2) cost against copying?
//!
//! Client and server are threads of this process, the proxy is a third, and all of them talk over loopback. Modes take turns in
//! every round, in an order that rotates; ratios are to `copy` of the same round. CPU is that of the whole machine (`/proc/stat`),
//! since sockmap's work is done by kernel workers that no process and no cgroup is charged for: nothing else may run meanwhile.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use mvp::kernel::Splice;
use mvp::splice::{Limits, Mode, Splicer};

use super::report::Report;
use crate::pairs::{
    PATIENCE, PairProxy, WINDOW, eventually, pattern, receive_acknowledging, send_acknowledged,
};

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Also write the rows to this file, as a JSON array
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Rounds; every mode is measured once in each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Gigabytes that each mode moves in a round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    pub gigabytes: u64,
    /// Round trips of a small message that each mode makes in a round
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub round_trips: u32,
}

/// Runs the benchmark and prints its table.
pub fn run(options: &Options) -> Result<()> {
    let kernel = match Splice::load() {
        Ok(kernel) => Some(kernel),
        Err(error) => {
            println!("sockmap is not measured: {error}");
            None
        }
    };
    let modes: Vec<Mode> = Mode::ALL
        .into_iter()
        .filter(|&mode| mode != Mode::Sockmap || kernel.is_some())
        .collect();
    println!(
        "{} rounds; {} GB one way, {} round trips of {MESSAGE} bytes; CPU: whole machine (/proc/stat)",
        options.rounds, options.gigabytes, options.round_trips
    );
    let mut report = Report::new("splice");
    for round in 0..options.rounds as usize {
        let mut figures = Vec::with_capacity(modes.len());
        for at in 0..modes.len() {
            let mode = modes[(at + round) % modes.len()];
            figures.push((mode, measure(mode, kernel.as_ref(), options)?));
        }
        record(&mut report, &figures);
    }
    print!("{}", report.table());
    let mut rows = report.rows();
    if kernel.is_some() {
        println!("\nthe short-cut between two sockets of this machine, on and off");
        let report = super::shortcut::run(options)?;
        print!("{}", report.table());
        rows.extend(report.rows());
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(file, text).with_context(|| format!("file {}", file.display()))?;
    }
    Ok(())
}

pub(super) const MESSAGE: usize = 64;
pub(super) const GIGABYTE: u64 = 1_000_000_000;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Clone, Copy)]
struct Figures {
    cpu_per_gb: f64,
    gb_per_second: f64,
    round_trip: Duration,
}

fn record(report: &mut Report, figures: &[(Mode, Figures)]) {
    for (mode, f) in figures {
        let mut add = |metric, unit, value| report.add(mode.name(), metric, unit, value);
        add("cpu_per_gb", "s", f.cpu_per_gb);
        add("gb_per_s", "GB/s", f.gb_per_second);
        add("rtt_p50", "us", f.round_trip.as_secs_f64() * 1e6);
    }
    let Some((_, copy)) = figures.iter().find(|(mode, _)| *mode == Mode::Copy) else {
        return;
    };
    for (mode, f) in figures.iter().filter(|(mode, _)| *mode != Mode::Copy) {
        let mut add = |metric, value| report.add(mode.name(), metric, "ratio", value);
        add("cpu_per_gb_ratio", f.cpu_per_gb / copy.cpu_per_gb);
        add(
            "rtt_p50_ratio",
            f.round_trip.as_secs_f64() / copy.round_trip.as_secs_f64(),
        );
    }
}

fn measure(mode: Mode, kernel: Option<&Splice>, options: &Options) -> Result<Figures> {
    let splicer = Arc::new(Splicer::new(kernel.cloned(), 16));
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    let server = listener.local_addr()?;
    let limits = Limits::default();
    let proxy = PairProxy::start(LOOPBACK, server, Arc::clone(&splicer), mode, limits);
    let open = || -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(proxy.address)?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        if mode == Mode::Sockmap {
            eventually("joined in the kernel", || splicer.in_kernel() == 1);
        }
        Ok((client, server))
    };

    let (client, server) = open()?;
    let round_trip = round_trips(client, server, options.round_trips)?;
    expect_mode(&proxy, mode)?;

    let (client, server) = open()?;
    let bytes = options.gigabytes * GIGABYTE;
    let (cpu, started) = (machine_cpu()?, Instant::now());
    one_way(client, server, bytes)?;
    let (cpu, elapsed) = (machine_cpu()? - cpu, started.elapsed().as_secs_f64());
    expect_mode(&proxy, mode)?;
    let gigabytes = options.gigabytes as f64;
    Ok(Figures {
        cpu_per_gb: cpu / gigabytes,
        gb_per_second: gigabytes / elapsed,
        round_trip,
    })
}

/// A figure counts only if it was that mode from the first byte to the last.
fn expect_mode(proxy: &PairProxy, mode: Mode) -> Result<()> {
    let outcome = proxy.outcome();
    ensure!(
        outcome.mode == mode && outcome.reason.is_none(),
        "{} was not what moved the bytes: {outcome:?}",
        mode.name()
    );
    Ok(())
}

pub(super) fn round_trips(
    mut client: TcpStream,
    mut server: TcpStream,
    count: u32,
) -> Result<Duration> {
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut message = [0; MESSAGE];
        while server.read_exact(&mut message).is_ok() {
            server.write_all(&message)?;
        }
        Ok(())
    });
    let mut times = Vec::with_capacity(count as usize);
    let mut message = [7; MESSAGE];
    for _ in 0..count {
        let started = Instant::now();
        client.write_all(&message)?;
        client.read_exact(&mut message)?;
        times.push(started.elapsed());
    }
    drop(client);
    join(echo)?;
    times.sort_unstable();
    Ok(times[times.len() / 2])
}

/// Checked bytes, with a reader that says how far it is: sockmap takes a pair out of the kernel that is too far ahead.
pub(super) fn one_way(mut client: TcpStream, mut server: TcpStream, bytes: u64) -> Result<()> {
    let pattern = pattern();
    let sender = thread::spawn({
        let pattern = Arc::clone(&pattern);
        move || -> std::io::Result<()> {
            send_acknowledged(&mut client, &pattern, bytes)?;
            client.shutdown(Shutdown::Write)?;
            // Until the other end has ended too.
            client.read(&mut [0; 1]).map(drop)
        }
    });
    receive_acknowledging(&mut server, &pattern, bytes)
        .with_context(|| format!("reading, acknowledged every {WINDOW} bytes"))?;
    drop(server);
    join(sender)
}

fn join(thread: thread::JoinHandle<std::io::Result<()>>) -> Result<()> {
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(_) => bail!("a thread of the benchmark panicked"),
    }
}

/// Seconds that all CPUs together have been busy.
pub(super) fn machine_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("file /proc/stat")?;
    busy_ticks(&stat)
        .map(|ticks| ticks as f64 / 100.0)
        .context("/proc/stat has another shape than proc(5) says")
}

/// The first line without idle, iowait and what guests used (which is part of user time already), in hundredths of a second.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = fields
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_not_idle() {
        let stat = "cpu  10 20 30 4000 500 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_ticks(stat), Some(10 + 20 + 30 + 6 + 7));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
        assert_eq!(busy_ticks("intr 1"), None);
    }
}
