//! `mvp agent`: an agent in the foreground, until a signal drains it.

use tokio::signal::unix::{SignalKind, signal};

use super::Agent;
use crate::cli::logging;
use crate::config::Config;

/// Runs until SIGTERM or SIGINT has drained the agent, or its admin port was told to.
pub fn run(config: Config) -> anyhow::Result<()> {
    let agent = Agent::start(config, Box::new(logging::set_level))?;
    let (trigger, deadline) = agent.drain_trigger();
    let signals = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (mut terminate, mut interrupt) = {
        let _context = signals.enter();
        (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        )
    };
    // Ends with the process: after a first signal a second one forces.
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            signals.block_on(async move {
                loop {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                    if !trigger.drain(deadline) {
                        trigger.force();
                    }
                }
            });
        })?;
    agent.wait();
    Ok(())
}
