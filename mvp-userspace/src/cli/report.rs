//! `mvp report`: a summary of the last hours.

use std::io::Write;
use std::time::Duration;

use clap::ValueEnum;

use super::client::ClientError;
use super::command::At;
use super::output::{json, yaml};
use super::talk::{get, parse};
use crate::config::parse_duration;

#[derive(clap::Args, Debug)]
pub(super) struct Report {
    /// From so long ago until now, at most a day.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "2h")]
    since: Duration,
    /// html: a page that needs no other file, to keep.
    #[arg(short, long, value_enum, default_value_t = ReportForm::Text)]
    output: ReportForm,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum ReportForm {
    Text,
    Json,
    Yaml,
    Html,
}

impl Report {
    pub(super) fn show(&self, out: &mut dyn Write) -> Result<(), ClientError> {
        let target = format!("/report?since={}ms", self.since.as_millis());
        let body = get(&self.at, &target)?.success()?;
        let report: crate::history::Report = parse(&body)?;
        // The whole document is passed on, with fields that this program does not know.
        let value: serde_json::Value = parse(&body)?;
        let text = match self.output {
            ReportForm::Text => report.text(),
            ReportForm::Html => report.html(),
            ReportForm::Json => json(&value)?,
            ReportForm::Yaml => yaml(&value)?,
        };
        // The reader may have closed its end.
        let _ = out.write_all(text.as_bytes());
        Ok(())
    }
}
