//! More and more CustomResourceDefinitions on two servers, of one version and of two.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::subject::{Subject, client};
use super::{Bench, RATIO, mib, millis, tables};
use crate::bench::discovery::{discovery_call, etag};
use crate::bench::report::Report;
use crate::bench::servers::Servers;
use crate::fixtures::{DEFINITIONS, definition};
use crate::load::{Call, Client, Latency};
use crate::sim::ServerSpec;

const SIZES: [usize; 3] = [100, 1_000, 10_000];
const QUICK: usize = 1_000;
/// Types of one group.
const OF_GROUP: usize = 20;
const LOG: usize = 16;
/// After an agent is ready, until memory that the first polls took is given back.
const SETTLES: Duration = Duration::from_secs(2);
/// Documents that are read one after another.
const READS: u32 = 20;
/// Definitions that are created for each of the two subjects: at least the first number, which is enough for a quick run, and then as many as
/// fit into the time, since a simulated server with thousands of types takes seconds for one.
const CREATED: std::ops::RangeInclusive<usize> = 5..=30;
const CREATING: Duration = Duration::from_secs(15);
/// Between two looks for a new type, and from one new type to the next.
const LOOK: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_millis(100);
/// Whatever takes longer will not come.
const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for size in bench.sizes(&SIZES, QUICK) {
        for (plane, minors) in [("one_version", [36, 36]), ("two_versions", [35, 36])] {
            let prefix = format!("types_{size}_{plane}");
            let measured = of_size(bench, size, minors, &prefix, report);
            runtime.block_on(measured).with_context(|| prefix.clone())?;
            println!("{prefix}");
        }
    }
    Ok(())
}

async fn of_size(
    bench: &Bench,
    size: usize,
    minors: [u8; 2],
    prefix: &str,
    report: &mut Report,
) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let specs = ["cp-a", "cp-b"].iter().zip(minors);
    let specs = specs.map(|(name, minor)| ServerSpec::new(name, minor).log_capacity(LOG));
    let definitions = (0..size).map(|number| custom("grown", number)).collect();
    let servers = Servers::start(dir.path(), specs.collect(), definitions)?;
    let agent = Subject::start(&bench.binary, &servers.pki, dir.path(), &servers.all, &[])?;
    report.add(
        "mvp",
        &format!("{prefix}_ready_ms"),
        "ms",
        millis(agent.ready),
    );
    sleep(SETTLES).await;
    let memory = mib(agent.memory()?);
    report.add("mvp", &format!("{prefix}_memory_mib"), "MiB", memory);
    let idle = agent.cpu(bench.duration).await?;
    report.add("mvp", &format!("{prefix}_idle_cpu_ms_per_s"), "ms/s", idle);
    let [(_, local), (_, peer)] = &servers.all[..] else {
        bail!("two servers");
    };
    let through = client(agent.address, &servers.pki)?;
    let all = [client(*local, &servers.pki)?, client(*peer, &servers.pki)?];
    read_documents(prefix, &all[0], &through, report).await?;
    let mut documents = Vec::new();
    for server in &all {
        documents.push(tables::documents(server).await?);
    }
    tables::measure(prefix, &documents, report)?;
    let listed = created(bench.quick, prefix, &all[1], &through, report).await;
    listed.with_context(|| agent.output())
}

/// The latency of `GET /apis`, whole and by its ETag. Subjects take turns.
async fn read_documents(
    prefix: &str,
    direct: &Client,
    through: &Client,
    report: &mut Report,
) -> Result<()> {
    let subjects = [("direct", direct), ("mvp", through)];
    for (status, conditional) in [(200_u16, false), (304, true)] {
        let mut seen = [Latency::new(), Latency::new()];
        for _ in 0..READS {
            for ((subject, client), latency) in subjects.iter().zip(&mut seen) {
                let known = match conditional {
                    true => etag(&client.send(&discovery_call(None)?).await?),
                    false => None,
                };
                let start = Instant::now();
                let reply = client.send(&discovery_call(known.as_deref())?).await?;
                latency.record(start.elapsed());
                ensure!(reply.status == status, "{subject}: {}", reply.status);
            }
        }
        add_both(
            report,
            &format!("{prefix}_discovery_{status}"),
            &seen,
            0.5,
            "p50",
        );
    }
    Ok(())
}

/// How long after the answer to its creation a type can be listed: at the server that created it, and through an agent whose own server is
/// another one. Each has definitions of its own, so that neither waits for the other.
async fn created(
    quick: bool,
    prefix: &str,
    server: &Client,
    through: &Client,
    report: &mut Report,
) -> Result<()> {
    let mut seen = [Latency::new(), Latency::new()];
    let begun = Instant::now();
    for number in 0..*CREATED.end() {
        if number >= *CREATED.start() && (quick || begun.elapsed() > CREATING) {
            break;
        }
        for (index, client) in [server, through].into_iter().enumerate() {
            let group = ["direct", "agent"][index];
            let made = Call::create(DEFINITIONS, &custom(group, number));
            let made = server.send(&made).await?;
            ensure!(made.status == 201, "creation: {}", made.status);
            let start = Instant::now();
            let path = path(group, number);
            while client.send(&Call::get(&path)).await?.status != 200 {
                ensure!(start.elapsed() < LIMIT, "{path} is not listed");
                sleep(LOOK).await;
            }
            seen[index].record(start.elapsed());
            sleep(PAUSE).await;
        }
    }
    add_both(report, &format!("{prefix}_created"), &seen, 0.5, "p50");
    add_both(report, &format!("{prefix}_created"), &seen, 0.99, "p99");
    Ok(())
}

/// A row of direct, one of the agent, and their ratio.
fn add_both(report: &mut Report, metric: &str, seen: &[Latency; 2], quantile: f64, label: &str) {
    let [direct, mvp] = seen
        .each_ref()
        .map(|latency| latency.micros(quantile) / 1e3);
    report.add("direct", &format!("{metric}_{label}_ms"), "ms", direct);
    report.add("mvp", &format!("{metric}_{label}_ms"), "ms", mvp);
    report.add(RATIO, &format!("{metric}_{label}_ratio"), "x", mvp / direct);
}

/// The definition with this number of a family, with a status subresource, as most have.
fn custom(family: &str, number: usize) -> Value {
    let (group, plural) = names(family, number);
    definition(
        &group,
        &plural,
        &format!("Thing{number}"),
        json!({"status": {}}),
    )
}

fn path(family: &str, number: usize) -> String {
    let (group, plural) = names(family, number);
    format!("/apis/{group}/v1/namespaces/default/{plural}")
}

fn names(family: &str, number: usize) -> (String, String) {
    let group = format!("g{}.{family}.growth.example.com", number / OF_GROUP);
    (group, format!("things{number}"))
}
