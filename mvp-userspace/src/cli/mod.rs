//! The command line: `mvp agent` runs the agent, every other command asks a running one through its Unix socket.
//!
//! Exit codes: 0; 1 the agent failed or refused; 64 wrong usage or configuration (nothing was bound); 69 the admin port
//! cannot be reached.

mod about;
mod agent;
mod asked;
mod check;
mod client;
mod command;
mod doctor;
mod fleet;
mod output;
mod pinned;
mod report;
mod routes;
mod show;
mod talk;
mod top;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;

use crate::admin::{
    ConnectionView, ExplainView, RouteView, ServerView, SkewView, StatusView, encode,
};
use crate::config::Config;
use crate::text::table;
use client::ClientError;
use command::{Ask, CheckCommand, Cli, Command, ConfigCommand, Output};
use pinned::Pins;
use talk::{get, parse, tell};

/// sysexits.h: EX_USAGE and EX_UNAVAILABLE.
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;

/// Parses the process's arguments and does what they say. `run` is the agent itself, called with a checked
/// configuration after logging is set up.
pub fn main(run: fn(Config) -> anyhow::Result<()>) -> ExitCode {
    let mut out = std::io::stdout();
    let code = run_command(std::env::args_os(), run, &mut out);
    // The reader may have closed its end (`mvp routes
    // head`).
    let _ = out.flush();
    ExitCode::from(code)
}

fn run_command(
    arguments: impl IntoIterator<Item = OsString>,
    run: fn(Config) -> anyhow::Result<()>,
    out: &mut dyn Write,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { 0 };
        }
    };
    let done = match cli.command {
        Command::Agent(agent) => return run_agent(&agent, run),
        Command::Doctor {
            given,
            pin_path,
            output,
        } => return run_doctor(&given, pin_path, output.output, out),
        Command::Config(command) => return run_config(&command, out),
        Command::Check(check) => {
            let code = match &check {
                CheckCommand::Upgrade(upgrade) => check::upgrade(upgrade, out),
                CheckCommand::Canary(ask) => check::canary(ask, out),
            };
            match code {
                Ok(code) => return code,
                Err(error) => Err(error),
            }
        }
        Command::Version(form) => about::version(form.output, out),
        Command::Completion { shell } => {
            about::completion(shell, out);
            Ok(())
        }
        Command::Man { folder } => {
            about::manual(&folder).map_err(|error| ClientError::File(folder, error))
        }
        Command::Uninstall { pins } => uninstall(&pins, out),
        Command::Report(report) => report.show(out),
        Command::Top(top) => top.show(out),
        other => ask_agent(other, out),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            complain(&error);
            match error {
                ClientError::Unreachable { .. } => UNAVAILABLE,
                _ => 1,
            }
        }
    }
}

/// Answers a command from a running agent, or from what is pinned in the kernel.
fn ask_agent(command: Command, out: &mut dyn Write) -> Result<(), ClientError> {
    match command {
        Command::Status {
            pinned,
            pins,
            watch,
            ask,
        } => watch::show(watch.watch, out, &mut |out| match pinned {
            true => pinned_status(&pins, &ask, out),
            false => talk::show(&ask, "/status", out, |view: &StatusView, wide| {
                show::status(view, wide)
            }),
        }),
        Command::Servers { watch, ask } => watch::show(watch.watch, out, &mut |out| {
            talk::show(&ask, "/servers", out, |view: &Vec<ServerView>, wide| {
                show::servers(view, wide)
            })
        }),
        Command::Routes {
            diff,
            differences,
            pinned,
            pins,
            watch,
            ask,
        } => watch::show(watch.watch, out, &mut |out| match diff {
            true => talk::show(&ask, "/skew", out, |view: &SkewView, _| view.text()),
            false => show_routes(&ask, pinned.then_some(&pins), differences, out),
        }),
        Command::Explain {
            method,
            path,
            connection,
            server_name,
            ask,
        } => match connection {
            Some(address) => {
                let mut target = format!("/explain?connection={}", encode(&address.to_string()));
                if let Some(name) = server_name {
                    target += &format!("&serverName={}", encode(&name));
                }
                talk::show(&ask, &target, out, |view: &ConnectionView, _| {
                    format!("{}\n", table::clean(&view.line))
                })
            }
            None => {
                // clap requires both.
                let (method, path) = (method.unwrap_or_default(), path.unwrap_or_default());
                let target = format!("/explain?method={}&path={}", encode(&method), encode(&path));
                talk::show(&ask, &target, out, |view: &ExplainView, _| {
                    format!("{}\n", table::clean(&view.line))
                })
            }
        },
        Command::Arm { time, cluster, ask } => {
            let path = if cluster { "/arm?cluster=true" } else { "/arm" };
            tell(&ask, &timed(path, "for", time), out)
        }
        Command::Disarm(ask) => tell(&ask, "/disarm", out),
        Command::Auto { cluster, ask } => {
            let path = if cluster {
                "/auto?cluster=true"
            } else {
                "/auto"
            };
            tell(&ask, path, out)
        }
        Command::Retire { now: true, ask } => tell(&ask, "/retire", out),
        Command::Retire { ask, .. } => talk::show(&ask, "/status", out, |view: &StatusView, _| {
            show::retirement(view)
        }),
        Command::Loglevel { level, ask } => talk::loglevel(&ask, &level, out),
        Command::Probe { server, path, ask } => talk::probe(&ask, &server, &path, out),
        Command::Drain {
            deadline,
            wait,
            ask,
        } => talk::drain(&ask, &timed("/drain", "deadline", deadline), wait, out),
        // These need no agent.
        Command::Agent(_)
        | Command::Doctor { .. }
        | Command::Config(_)
        | Command::Check(_)
        | Command::Version(_)
        | Command::Completion { .. }
        | Command::Man { .. }
        | Command::Report(_)
        | Command::Top(_)
        | Command::Uninstall { .. } => Ok(()),
    }
}

fn run_agent(agent: &agent::Agent, run: fn(Config) -> anyhow::Result<()>) -> u8 {
    // Logging is set up before the configuration is read, which may cause a warning.
    let logging = crate::logging::init(agent.log_format, agent.log_level.as_deref());
    let config = match logging.and_then(|()| agent.source.config()) {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    let done = run(config);
    crate::logging::flush();
    match done {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("{error:#}"));
            1
        }
    }
}

fn run_config(command: &ConfigCommand, out: &mut dyn Write) -> u8 {
    let text = match command {
        ConfigCommand::Test(source) => source
            .config()
            .map(|_| format!("{}: good\n", source.name())),
        ConfigCommand::Show { source, output } => source.effective().map(|value| {
            let text = match output.as_str() {
                "json" => output::json(&value),
                _ => output::yaml(&value),
            };
            text.unwrap_or_default()
        }),
    };
    match text {
        Ok(text) => {
            let _ = out.write_all(text.as_bytes());
            0
        }
        Err(error) => {
            complain(&error);
            USAGE
        }
    }
}

/// The exit code is 1 if the agent cannot do here what it is configured to do.
fn run_doctor(
    given: &agent::Given,
    pin_path: Option<PathBuf>,
    output: Output,
    out: &mut dyn Write,
) -> u8 {
    let config = match given.config() {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return USAGE;
        }
    };
    let mut node = match &config {
        Some(config) => doctor::Node::from(config),
        None => doctor::Node::by_default(pinned::PIN_PATH.into()),
    };
    if let Some(pin_path) = pin_path {
        node.pin_path = pin_path;
    }
    let findings = doctor::examine(&node, config.as_ref());
    if let Err(error) = output::print(output, &findings, |_| doctor::text(&findings), out) {
        complain(&error);
    }
    let failed = |finding: &doctor::DoctorLine| finding.outcome == doctor::Outcome::Failed;
    u8::from(findings.iter().any(failed))
}

fn uninstall(pins: &Pins, out: &mut dyn Write) -> Result<(), ClientError> {
    crate::kernel::uninstall(&pins.pin_path)?;
    let path = pins.pin_path.display();
    let _ = writeln!(out, "{path}: nothing of the agent is left in the kernel");
    Ok(())
}

fn pinned_status(pins: &Pins, ask: &Ask, out: &mut dyn Write) -> Result<(), ClientError> {
    let view = pinned::status(pins)?;
    let data = pinned::status_json(&view);
    output::print(ask.form.output, &data, |_| pinned::status_text(&view), out)
}

/// Shows the routes of the agent, or those that are pinned.
fn show_routes(
    ask: &Ask,
    pins: Option<&Pins>,
    differences: bool,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let mut all: Vec<RouteView> = match pins {
        Some(pins) => pinned::routes(pins)?,
        None => parse(&get(&ask.at, "/routes")?.success()?)?,
    };
    if differences {
        all = routes::differences(all);
    }
    let text = |wide| routes::table_of(&all, wide);
    output::print(ask.form.output, &all, text, out)
}

/// A path with a duration as its parameter, if there is one.
fn timed(path: &str, parameter: &str, time: Option<Duration>) -> String {
    match time {
        Some(time) => {
            let mark = if path.contains('?') { '&' } else { '?' };
            format!("{path}{mark}{parameter}={}ms", time.as_millis())
        }
        None => path.to_owned(),
    }
}

/// One line on standard error.
fn complain(problem: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "mvp: {problem}");
}
