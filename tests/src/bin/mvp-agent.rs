//! The `mvp` command for tests that need an agent in a process of its own.

fn main() -> std::process::ExitCode {
    mvp::cli::main(mvp::app::run)
}
