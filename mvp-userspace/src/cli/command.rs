//! The commands, their arguments and their help.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};

use super::agent::{Agent, Given, Source};
use super::check::Upgrade;
use super::pinned::Pins;
use super::report::Report;
use super::top::Top;
use super::{asked, client};
use crate::config::parse_duration;

/// Mixed version proxy for Kubernetes control planes.
#[derive(Debug, Parser)]
#[command(
    name = "mvp",
    version,
    about,
    disable_help_subcommand = true,
    after_help = "Examples:
  mvp agent --from-manifest /etc/kubernetes/manifests/kube-apiserver.yaml
  mvp status
  mvp explain GET /apis/batch/v1/jobs"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the agent on this node.
    #[command(after_help = "Examples:
  mvp agent --from-manifest /etc/kubernetes/manifests/kube-apiserver.yaml --set kernel.steering=auto
  mvp agent --config /etc/mvp/config.yaml --log-format json")]
    Agent(Box<Agent>),
    /// Show what the agent is doing.
    #[command(after_help = "Examples:
  mvp status
  mvp status --watch
  mvp status -o json
  mvp status --pinned")]
    Status {
        /// What is pinned in the kernel; needs no agent.
        #[arg(long)]
        pinned: bool,
        #[command(flatten)]
        pins: Pins,
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show the kube-apiservers it knows.
    #[command(after_help = "Examples:
  mvp servers
  mvp servers -o wide
  mvp servers --watch")]
    Servers {
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show what the last hours, or an upgrade, would have been without the agent, and what is not known of it.
    #[command(after_help = "Examples:
  mvp report --since 2h
  mvp report --since 30m -o json
  mvp report --since 24h -o html")]
    Report(Report),
    /// Watch one agent in the terminal: servers, differences, guard, requests per second, last events. Or all of them, one line for each
    /// node. q ends it.
    #[command(after_help = "Examples:
  mvp top
  mvp top --cluster
  mvp top --agent cp-a=http://10.0.0.1:9440 --agent cp-b=unix:/tmp/cp-b.sock
  mvp top --once")]
    Top(Top),
    /// Show which server serves which resource.
    #[command(after_help = "Examples:
  mvp routes --diff
  mvp routes -o wide
  mvp routes --differences -o yaml")]
    Routes {
        /// Only what not every server serves alike.
        #[arg(long)]
        differences: bool,
        /// What differs, with a column for each server: serves, lacks, or which verbs it lacks.
        #[arg(long, conflicts_with = "differences")]
        diff: bool,
        /// The table that is pinned in the kernel; needs no agent.
        #[arg(long, conflicts_with = "diff")]
        pinned: bool,
        #[command(flatten)]
        pins: Pins,
        #[command(flatten)]
        watch: Watch,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show where a request would go, or whether a connection would be forwarded whole, and why.
    #[command(after_help = "Examples:
  mvp explain GET /apis/batch/v1/jobs
  mvp explain PATCH /api/v1/namespaces/default/pods/web/resize
  mvp explain --connection 10.0.0.7 --server-name kubernetes.default.svc")]
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
    /// Show what works on this node: the kernel part, and with a configuration certificates and servers; needs no agent.
    #[command(after_help = "Examples:
  mvp doctor
  mvp doctor --from-manifest /etc/kubernetes/manifests/kube-apiserver.yaml
  mvp doctor --config /etc/mvp/config.yaml -o json")]
    Doctor {
        #[command(flatten)]
        given: Given,
        /// The agent's kernel.pinPath, where no configuration says it; default: /sys/fs/bpf/mvp.
        #[arg(long, value_name = "FOLDER")]
        pin_path: Option<PathBuf>,
        #[command(flatten)]
        output: Form,
    },
    /// Test or show a configuration; needs no agent.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check what matters before an upgrade or another change.
    #[command(subcommand)]
    Check(CheckCommand),
    /// Detach the agent's program and remove its pins: nothing of it is left in the kernel.
    #[command(after_help = "Examples:
  mvp uninstall
  mvp uninstall --pin-path /sys/fs/bpf/mvp")]
    Uninstall {
        #[command(flatten)]
        pins: Pins,
    },
    /// Inspect every new connection, whatever the signs, until `mvp auto`: before an upgrade, so that no client is late.
    #[command(after_help = "Examples:
  mvp arm
  mvp arm --for 30m
  mvp arm --cluster --for 2h")]
    Arm {
        /// Return to automatic arming after this time, such as 30m.
        #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
        time: Option<Duration>,
        /// Arm the agents of all nodes, for an hour or what --for says, at most a day.
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Inspect none, whatever the signs, until `mvp auto`: connections go to kube-apiserver itself.
    #[command(after_help = "Examples:
  mvp disarm")]
    Disarm(Ask),
    /// Return to automatic arming: the guard follows the signs again.
    #[command(after_help = "Examples:
  mvp auto
  mvp auto --cluster")]
    Auto {
        /// Take back `mvp arm --cluster`, whichever agent it was sent to.
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show which connections that were made before the agent took them are still with kube-apiserver itself.
    #[command(after_help = "Examples:
  mvp retire
  mvp retire --now")]
    Retire {
        /// End them now: each has a few seconds to have a request answered that is under way.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Change what the agent logs until it is restarted.
    #[command(after_help = "Examples:
  mvp loglevel debug
  mvp loglevel mvp=debug,access=off")]
    Loglevel {
        /// error, warn, info, debug, trace, or a filter such as mvp=debug,access=off.
        level: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Ask one kube-apiserver for its own healthz, livez, readyz, version or metrics.
    #[command(after_help = "Examples:
  mvp probe cp-b readyz?verbose
  mvp probe cp-b version")]
    Probe {
        /// The name of the server, as mvp servers shows it.
        server: String,
        /// One of these endpoints, with its query, such as readyz?verbose.
        path: String,
        #[command(flatten)]
        ask: Ask,
    },
    /// Stop accepting, let open requests end, then exit.
    #[command(after_help = "Examples:
  mvp drain
  mvp drain --wait
  mvp drain --deadline 5m --wait")]
    Drain {
        /// Close what is still open after this; default: drain.deadline of the configuration.
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        deadline: Option<Duration>,
        /// Return when it has drained, not at once.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        ask: Ask,
    },
    /// Show this program's version, and whether its kernel part is inside.
    #[command(after_help = "Examples:
  mvp version
  mvp version -o json")]
    Version(Form),
    /// Print the script by which a shell completes this command.
    #[command(after_help = "Examples:
  mvp completion bash
  mvp completion zsh")]
    Completion { shell: clap_complete::Shell },
    /// Write the manual pages into a folder.
    #[command(after_help = "Examples:
  mvp man /usr/share/man/man1")]
    Man { folder: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Test a configuration as the agent does when it starts: exit code 64 and one line that names the key, unless it is good.
    #[command(after_help = "Examples:
  mvp config test --config /etc/mvp/config.yaml
  mvp config test --from-manifest /etc/kubernetes/manifests/kube-apiserver.yaml --set kernel.steering=auto")]
    Test(Source),
    /// Show every key with its value, defaults too, in the form of a configuration file. Files that hold secrets are named, never
    /// shown.
    #[command(after_help = "Examples:
  mvp config show --config /etc/mvp/config.yaml
  mvp config show --from-manifest /etc/kubernetes/manifests/kube-apiserver.yaml -o json")]
    Show {
        #[command(flatten)]
        source: Source,
        /// yaml or json.
        #[arg(short, long, value_name = "FORM", value_parser = ["yaml", "json"], default_value = "yaml")]
        output: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CheckCommand {
    /// Whether the control plane can be upgraded now: agents, servers, versions, deprecated APIs that were requested lately,
    /// certificates, and a request through each agent. Exit code: 0 nothing found, 1 something to look at, 2 something to mend before.
    #[command(after_help = "Examples:
  mvp check upgrade
  mvp check upgrade --to v1.36 --within 72h
  mvp check upgrade --cluster
  mvp check upgrade -o json")]
    Upgrade(Upgrade),
    /// Send a request through this node's agent to a server, and from it to each server. Exit code: 0, or 2 if a way does not work.
    #[command(after_help = "Examples:
  mvp check canary
  mvp check canary -o json")]
    Canary(Ask),
}

#[derive(clap::Args, Debug)]
pub(super) struct Ask {
    #[command(flatten)]
    pub at: At,
    #[command(flatten)]
    pub form: Form,
}

#[derive(clap::Args, Clone, Debug)]
pub(super) struct At {
    /// The agent's socket (unix:/path) or, for reading, its admin port (http://host:port); default: the socket
    /// /run/mvp/admin.sock, and for reading else http://127.0.0.1:9440.
    #[arg(long, value_name = "URL", env = "MVP_ADMIN", value_parser = client::parse_admin)]
    pub admin: Option<client::AdminAt>,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Form {
    /// wide: with more columns, where there are more.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Watch {
    /// Show it again every second, until interrupted.
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Output {
    Table,
    Wide,
    Json,
    Yaml,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command that people see, with the words by which it is called.
    fn commands() -> Vec<(Vec<String>, clap::Command)> {
        fn add(
            words: &[String],
            command: &clap::Command,
            all: &mut Vec<(Vec<String>, clap::Command)>,
        ) {
            for child in command
                .get_subcommands()
                .filter(|child| !child.is_hide_set())
            {
                let words = [words, &[child.get_name().to_owned()]].concat();
                add(&words, child, all);
                if !child.has_subcommands() {
                    all.push((words, child.clone()));
                }
            }
        }
        let root = Cli::command();
        let words = vec!["mvp".to_owned()];
        let mut all = vec![(words.clone(), root.clone())];
        add(&words, &root, &mut all);
        all
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_has_examples_that_are_understood() {
        let all = commands();
        assert!(all.len() > 15, "{}", all.len());
        for (words, mut command) in all {
            let help = command.render_long_help().to_string();
            let (_, examples) = help
                .split_once("Examples:\n")
                .unwrap_or_else(|| panic!("{words:?} has no examples"));
            let lines: Vec<_> = examples.lines().filter(|line| !line.is_empty()).collect();
            assert!(!lines.is_empty(), "{words:?}");
            for line in lines {
                let typed: Vec<_> = line.split_whitespace().collect();
                assert!(
                    typed.starts_with(&words.iter().map(String::as_str).collect::<Vec<_>>()),
                    "{line}"
                );
                let read = Cli::try_parse_from(&typed);
                assert!(read.is_ok(), "{line}: {}", read.unwrap_err());
            }
        }
    }
}
