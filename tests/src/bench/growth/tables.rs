//! What the agent computes whenever a server's document changes, called in this process: reading a document, building the route table,
//! merging, encoding; and what it does for each request, a lookup.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use mvp::api::{ApiSet, Key};
use mvp::config::Endpoint;
use mvp::document::{Document, Form, Input, Layout, Media, Priorities, Root, encode_root, merge};
use mvp::route::{Knowledge, Member, RouteTable, Server};

use super::millis;
use crate::bench::discovery::discovery_call;
use crate::bench::report::{Report, median};
use crate::load::{Call, Client};

/// The subject of these rows: no process and no network is between.
const IN_PROCESS: &str = "in_process";
/// Each computation is repeated for so long, and at least so often; the median counts.
const ENOUGH: Duration = Duration::from_millis(200);
const FEWEST: usize = 3;
/// Lookups that are timed together: one alone takes less than reading the clock.
const BATCH: usize = 1_024;
/// Batches of lookups.
const BATCHES: usize = 200;

/// What one server says that it serves.
#[derive(Clone)]
pub(super) struct Documents {
    core: Bytes,
    groups: Bytes,
}

/// Asks a server.
///
/// # Errors
/// It does not answer with both documents.
pub(super) async fn documents(client: &Client) -> Result<Documents> {
    let mut both = Vec::new();
    for root in ["/api", "/apis"] {
        let call = Call {
            path: root.into(),
            ..discovery_call(None)?
        };
        let reply = client.send(&call).await?;
        ensure!(reply.status == 200, "{root}: {}", reply.status);
        both.push(reply.body);
    }
    let groups = both.pop().context("two documents")?;
    let core = both.pop().context("two documents")?;
    Ok(Documents { core, groups })
}

/// Adds the rows `PREFIX_*` for servers with these documents.
///
/// # Errors
/// A document cannot be read.
pub(super) fn measure(prefix: &str, servers: &[Documents], report: &mut Report) -> Result<()> {
    let mut add = |what: &str, unit, value| {
        report.add(IN_PROCESS, &format!("{prefix}_{what}"), unit, value);
    };
    let first = servers.first().context("no server")?;
    add("read_ms", "ms", time(|| read(&first.groups, Root::Groups)));
    let mut groups = Vec::new();
    let mut members = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let core = read(&server.core, Root::Core)?;
        let others = read(&server.groups, Root::Groups)?;
        let mut entries = core.entries();
        entries.extend(others.entries());
        members.push(member(index, ApiSet::new(entries)));
        groups.push(others);
    }
    let table = RouteTable::build(1, members.clone());
    add("keys", "count", table.entries().count() as f64);
    add(
        "table_build_ms",
        "ms",
        time(|| RouteTable::build(1, members.clone())),
    );
    add("lookup_p50_ns", "ns", lookup(&table)?);
    let inputs: Vec<_> = groups
        .iter()
        .map(|document| Input {
            document,
            alive: true,
        })
        .collect();
    let priorities = Priorities::default();
    let merged = merge(&inputs, &priorities);
    add("merge_ms", "ms", time(|| merge(&inputs, &priorities)));
    let encode = || encode_root(&merged, Form::V2, Media::Json, Layout::Compact);
    add("document_kib", "KiB", encode().len() as f64 / 1024.0);
    add("encode_ms", "ms", time(encode));
    Ok(())
}

fn read(document: &[u8], root: Root) -> Result<Document> {
    Ok(Document::aggregated(document, root)?)
}

fn member(index: usize, apis: ApiSet) -> Member {
    let endpoint = Endpoint {
        name: format!("cp-{index}"),
        host: "127.0.0.1".into(),
        port: 6443,
    };
    Member {
        server: Arc::new(Server::new(endpoint, index == 0)),
        apis: Some(Arc::new(apis)),
        knowledge: Knowledge::Confirmed,
        published: None,
    }
}

/// Milliseconds, the median.
fn time<T>(mut compute: impl FnMut() -> T) -> f64 {
    let mut times = Vec::new();
    let begun = Instant::now();
    while times.len() < FEWEST || begun.elapsed() < ENOUGH {
        let start = Instant::now();
        let value = black_box(compute());
        times.push(millis(start.elapsed()));
        // What it takes to drop it is not what was asked.
        drop(value);
    }
    median(times)
}

/// Nanoseconds of one lookup: the median over batches of keys that lie far apart.
fn lookup(table: &RouteTable) -> Result<f64> {
    let keys: Vec<Key<'_>> = table.entries().map(mvp::route::Entry::key).collect();
    ensure!(!keys.is_empty(), "the table is empty");
    // A prime above any number of keys here visits all of them, and no two neighbours.
    let mut order = (0_usize..).map(|turn| turn.wrapping_mul(1_000_003) % keys.len());
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let batch: Vec<_> = order.by_ref().take(BATCH).map(|at| keys[at]).collect();
        let start = Instant::now();
        let found = batch
            .iter()
            .filter(|key| table.lookup(black_box(**key)).is_some())
            .count();
        times.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
        ensure!(found == BATCH, "a key of the table is not found in it");
    }
    Ok(median(times))
}
