//! The `mvp` command once more, built with the tests so that they find it: cargo names a package's own binaries only.

use std::process::ExitCode;

fn main() -> ExitCode {
    mvp::cli::main(mvp::app::run)
}
