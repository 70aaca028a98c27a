//! More and more servers, of one version and of two.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::time::sleep;

use super::subject::{Subject, client};
use super::{Bench, mib, millis, tables};
use crate::bench::report::Report;
use crate::bench::servers::Servers;
use crate::sim::ServerSpec;

const SIZES: [usize; 4] = [1, 4, 16, 64];
const QUICK: usize = 16;
/// Requests that a simulated server keeps for tests, of which there are none here.
const LOG: usize = 16;
/// After an agent is ready, until its figures are those of an idle one: the first polls are over, and memory that they took is given back.
const SETTLES: Duration = Duration::from_secs(2);

pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for size in bench.sizes(&SIZES, QUICK) {
        for (plane, minors) in [("one_version", [36, 36]), ("two_versions", [35, 36])] {
            if size == 1 && plane == "two_versions" {
                continue;
            }
            let prefix = format!("servers_{size}_{plane}");
            of_size(bench, size, minors, &prefix, &runtime, report)
                .with_context(|| prefix.clone())?;
            println!("{prefix}");
        }
    }
    Ok(())
}

fn of_size(
    bench: &Bench,
    size: usize,
    minors: [u8; 2],
    prefix: &str,
    runtime: &Runtime,
    report: &mut Report,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let specs = (1..=size).zip(minors.into_iter().cycle());
    let specs = specs.map(|(number, minor)| {
        // An address of its own, as each server of a control plane has.
        let host = u8::try_from(number).unwrap_or(u8::MAX);
        ServerSpec::new(&format!("cp-{number}"), minor)
            .listen(([127, 0, 2, host], 0).into())
            .log_capacity(LOG)
    });
    let servers = Servers::start(dir.path(), specs.collect(), Vec::new())?;
    let agent = Subject::start(&bench.binary, &servers.pki, dir.path(), &servers.all, &[])?;
    let mut add = |what: &str, unit, value| {
        report.add("mvp", &format!("{prefix}_{what}"), unit, value);
    };
    add("ready_ms", "ms", millis(agent.ready));
    runtime.block_on(async { sleep(SETTLES).await });
    add("memory_mib", "MiB", mib(agent.memory()?));
    let idle = runtime.block_on(agent.cpu(bench.duration))?;
    add("idle_cpu_ms_per_s", "ms/s", idle);
    drop(agent);
    let mut documents = Vec::new();
    for (_, address) in &servers.all {
        let client = client(*address, &servers.pki)?;
        documents.push(runtime.block_on(tables::documents(&client))?);
    }
    tables::measure(prefix, &documents, report)
}
