//! What is measured of each subject, by how the server answers.

use std::time::Duration;

use anyhow::Result;

use crate::bench::target::{LOADS, Load, Measured, SERVER_NAME, Suffixes, Target};
use crate::bench::upstream::{Answering, LARGE, MEDIUM, PATH, Upstream};
use crate::load::{Get, Outcome};

/// One thing that is measured.
pub(super) struct Case {
    pub what: What,
    pub load: Load,
    /// Behind the names of all its metrics.
    pub ending: &'static str,
}

/// What is asked for.
pub(super) enum What {
    Get(&'static str),
    /// One watch, told events.
    Watch,
}

/// The rows of lean answers have had their names from the beginning.
pub(super) fn of(answering: Answering) -> &'static [Case] {
    match answering {
        Answering::Lean => &LEAN,
        Answering::Real => &REAL,
    }
}

static LEAN: [Case; 2] = [object(LOADS[0], ""), object(LOADS[1], "")];

static REAL: [Case; 5] = [
    object(LOADS[0], "_real"),
    object(LOADS[1], "_real"),
    alone(What::Get(MEDIUM), "_list_100k"),
    alone(What::Get(LARGE), "_list_5m"),
    alone(What::Watch, "_event"),
];

const fn object(load: Load, ending: &'static str) -> Case {
    Case {
        what: What::Get(PATH),
        load,
        ending,
    }
}

/// One connection with one request at a time.
const fn alone(what: What, name: &'static str) -> Case {
    let suffixes = Suffixes {
        latency: name,
        work: name,
    };
    Case {
        what,
        load: Load {
            suffixes,
            ..LOADS[0]
        },
        ending: "_real",
    }
}

impl Case {
    pub(super) async fn measure(
        &self,
        target: &Target,
        upstream: &Upstream,
        get: &Get,
        duration: Duration,
    ) -> Result<Measured> {
        match self.what {
            What::Watch => target.watch(upstream, get, duration).await,
            What::Get(path) => {
                let get = Get {
                    uri: format!("https://{SERVER_NAME}{path}").parse()?,
                    headers: get.headers.clone(),
                };
                target.measure(&get, self.load, duration).await
            }
        }
    }

    /// Whether there is a next request as soon as there is an answer.
    pub(super) fn is_closed_loop(&self) -> bool {
        matches!(self.what, What::Get(_))
    }

    /// The figure that is looked at first.
    pub(super) fn line(&self, outcome: &Outcome) -> String {
        let p50 = outcome.latency.micros(0.5);
        match self.load.connections {
            1 => format!("p50{} {p50:.0} us", self.load.suffixes.latency),
            _ => format!("{:.0} req/s", outcome.requests_per_second()),
        }
    }
}
