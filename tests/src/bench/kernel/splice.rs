//! Two connections joined: what do sockmap and splice(2) cost against copying?
//!
//! Client and server are threads of this process, the proxy is a third, and all of them talk over loopback. Modes take turns in
//! every round; ratios are to `copy` of the same round. CPU is that of the whole machine, what sender and reader cost included: see
//! `direct`, without a proxy.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mvp::kernel::Splice;
use mvp::splice::{Mode, PairLimits, Splicer};

use super::placement::{Place, at, both};
use super::{Options, rotated};
use crate::bench::machine;
use crate::bench::report::Report;
use crate::pairs::{
    PATIENCE, PairProxy, WINDOW, eventually, pattern, receive_acknowledging, send_acknowledged,
};

pub(super) fn run(options: &Options) -> Result<Report> {
    let kernel = Splice::load().context("the sockmap program")?;
    // Without a mode: no proxy in between.
    let subjects: Vec<Option<Mode>> = [None]
        .into_iter()
        .chain(Mode::ALL.into_iter().map(Some))
        .collect();
    println!(
        "{} GB one way, {} round trips of {MESSAGE} bytes",
        options.gigabytes, options.round_trips
    );
    let mut report = Report::new("splice");
    for round in 0..options.rounds {
        let mut figures = Vec::with_capacity(subjects.len());
        for mode in rotated(&subjects, round) {
            figures.push((mode, measure(mode, &kernel, options)?));
        }
        record(&mut report, &figures);
    }
    Ok(report)
}

pub(super) const MESSAGE: usize = 64;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

#[derive(Clone, Copy)]
struct Figures {
    cpu_per_gb: f64,
    gb_per_second: f64,
    round_trip: Duration,
}

fn record(report: &mut Report, figures: &[(Option<Mode>, Figures)]) {
    let of = |wanted| {
        let found = figures.iter().find(|(mode, _)| *mode == wanted);
        found.map(|(_, figures)| figures)
    };
    for subject in [None].into_iter().chain(Mode::ALL.map(Some)) {
        let Some(f) = of(subject) else { continue };
        let name = subject.map_or("direct", Mode::name);
        let mut add = |metric, unit, value| report.add(name, metric, unit, value);
        add("cpu_per_gb", "s", f.cpu_per_gb);
        add("gb_per_s", "GB/s", f.gb_per_second);
        add("rtt_p50_us", "us", f.round_trip.as_secs_f64() * 1e6);
    }
    let (Some(direct), Some(copy)) = (of(None), of(Some(Mode::Copy))) else {
        return;
    };
    for mode in [Mode::Sockmap, Mode::Splice] {
        let Some(f) = of(Some(mode)) else { continue };
        let subject = format!("{}/copy", mode.name());
        let mut add = |metric, value| report.add(&subject, metric, "x", value);
        add("cpu_per_gb_ratio", f.cpu_per_gb / copy.cpu_per_gb);
        add(
            "rtt_p50_ratio",
            f.round_trip.as_secs_f64() / copy.round_trip.as_secs_f64(),
        );
        // Without what sender and reader cost anyway. Too small a difference to divide by says nothing.
        let added = copy.cpu_per_gb - direct.cpu_per_gb;
        if added > 0.05 * copy.cpu_per_gb {
            let ratio = (f.cpu_per_gb - direct.cpu_per_gb) / added;
            add("added_cpu_per_gb_ratio", ratio);
        }
    }
}

fn measure(mode: Option<Mode>, kernel: &Splice, options: &Options) -> Result<Figures> {
    let listener = TcpListener::bind((LOOPBACK, 0))?;
    let server = listener.local_addr()?;
    let splicer = Arc::new(Splicer::new(Some(kernel.clone()), 16));
    let start = |mode| {
        let (splicer, limits) = (Arc::clone(&splicer), PairLimits::default());
        at(Place::Proxy, || {
            let proxy = PairProxy::start(LOOPBACK, server, splicer, mode, limits);
            Ok((mode, proxy))
        })
    };
    let proxy = mode.map(start).transpose()?;
    let to: SocketAddr = proxy.as_ref().map_or(server, |(_, proxy)| proxy.address);
    let open = || -> Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(to)?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        if mode == Some(Mode::Sockmap) {
            eventually("joined in the kernel", || splicer.in_kernel() == 1);
        }
        Ok((client, server))
    };
    let check = || {
        proxy
            .as_ref()
            .map_or(Ok(()), |(mode, proxy)| expect_mode(proxy, *mode))
    };

    let (client, server) = open()?;
    let round_trip = round_trips(client, server, options.round_trips)?;
    check()?;

    let (client, server) = open()?;
    let (cpu, started) = (machine::cpu()?, Instant::now());
    one_way(client, server, options.bytes())?;
    let (cpu, elapsed) = (machine::cpu()? - cpu, started.elapsed().as_secs_f64());
    check()?;
    ensure!(
        cpu > 0.0,
        "too few gigabytes: they took no hundredth of a second"
    );
    Ok(Figures {
        cpu_per_gb: cpu / options.gigabytes,
        gb_per_second: options.gigabytes / elapsed,
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

/// A blocking stream that reads on when there is nothing after all. A socket in a sockmap that waits for a message may be woken
/// by none and say EAGAIN long before its time (`tcp_bpf_recvmsg` in net/ipv4/tcp_bpf.c); who polls does not notice.
pub(super) struct Patient(pub(super) TcpStream);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut deadline = None;
        loop {
            match self.0.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    if now > *deadline.get_or_insert(now + PATIENCE) {
                        return Err(error);
                    }
                }
                other => return other,
            }
        }
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The median of `count` round trips of a small message.
pub(super) fn round_trips(client: TcpStream, server: TcpStream, count: u32) -> Result<Duration> {
    let (mut client, mut server) = (Patient(client), Patient(server));
    let ask = move || {
        let mut times = Vec::with_capacity(count as usize);
        let mut message = [7; MESSAGE];
        for _ in 0..count {
            let started = Instant::now();
            client.write_all(&message)?;
            client.read_exact(&mut message)?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    };
    let echo = move || {
        let mut message = [0; MESSAGE];
        while server.read_exact(&mut message).is_ok() {
            server.write_all(&message)?;
        }
        Ok(())
    };
    both(ask, echo)
}

/// Checked bytes, with a reader that says how far it is: sockmap takes a pair out of the kernel that is too far ahead.
pub(super) fn one_way(client: TcpStream, server: TcpStream, bytes: u64) -> Result<()> {
    let (mut client, mut server) = (Patient(client), Patient(server));
    let pattern = &pattern();
    let send = move || {
        send_acknowledged(&mut client, pattern, bytes)?;
        client.0.shutdown(Shutdown::Write)?;
        // Until the other end has ended too.
        Ok(client.read(&mut [0; 1]).map(drop)?)
    };
    let receive = move || {
        receive_acknowledging(&mut server, pattern, bytes)
            .with_context(|| format!("reading, acknowledged every {WINDOW} bytes"))
    };
    both(send, receive)
}
