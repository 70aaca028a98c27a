//! The `mvp` command. Everything is in the library.

use std::process::ExitCode;

/// A request costs some forty small allocations; glibc's allocator was 9 % of the agent's time under load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    mvp::cli::main(mvp::app::run)
}
