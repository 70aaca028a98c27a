//! A simulation of Kubernetes' own mixed version proxy: a process beside each server, and so two hops for what only the second one has,
//! with authentication on both. What real kube-apiservers took is a target; what the two processes take by themselves is measured first,
//! and the rest is work and waiting that they add to each forwarded request.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Ground, Started};
use crate::bench::process::Process;
use crate::bench::target::{LOADS, Load, Target as Loaded, request};
use crate::bench::usage;
use crate::load::{Limit, Session};
use crate::ports::free_port;

/// What a forwarded request costs more than a direct one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Target {
    /// Median, with one connection and one request at a time.
    pub added: Duration,
    /// CPU per request of both servers together, with 16 connections of 4 requests each.
    pub cpu: Duration,
}

/// What is added to each forwarded request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Extra {
    /// CPU time, on each of the two hops.
    pub work: Duration,
    /// Without CPU, once.
    pub wait: Duration,
}

/// For each of the two loads that the calibration needs.
const CALIBRATION: Duration = Duration::from_millis(500);

impl Target {
    /// Measured on kube-apiserver 1.33 to 1.36 on two cores: with the feature gate UnknownVersionInteroperabilityProxy a small GET took
    /// 831 us more than direct, and 289 us of CPU.
    pub(crate) const MEASURED: Self = Self {
        added: Duration::from_micros(831),
        cpu: Duration::from_micros(289),
    };

    /// What is missing to it when the processes take `own` by themselves.
    pub(crate) fn missing(self, own: Self) -> Extra {
        let work = self.cpu.saturating_sub(own.cpu) / 2;
        let taken = own.added + 2 * work;
        Extra {
            work,
            wait: self.added.saturating_sub(taken),
        }
    }
}

pub(super) fn start(ground: &Ground<'_>) -> Result<Started> {
    let own = measure(ground)?;
    let extra = Target::MEASURED.missing(own);
    let (address, processes) = chain(ground, extra)?;
    let micros = |time: Duration| time.as_micros();
    Ok(Started {
        address,
        version: String::from("simulated"),
        setup: format!(
            "Simulated: two chained processes, TLS on each hop, which take {} us more than direct and {} us of CPU by themselves; {} us of work on \
             each hop and {} us of waiting are added to reach what real kube-apiservers took ({} and {} us).",
            micros(own.added),
            micros(own.cpu),
            micros(extra.work),
            micros(extra.wait),
            micros(Target::MEASURED.added),
            micros(Target::MEASURED.cpu),
        ),
        processes,
        relaying: None,
    })
}

/// The one beside the first server, where clients connect, and the one beside the second.
fn chain(ground: &Ground<'_>, extra: Extra) -> Result<(SocketAddr, Vec<Process>)> {
    let (first, second) = (free_port("127.0.0.1")?, free_port("127.0.0.1")?);
    let beside_second = hop(
        "native-second",
        second,
        ground.upstream.peer,
        &[],
        extra,
        ground,
    )?;
    let peers = [("second", second)];
    let beside_first = hop(
        "native-first",
        first,
        ground.upstream.local,
        &peers,
        extra,
        ground,
    )?;
    Ok((first, vec![beside_first, beside_second]))
}

fn hop(
    name: &str,
    listen: SocketAddr,
    own: SocketAddr,
    peers: &[(&str, SocketAddr)],
    extra: Extra,
    ground: &Ground<'_>,
) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("native").arg("--pki").arg(ground.pki.dir());
    command.args(["--listen", &listen.to_string()]);
    command.args(["--own", &own.to_string()]);
    for (_, peer) in peers {
        command.args(["--peer", &peer.to_string()]);
    }
    command.args(["--threads", &ground.threads.to_string()]);
    command.args(["--work-us", &extra.work.as_micros().to_string()]);
    command.args(["--wait-us", &extra.wait.as_micros().to_string()]);
    let mut process = Process::start(name, command, ground.dir)?;
    process.wait_listening(listen)?;
    Ok(process)
}

/// What the processes take without anything added.
fn measure(ground: &Ground<'_>) -> Result<Target> {
    let (address, processes) = chain(ground, Extra::default())?;
    let ids: Vec<u32> = processes.iter().map(Process::id).collect();
    let mut through = Loaded::new("native, calibration", address, ground.pki, None)?;
    let direct = Loaded::new(
        "direct, calibration",
        ground.upstream.peer,
        ground.pki,
        None,
    )?;
    let get = request()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        through.wait_for_peer(&get).await?;
        let [one, many] = LOADS;
        let run = async |target: &Loaded, load: Load| {
            let session =
                Session::open(std::slice::from_ref(&target.endpoint), load.connections).await?;
            let limit = Limit::duration(CALIBRATION);
            anyhow::Ok(session.run(&get, load.streams, limit).await)
        };
        let bare = run(&direct, one).await?.latency.micros(0.5);
        let added = run(&through, one).await?.latency.micros(0.5) - bare;
        let before = usage::cpu(&ids)?;
        let answers = run(&through, many).await?.answers.total();
        let cpu = usage::cpu(&ids)?.saturating_sub(before);
        Ok(Target {
            added: Duration::from_secs_f64(added.max(0.0) / 1e6),
            cpu: cpu.div_f64(answers.max(1) as f64),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn micros(added: u64, cpu: u64) -> Target {
        Target {
            added: Duration::from_micros(added),
            cpu: Duration::from_micros(cpu),
        }
    }

    #[test]
    fn what_is_added_is_what_is_missing() {
        let extra = micros(831, 289).missing(micros(231, 89));
        assert_eq!(extra.work, Duration::from_micros(100));
        assert_eq!(extra.wait, Duration::from_micros(831 - 231 - 200));
    }

    #[test]
    fn nothing_is_added_where_more_than_the_target_is_taken() {
        assert_eq!(micros(831, 289).missing(micros(900, 300)), Extra::default());
        let extra = micros(831, 289).missing(micros(800, 89));
        assert_eq!(extra.work, Duration::from_micros(100));
        assert_eq!(extra.wait, Duration::ZERO);
    }
}
