//! Logs: to standard error, for people or as JSON, with a level that can be changed while the agent runs.
//!
//! Access lines, one per request, have the target `access`: `--log-level info,access=off` silences them. They are written several at
//! a time (`lines`).

mod lines;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use self::lines::Lines;
use crate::config::ConfigError;

/// The form of a log line.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum LogFormat {
    /// For a terminal: time, level, text, fields.
    Human,
    /// One JSON object for each line, for log collectors.
    Json,
}

static LINES: OnceLock<Lines> = OnceLock::new();
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// To be called once for each process. `level`: else `RUST_LOG`, else `info`.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), ConfigError> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|l| !l.is_empty());
    let (key, level) = match (level, from_environment) {
        (Some(level), _) => ("--log-level", level.to_owned()),
        (None, Some(level)) => ("RUST_LOG", level),
        (None, None) => ("--log-level", "info".to_owned()),
    };
    let filter = parse(&level).map_err(|problem| ConfigError::new(key, problem))?;
    let (filter, handle) = reload::Layer::new(filter);
    let writer = Lines::to_stderr().map_err(|error| {
        ConfigError::new("--log-format", format!("no thread to write: {error}"))
    })?;
    let lines = fmt::layer().with_writer(writer.clone());
    let lines = match format {
        LogFormat::Human => lines.with_ansi(colours()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| ConfigError::new("--log-format", error.to_string()))?;
    let _ = FILTER.set(handle);
    let _ = LINES.set(writer);
    Ok(())
}

/// Writes the lines that wait; before the process ends.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Changes the level of the running process.
pub fn set_level(level: &str) -> Result<(), String> {
    let filter = parse(level)?;
    let handle = FILTER.get().ok_or("logging is not set up")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

/// Only where people look, and not where they have said that they want none (no-color.org: set, and not to nothing).
fn colours() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !unwanted
}

/// A level, or directives `target=level` separated by commas. EnvFilter alone would take a misspelt level for a target.
fn parse(text: &str) -> Result<EnvFilter, String> {
    let wrong = || {
        format!(
            "{text:?} is neither a level (error, warn, info, debug, trace, off) nor a filter (mvp=debug,access=off)"
        )
    };
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, l)| l);
        // LevelFilter takes empty text for `error`.
        if level.trim().is_empty() {
            return Err(wrong());
        }
        level.trim().parse::<LevelFilter>().map_err(|_| wrong())?;
    }
    EnvFilter::builder()
        .parse(quieted(text))
        .map_err(|_| wrong())
}

/// The library that follows Kubernetes' objects warns of each watch that a server refuses while it starts; what matters of it the
/// agent logs itself.
fn quieted(text: &str) -> String {
    let named = text.contains("kube_runtime");
    let off = text.split(',').any(|directive| directive.trim() == "off");
    match named || off {
        true => text.to_owned(),
        false => format!("{text},kube_runtime=error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for text in [
            "info",
            "off",
            "mvp=debug,access=off",
            "warn,mvp::proxy=trace",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
        for text in ["", "debgu", "mvp=loud", "info,,", "mvp"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
