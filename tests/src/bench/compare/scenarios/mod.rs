//! What each subject is asked to do, and what is measured of it.

mod connections;
mod get;
mod h2load;
mod list;
mod saturation;
mod watches;

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use super::subjects::{Running, Subject};
use crate::bench::upstream::Upstream;
use crate::load::Get;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Scenario {
    /// Three servers are upgraded one after the other under load
    Timeline,
    /// Many watches without an event, and then events
    Watches,
    /// A forwarded GET, sent at fixed moments
    Get,
    /// As many GETs as pass: 16 connections of 4 requests each
    Saturation,
    /// A list of 5 MB
    List,
    /// New TLS connections, a GET on each
    Connections,
}

/// What is to be said of a scenario.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct About {
    pub name: &'static str,
    pub title: &'static str,
    pub how: &'static str,
    pub metrics: &'static [Metric],
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Metric {
    /// In rows.
    pub name: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// One of the few by which subjects are compared at a glance.
    pub headline: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Lower,
    Higher,
    /// It only helps to understand the others.
    Neither,
}

/// The figures of one subject in one round, by the metrics' names.
pub(super) type Values = Vec<(&'static str, f64)>;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// For each measurement of each subject in a round.
    pub duration: Duration,
    /// Requests each second of the open loop.
    pub rate: f64,
    pub watches: usize,
}

/// What every measurement needs.
pub struct Bench<'a> {
    pub upstream: &'a Upstream,
    pub settings: Settings,
    pub get: Get,
    /// Memory of each subject before its first watch.
    pub bare: RefCell<HashMap<Subject, u64>>,
}

impl Scenario {
    pub const ALL: [Self; 6] = [
        Self::Timeline,
        // While processes are fresh: what others leave in their memory is not for the watches to pay.
        Self::Watches,
        Self::Get,
        Self::Saturation,
        Self::List,
        Self::Connections,
    ];

    pub const fn about(self) -> &'static About {
        match self {
            Self::Timeline => &super::timeline::ABOUT,
            Self::Watches => &watches::ABOUT,
            Self::Get => &get::ABOUT,
            Self::Saturation => &saturation::ABOUT,
            Self::List => &list::ABOUT,
            Self::Connections => &connections::ABOUT,
        }
    }

    /// One measurement of one subject. The timeline has subjects of its own, and none here.
    ///
    /// # Errors
    /// A request failed: what the others took is then worth nothing.
    pub async fn measure(self, running: &Running, bench: &Bench<'_>) -> Result<Values> {
        let before = match running.relaying {
            Some(relaying) => Some(relaying.count().await?),
            None => None,
        };
        let values = match self {
            Self::Timeline => Values::new(),
            Self::Watches => watches::measure(running, bench).await?,
            Self::Get => get::measure(running, bench).await?,
            Self::Saturation => saturation::measure(running, bench).await?,
            Self::List => list::measure(running, bench).await?,
            Self::Connections => connections::measure(running, bench).await?,
        };
        if let (Some(relaying), Some(before)) = (running.relaying, before) {
            anyhow::ensure!(
                relaying.count().await? > before,
                "{}: no connection was forwarded whole",
                running.subject.title()
            );
        }
        Ok(values)
    }
}

/// A metric; `headline()` makes it one of the few.
pub(super) const fn of(
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    better: Better,
) -> Metric {
    Metric {
        name,
        title,
        unit,
        better,
        headline: false,
    }
}

impl Metric {
    pub(super) const fn headline(self) -> Self {
        Self {
            headline: true,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_every_scenario_has_a_headline() {
        for scenario in Scenario::ALL {
            let about = scenario.about();
            let same = Scenario::ALL
                .iter()
                .filter(|other| other.about().name == about.name);
            assert_eq!(same.count(), 1, "{}", about.name);
            assert!(
                about.metrics.iter().any(|metric| metric.headline),
                "{}",
                about.name
            );
            for metric in about.metrics {
                let same = about
                    .metrics
                    .iter()
                    .filter(|other| other.name == metric.name);
                assert_eq!(same.count(), 1, "{}: {}", about.name, metric.name);
            }
        }
    }
}
