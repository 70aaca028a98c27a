//! The agent as a child process of tests, as the `mvp` binary has it.

/// As in `mvp`: memory is measured here.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    mvp::cli::main(mvp::app::run)
}
