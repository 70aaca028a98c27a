//! What a person sees while the demo runs: one line that changes, or on anything but a terminal a line for each step.

use std::io::{IsTerminal, Write, stdout};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::tally::Tally;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Progress {
    label: &'static str,
    start: Instant,
    tally: Arc<Tally>,
    step: Arc<Mutex<String>>,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(label: &'static str, tally: Arc<Tally>) -> Self {
        let terminal = stdout().is_terminal();
        Self {
            label,
            start: Instant::now(),
            tally,
            step: Arc::default(),
            terminal,
        }
    }

    /// A new step of the upgrade.
    pub(super) fn step(&self, what: String) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = what;
        self.print();
    }

    /// Keeps the line alive; for a task of its own.
    pub(super) async fn run(self) {
        if !self.terminal {
            return;
        }
        loop {
            self.print();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Leaves the last state on the screen.
    pub(super) fn finish(&self) {
        self.step("done".into());
        if self.terminal {
            println!();
        }
    }

    fn print(&self) {
        let (requests, false_404, errors) = self.tally.totals();
        let step = self
            .step
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let line = format!(
            "{:<15} {:>5.1} s  {step:<28} {requests:>6} requests  {false_404:>5} false 404s  {errors:>5} errors",
            self.label,
            self.start.elapsed().as_secs_f64()
        );
        let mut out = stdout().lock();
        // Nobody is left to tell if standard output is closed.
        let _ = match self.terminal {
            true => write!(out, "\r{line}\x1b[K"),
            false => writeln!(out, "{line}"),
        };
        let _ = out.flush();
    }
}
