//! What moves the bytes: as the configuration says, or as this machine does it best.

use mvp::config::SpliceMode;
use mvp::kernel::Splice;
use mvp::splice::selftest;
use mvp_tests::agent::{TestAgent, eventually};
use mvp_tests::fixtures::{ONLY_36, SOON, plane};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde_json::Value;

use crate::common::{mixed, relayed, relaying};

/// What the agent's status says about relays.
async fn status(agent: &TestAgent) -> anyhow::Result<Value> {
    let (_, body) = agent.admin_get("/status").await?;
    Ok(serde_json::from_str::<Value>(&body)?["relay"].clone())
}

#[tokio::test]
async fn auto_measures_and_then_relays_in_the_best_mode() {
    let (plane, agent) = mixed(|config| config.kernel.splice = SpliceMode::Auto).await;
    eventually("the machine has been measured", SOON, || async {
        let why = status(&agent).await?["why"]
            .as_str()
            .unwrap_or("")
            .to_owned();
        Ok(why.contains("copy: ") && why.contains("us a message"))
    })
    .await
    .unwrap();
    let mode = status(&agent).await.unwrap()["mode"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut able = vec!["splice", "copy"];
    match sockmap_fails().await {
        None => able.push("sockmap"),
        Some(why) => println!("falls back: {why}"),
    }
    assert!(able.contains(&&*mode), "{mode}");
    carries(&plane, &agent, &mode).await;
}

#[tokio::test]
async fn a_mode_of_userspace_is_used_as_configured() {
    for (mode, name) in [(SpliceMode::Splice, "splice"), (SpliceMode::Copy, "copy")] {
        let (plane, agent) = mixed(|config| config.kernel.splice = mode).await;
        assert_eq!(status(&agent).await.unwrap()["mode"], name);
        carries(&plane, &agent, name).await;
    }
}

#[tokio::test]
async fn sockmap_is_used_where_it_works_and_refused_where_not() {
    let plane = plane(&[35, 36]).await;
    let change = |config: &mut mvp::config::Config| {
        relaying(config);
        config.kernel.splice = SpliceMode::Sockmap;
    };
    let works = sockmap_fails().await.is_none();
    match TestAgent::start_with(&plane, "cp-a", change).await {
        Ok(agent) => {
            assert!(works);
            assert_eq!(status(&agent).await.unwrap()["mode"], "sockmap");
            carries(&plane, &agent, "sockmap").await;
        }
        Err(error) => {
            println!("sockmap does not work here: {error:#}");
            assert!(!works);
            assert!(format!("{error:#}").starts_with("kernel.splice: "));
        }
    }
    // Without privileges it works nowhere.
    let refused = std::thread::scope(|scope| {
        let start = || {
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, none).unwrap();
            TestAgent::start_unready(&plane, "cp-a", change).err()
        };
        scope.spawn(start).join().unwrap()
    });
    let refused = format!("{:#}", refused.expect("started without privileges"));
    assert!(refused.starts_with("kernel.splice: "), "{refused}");
    assert_eq!(refused.lines().count(), 1, "{refused}");
}

/// Why this kernel cannot be trusted with connections, if so.
async fn sockmap_fails() -> Option<String> {
    match Splice::load() {
        Ok(kernel) => {
            let report = selftest::run(&kernel).await;
            report.failure().map(|_| report.to_string())
        }
        Err(error) => Some(error.to_string()),
    }
}

/// A connection is relayed, answers, and has been moved in this mode.
async fn carries(plane: &mvp_tests::sim::ControlPlane, agent: &TestAgent, mode: &str) {
    let client = relayed(plane, agent).await;
    for _ in 0..5 {
        let answer = client.get(ONLY_36, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    drop(client);
    let sample = format!("mvp_spliced_connections_total{{mode=\"{mode}\"}}");
    eventually(&sample, SOON, || async {
        Ok(agent.metric(&sample).await? == 1.0)
    })
    .await
    .unwrap();
    let bytes = "mvp_kernel_events_total{event=\"splice_bytes\"}";
    let moved = agent.metric(bytes).await.unwrap();
    assert!(
        mode != "sockmap" || moved > 0.0,
        "the kernel counts what it moved"
    );
}
