//! The admin port: what the agent knows and does, drain, log level. It decides nothing, and sees the rest of the agent
//! only through the closures of [`Views`].
//!
//! There are two ways in. `admin.listen` is read-only, may be opened to those that scrape metrics, and has no authentication.
//! `admin.socket` is a Unix socket that its owner alone may open (mode 0600): whatever changes something or speaks to servers is
//! there only, marked with a star.
//!
//!
//! Path | Answer |
//! |---|---|
//!
//! `GET /readyz[?verbose]` | 200, or 503 with the names of the tasks still awaited, or 503 while draining |
//!
//! `GET /livez` | 200, or 503 with the loops that make no progress |
//!
//! `GET /metrics` | OpenMetrics text |
//!
//! `GET /status`, `/servers`, `/routes` | JSON, [`StatusView`], [`ServerView`], [`RouteView`] |
//!
//! `GET /skew` | JSON [`SkewView`], or a table of what differs for `Accept: text/plain` |
//!
//! `GET /` | the page for browsers (`Accept: text/html`), or a list of these paths |
//!
//! `GET /stream` | the status once per second, as server-sent events |
//!
//! `GET /history[?since=2h]` | JSON [`crate::history::HistoryView`]: events, and counts by the minute |
//!
//! `GET /report[?since=2h]` | JSON [`crate::history::Report`], or text or a page, by `Accept` |
//!
//! `GET /explain?method=M&path=P` | JSON [`ExplainView`], or its one line for `Accept: text/plain` |
//!
//! `GET /explain?connection=A[&serverName=N]` | JSON [`ConnectionView`], or its one line for `Accept: text/plain` |
//!
//! * `GET /mvp/servers/<name>/<probe>` | that server's own healthz, livez, readyz, version or metrics |
//!
//! * `GET /mvp/canary` | JSON [`CanaryView`]: what became of requests of the agent's own, through itself and to each server |
//!
//! * `POST /drain[?deadline=30s]` | 202 |
//!
//! * `POST /arm`, `/disarm`, `/auto` | 200, the guard's state in one line; after `/arm?for=DURATION` the signs count again |
//!
//! * `POST /arm?cluster[&for=DURATION]`, `/auto?cluster` | 200: all agents are told; 502: they cannot be told |
//!
//! * `POST /retire` | 202: connections of before end now; 409: no retirement is under way |
//!
//! * `PUT /loglevel`, a level or filter as body | 204 |

mod access;
mod answer;
mod live;
mod page;
mod query;
mod serve;
mod skew;
mod socket;
#[cfg(test)]
mod tests;
mod views;

pub use access::{Access, Hosts};
pub use answer::is_ready;
pub use query::encode;
pub use serve::{Admin, Door, serve};
pub use skew::{SkewCell, SkewRow, SkewServer, SkewState, SkewView};
pub use socket::{OperatorSocket, PublishedSocket};
pub use views::*;
