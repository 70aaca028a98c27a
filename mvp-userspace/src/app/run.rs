//! `mvp agent`: an agent in the foreground, until a signal drains it.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Agent;
use crate::config::Config;
use crate::drain::DrainTrigger;
use crate::logging;

/// What ends the agent, and what has it look at its files.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

/// Runs until SIGTERM, SIGINT or an operator's drain has ended the agent. SIGHUP makes it look at its files at once, as
/// operators expect of a daemon.
pub fn run(config: Config) -> anyhow::Result<()> {
    let wait_when_replaced = config.drain.wait_when_replaced;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the start, which takes a while: a signal that comes during it must not kill the process.
    let mut signals = {
        let _context = runtime.enter();
        Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        }
    };
    let agent = Agent::start(config, Box::new(logging::set_level))?;
    let (trigger, deadline) = agent.drain_trigger();
    let reload = agent.reload_trigger();
    let ends = trigger.clone();
    let (told, asked_to_end) = std::sync::mpsc::channel();
    // Ends with the process: after a first signal a second one forces.
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(async move {
                loop {
                    tokio::select! {
                        _ = signals.terminate.recv() => {}
                        _ = signals.interrupt.recv() => {}
                        _ = signals.hang_up.recv() => {
                            tracing::info!("SIGHUP: certificates, keys and CAs are looked at");
                            reload.notify_one();
                            continue;
                        }
                    }
                    // Nobody may be waiting for it.
                    let _ = told.send(());
                    if !trigger.drain(deadline) {
                        trigger.force();
                    }
                }
            });
        })?;
    agent.wait();
    if wait_when_replaced && ends.is_replaced() {
        linger(&ends, &asked_to_end);
    }
    Ok(())
}

/// A supervisor that starts an agent again which ended by itself would have it take over from the one that replaced it.
fn linger(ends: &DrainTrigger, asked_to_end: &std::sync::mpsc::Receiver<()>) {
    tracing::info!(state = ?ends.state(), "replaced and drained: waiting for a signal to end");
    // An error: the thread that gets the signals is gone, and nobody could end this wait.
    let _ = asked_to_end.recv();
}
