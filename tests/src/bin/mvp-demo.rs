//! `mvp-demo`: what a client of a control plane sees during an upgrade, without and with the agents.

use std::process::ExitCode;

use clap::Parser;
use mvp_tests::demo::{Options, run};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A progress line may still be open.
            eprintln!("\nmvp-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
