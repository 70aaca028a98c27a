//! The command line: `mvp agent` runs the agent, every other command asks a running one through its Unix socket.
//!
//! Exit codes: 0; 1 the agent failed or refused; 64 wrong usage or configuration (nothing was bound); 69 the admin port
//! cannot be reached.

mod agent;
mod asked;
mod client;
mod doctor;
mod lines;
pub mod logging;
mod pinned;
mod show;

use std::ffi::OsString;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::{
    ConnectionView, ExplainView, RouteView, ServerView, SkewView, StatusView, encode, table,
};
use crate::config::Config;
use client::{ClientError, Question, Reply};
use pinned::Pins;

/// sysexits.h: EX_USAGE and EX_UNAVAILABLE.
const USAGE: u8 = 64;
const UNAVAILABLE: u8 = 69;

/// Mixed version proxy for Kubernetes control planes.
#[derive(Debug, Parser)]
#[command(name = "mvp", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent on this node.
    Agent(Box<agent::Agent>),
    /// Show what the agent is doing.
    Status {
        /// What is pinned in the kernel; needs no agent.
        #[arg(long)]
        pinned: bool,
        #[command(flatten)]
        pins: Pins,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show the kube-apiservers it knows.
    Servers(Ask),
    /// Show which server serves which resource.
    Routes {
        /// Only what not every server serves alike.
        #[arg(long)]
        differences: bool,
        /// What differs, with a column a server: serves, lacks, or which verbs it lacks.
        #[arg(long, conflicts_with = "differences")]
        diff: bool,
        /// The table that is pinned in the kernel; needs no agent.
        #[arg(long, conflicts_with = "diff")]
        pinned: bool,
        #[command(flatten)]
        pins: Pins,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell where a request would go, or whether a connection would be forwarded whole, and why.
    Explain {
        /// GET, POST, …
        #[arg(required_unless_present = "connection", value_parser = asked::method)]
        method: Option<String>,
        /// Path and query, such as /api/v1/pods?watch=1.
        #[arg(required_unless_present = "connection", value_parser = asked::path)]
        path: Option<String>,
        /// A client's address: would its next connection be forwarded whole?
        #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["method", "path"])]
        connection: Option<IpAddr>,
        /// The name that the client asks for in TLS.
        #[arg(long, value_name = "NAME", requires = "connection")]
        server_name: Option<String>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Tell what works on this node: the kernel part, and with a configuration certificates and servers; needs no agent.
    Doctor {
        #[command(flatten)]
        given: agent::Given,
        /// The agent's kernel.pinPath, where no configuration says it; default: /sys/fs/bpf/mvp.
        #[arg(long, value_name = "FOLDER")]
        pin_path: Option<PathBuf>,
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Detach the agent's program and remove its pins: nothing of it is left in the kernel.
    Uninstall {
        #[command(flatten)]
        pins: Pins,
    },
    /// Inspect every new connection, whatever the signs, until `mvp auto`: before an upgrade, so that no client is late.
    Arm {
        /// Go by the signs again after this, such as 30m.
        #[arg(long = "for", value_name = "DURATION", value_parser = crate::config::parse_duration)]
        time: Option<Duration>,
        /// Arm the agents of all nodes, for an hour or what --for says, at most a day.
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Inspect none, whatever the signs, until `mvp auto`: connections go to kube-apiserver itself.
    Disarm(Ask),
    /// Go by the signs again.
    Auto {
        /// Take back what `mvp arm --cluster` said, whichever agent it was said to.
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show which connections that were made before the agent took them are still with kube-apiserver itself.
    Retire {
        /// End them now: each has a few seconds to have a request answered that is under way.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Change what the agent logs until it is restarted.
    Loglevel {
        /// error, warn, info, debug, trace, or a filter such as mvp=debug,access=off.
        level: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Ask one kube-apiserver for its own healthz, livez, readyz, version or metrics.
    Probe {
        /// As mvp servers shows it.
        server: String,
        /// Such as readyz?verbose.
        path: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Stop accepting, let open requests end, then exit.
    Drain {
        /// Close what is still open after this; default: drain.deadline of the configuration.
        #[arg(long, value_parser = crate::config::parse_duration)]
        deadline: Option<Duration>,
        #[command(flatten)]
        ask: Ask,
    },
}

#[derive(clap::Args, Debug)]
struct Ask {
    /// The agent's socket (unix:/path) or, for reading, its admin port (http://host:port); default: the socket
    /// /run/mvp/admin.sock, and for reading else http://127.0.0.1:9440.
    #[arg(long, value_name = "URL", value_parser = client::parse_admin)]
    admin: Option<client::AdminAt>,
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Parses the process's arguments and does what they say. `run` is the agent itself, called with a checked
/// configuration after logging is set up.
pub fn main(run: fn(Config) -> anyhow::Result<()>) -> ExitCode {
    let mut out = std::io::stdout();
    let code = run_command(std::env::args_os(), run, &mut out);
    // Whoever reads may have gone (`mvp routes | head`).
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
        Command::Status {
            pinned: true,
            pins,
            ask,
        } => pinned_status(&pins, &ask, out),
        Command::Status { ask, .. } => {
            show(&ask, "/status", out, |view: &StatusView| show::status(view))
        }
        Command::Servers(ask) => show(&ask, "/servers", out, |view: &Vec<ServerView>| {
            show::servers(view)
        }),
        Command::Routes {
            diff: true, ask, ..
        } => show(&ask, "/skew", out, SkewView::text),
        Command::Routes {
            differences,
            pinned,
            pins,
            ask,
            ..
        } => routes(&ask, pinned.then_some(&pins), differences, out),
        Command::Doctor {
            given,
            pin_path,
            output,
        } => return run_doctor(&given, pin_path, output, out),
        Command::Uninstall { pins } => uninstall(&pins, out),
        Command::Explain {
            connection: Some(address),
            server_name,
            ask,
            ..
        } => {
            let mut target = format!("/explain?connection={}", encode(&address.to_string()));
            if let Some(name) = server_name {
                target += &format!("&serverName={}", encode(&name));
            }
            show(&ask, &target, out, |view: &ConnectionView| {
                format!("{}\n", table::clean(&view.line))
            })
        }
        Command::Explain {
            method, path, ask, ..
        } => {
            // clap has seen to it that they are there.
            let (method, path) = (method.unwrap_or_default(), path.unwrap_or_default());
            let target = format!("/explain?method={}&path={}", encode(&method), encode(&path));
            show(&ask, &target, out, |view: &ExplainView| {
                format!("{}\n", table::clean(&view.line))
            })
        }
        Command::Arm {
            time,
            cluster: false,
            ask,
        } => tell(&ask, &timed("/arm", "for", time), out),
        Command::Arm { time, ask, .. } => tell(&ask, &timed("/arm?cluster=true", "for", time), out),
        Command::Disarm(ask) => tell(&ask, "/disarm", out),
        Command::Auto { cluster: true, ask } => tell(&ask, "/auto?cluster=true", out),
        Command::Auto { ask, .. } => tell(&ask, "/auto", out),
        Command::Retire { now: true, ask } => tell(&ask, "/retire", out),
        Command::Retire { ask, .. } => show(&ask, "/status", out, show::retirement),
        Command::Loglevel { level, ask } => loglevel(&ask, &level, out),
        Command::Probe { server, path, ask } => probe(&ask, &server, &path, out),
        Command::Drain { deadline, ask } => tell(&ask, &timed("/drain", "deadline", deadline), out),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "mvp: {error}");
            match error {
                ClientError::Unreachable { .. } => UNAVAILABLE,
                _ => 1,
            }
        }
    }
}

fn run_agent(agent: &agent::Agent, run: fn(Config) -> anyhow::Result<()>) -> u8 {
    let say = |text: String| {
        let _ = writeln!(std::io::stderr(), "mvp: {text}");
    };
    // Before the configuration: what is read there may be worth a warning.
    let logging = logging::init(agent.log_format, agent.log_level.as_deref());
    let config = match logging.and_then(|()| agent.config()) {
        Ok(config) => config,
        Err(error) => {
            say(error.to_string());
            return USAGE;
        }
    };
    let done = run(config);
    logging::flush();
    match done {
        Ok(()) => 0,
        Err(error) => {
            say(format!("{error:#}"));
            1
        }
    }
}

fn show<T: DeserializeOwned>(
    ask: &Ask,
    target: &str,
    out: &mut dyn Write,
    human: impl FnOnce(&T) -> String,
) -> Result<(), ClientError> {
    let body = get(ask, target)?.success()?;
    let text = match ask.output {
        Output::Json => pretty(&parse::<Value>(&body)?)?,
        Output::Table => human(&parse(&body)?),
    };
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

fn pinned_status(pins: &Pins, ask: &Ask, out: &mut dyn Write) -> Result<(), ClientError> {
    let view = pinned::status(pins)?;
    let text = match ask.output {
        Output::Json => pretty(&pinned::status_json(&view))?,
        Output::Table => pinned::status_text(&view),
    };
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

fn uninstall(pins: &Pins, out: &mut dyn Write) -> Result<(), ClientError> {
    crate::kernel::uninstall(&pins.pin_path)?;
    let path = pins.pin_path.display();
    let _ = writeln!(out, "{path}: nothing of the agent is left in the kernel");
    Ok(())
}

/// 1 if the agent cannot do here what it is to do.
fn run_doctor(
    given: &agent::Given,
    pin_path: Option<PathBuf>,
    output: Output,
    out: &mut dyn Write,
) -> u8 {
    let config = match given.config() {
        Ok(config) => config,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "mvp: {error}");
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
    let text = match output {
        Output::Json => pretty(&findings).unwrap_or_default(),
        Output::Table => doctor::text(&findings),
    };
    let _ = out.write_all(text.as_bytes());
    let failed = |finding: &doctor::Finding| finding.outcome == doctor::Outcome::Failed;
    u8::from(findings.iter().any(failed))
}

/// Of the agent, or of the pins.
fn routes(
    ask: &Ask,
    pins: Option<&Pins>,
    differences: bool,
    out: &mut dyn Write,
) -> Result<(), ClientError> {
    let mut routes: Vec<RouteView> = match pins {
        Some(pins) => pinned::routes(pins)?,
        None => parse(&get(ask, "/routes")?.success()?)?,
    };
    if differences {
        routes = show::differences(routes);
    }
    let text = match ask.output {
        Output::Json => pretty(&routes)?,
        Output::Table => show::routes(&routes),
    };
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

/// A path with a duration as its parameter, if one is given.
fn timed(path: &str, parameter: &str, time: Option<Duration>) -> String {
    match time {
        Some(time) => {
            let mark = if path.contains('?') { '&' } else { '?' };
            format!("{path}{mark}{parameter}={}ms", time.as_millis())
        }
        None => path.to_owned(),
    }
}

fn loglevel(ask: &Ask, level: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let question = Question {
        method: "PUT",
        target: "/loglevel",
        body: level,
    };
    client::ask(ask.admin.as_ref(), question)?.success()?;
    say(ask, &format!("the log level is {level}"), out)
}

/// Shows the server's own answer, whatever it is; an error unless it is a success.
fn probe(ask: &Ask, server: &str, path: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let target = format!(
        "/mvp/servers/{}/{}",
        encode(server),
        path.trim_start_matches('/')
    );
    let body = get(ask, &target)?.success()?;
    let _ = out.write_all(&body);
    if !body.ends_with(b"\n") {
        let _ = out.write_all(b"\n");
    }
    Ok(())
}

fn get(ask: &Ask, target: &str) -> Result<Reply, ClientError> {
    let question = Question {
        method: "GET",
        target,
        body: "",
    };
    client::ask(ask.admin.as_ref(), question)
}

/// Posts, and shows the answer's line.
fn tell(ask: &Ask, target: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let question = Question {
        method: "POST",
        target,
        body: "",
    };
    let body = client::ask(ask.admin.as_ref(), question)?.success()?;
    say(
        ask,
        &table::clean(String::from_utf8_lossy(&body).trim()),
        out,
    )
}

fn say(ask: &Ask, message: &str, out: &mut dyn Write) -> Result<(), ClientError> {
    let text = match ask.output {
        Output::Json => pretty(&serde_json::json!({ "message": message }))?,
        Output::Table => format!("{message}\n"),
    };
    let _ = out.write_all(text.as_bytes());
    Ok(())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Unexpected(error.to_string()))
}

fn pretty(value: &impl Serialize) -> Result<String, ClientError> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| ClientError::Unexpected(error.to_string()))
}

impl Reply {
    fn success(self) -> Result<bytes::Bytes, ClientError> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let body = String::from_utf8_lossy(&self.body);
        Err(ClientError::Refused {
            status: self.status,
            body: table::clean(body.trim()),
        })
    }
}
