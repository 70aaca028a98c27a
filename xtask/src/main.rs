//! `cargo xtask VERB`: builds, tests, checks and measures mvp. There is one file for each verb.

mod bench;
mod build;
mod build_ebpf;
mod check;
mod demo;
mod dependencies;
mod dist;
mod docs;
mod documented;
mod fuzz;
mod javascript;
mod kernels;
mod manifests;
mod promtool;
mod python;
mod rooms;
mod run;
mod setup;
mod test;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, test and measure mvp")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Args),
    BuildEbpf(build_ebpf::Args),
    Build(build::Args),
    Dist(dist::Args),
    Manifests(manifests::Args),
    Demo(demo::Args),
    Test(test::Args),
    Check(check::Args),
    Bench(bench::Args),
    Fuzz(fuzz::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().verb {
        Verb::Setup(args) => setup::main(&args),
        Verb::BuildEbpf(args) => build_ebpf::main(&args),
        Verb::Build(args) => build::main(&args),
        Verb::Dist(args) => dist::main(&args),
        Verb::Manifests(args) => manifests::main(&args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Test(args) => test::main(&args),
        Verb::Check(args) => check::main(&args),
        Verb::Bench(args) => bench::main(&args),
        Verb::Fuzz(args) => fuzz::main(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
