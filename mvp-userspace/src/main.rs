//! The `mvp` command. Everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mvp::cli::main(mvp::app::run)
}
