//! A loopback connection as between the agent and the server beside it: with the short-cut past TCP and without.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::{Result, ensure};
use mvp::kernel::Shortcut;
use mvp_common::Counter;
use socket2::{Domain, Protocol, Socket, Type};

use super::report::Report;
use super::splice::{GIGABYTE, MESSAGE, Options, machine_cpu, one_way, round_trips};
use crate::cgroup;
use crate::pairs::PATIENCE;

/// The address that the agent's end has, here.
const AGENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// Measures it, or says why it cannot be.
pub fn run(options: &Options) -> Result<Report> {
    let mut report = Report::new("shortcut");
    for round in 0..options.rounds {
        // By turns one or the other begins.
        let order = if round % 2 == 0 {
            [true, false]
        } else {
            [false, true]
        };
        let mut figures = [None, None];
        for on in order {
            figures[usize::from(on)] = Some(measure(on, options)?);
        }
        let [Some(off), Some(on)] = figures else {
            continue;
        };
        for (subject, f) in [("off", off), ("on", on)] {
            report.add(subject, "rtt_p50", "us", f.round_trip);
            report.add(subject, "gb_per_s", "GB/s", f.gb_per_second);
            report.add(subject, "cpu_per_gb", "s", f.cpu_per_gb);
        }
        report.add(
            "on",
            "rtt_p50_ratio",
            "ratio",
            on.round_trip / off.round_trip,
        );
        report.add(
            "on",
            "gb_per_s_ratio",
            "ratio",
            on.gb_per_second / off.gb_per_second,
        );
        report.add(
            "on",
            "cpu_per_gb_ratio",
            "ratio",
            on.cpu_per_gb / off.cpu_per_gb,
        );
    }
    Ok(report)
}

#[derive(Clone, Copy)]
struct Figures {
    /// In microseconds.
    round_trip: f64,
    gb_per_second: f64,
    /// In seconds.
    cpu_per_gb: f64,
}

fn measure(on: bool, options: &Options) -> Result<Figures> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let server = listener.local_addr()?;
    let shortcut = if on {
        Some(Shortcut::load(AGENT, server.port(), cgroup::root()?)?)
    } else {
        None
    };
    let open = || -> Result<(TcpStream, TcpStream)> {
        let mut client = connect(server)?;
        let (mut near, _) = listener.accept()?;
        for stream in [&client, &near] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
        }
        let mut message = [0; MESSAGE];
        client.write_all(&message)?;
        near.read_exact(&mut message)?;
        near.write_all(&message)?;
        client.read_exact(&mut message)?;
        Ok((client, near))
    };
    let (client, near) = open()?;
    let round_trip = round_trips(client, near, options.round_trips)?;
    let (client, near) = open()?;
    let (cpu, started) = (machine_cpu()?, Instant::now());
    one_way(client, near, options.gigabytes * GIGABYTE)?;
    let (cpu, elapsed) = (machine_cpu()? - cpu, started.elapsed().as_secs_f64());
    if let Some(shortcut) = shortcut {
        let slow = shortcut.counters()?.get(Counter::ShortcutSlow);
        ensure!(slow == 0, "{slow} messages did not take the short-cut");
    }
    let gigabytes = options.gigabytes as f64;
    Ok(Figures {
        round_trip: round_trip.as_secs_f64() * 1e6,
        gb_per_second: gigabytes / elapsed,
        cpu_per_gb: cpu / gigabytes,
    })
}

fn connect(server: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((AGENT, 0)).into())?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}
