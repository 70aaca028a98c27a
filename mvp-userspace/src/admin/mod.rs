//! The admin port: what the agent knows and does, drain, log level. It decides nothing, and sees the rest of the agent
//! only through the closures of [`Views`].
//!
//! | Path | Answer |
//! |---|---|
//! | `GET /readyz[?verbose]` | 200, or 503 with the names of the tasks still awaited, or 503 while draining |
//! | `GET /livez` | 200, or 503 with the loops that make no progress |
//! | `GET /metrics` | OpenMetrics text |
//! | `GET /status`, `/servers`, `/routes` | JSON, [`StatusView`], [`ServerView`], [`RouteView`] |
//! | `GET /skew` | JSON [`SkewView`], or a table of what differs for `Accept: text/plain` |
//! | `GET /explain?method=M&path=P` | JSON [`ExplainView`], or its one line for `Accept: text/plain` |
//! | `GET /explain?connection=A[&serverName=N]` | JSON [`ConnectionView`], or its one line for `Accept: text/plain` |
//! | `GET /mvp/servers/<name>/<probe>` | that server's own healthz, livez, readyz, version or metrics |
//! | `POST /drain[?deadline=30s]` | 202 |
//! | `POST /arm`, `/disarm`, `/auto` | 200, the guard's state in one line |
//! | `PUT /loglevel`, a level or filter as body | 204 |
//!
//! The port has no authentication, so it is on loopback unless the configuration says otherwise.

mod answer;
mod query;
mod serve;
mod skew;
pub mod table;
#[cfg(test)]
mod tests;
mod views;

pub use query::encode;
pub use serve::{Admin, serve};
pub use skew::{SkewCell, SkewRow, SkewServer, SkewState, SkewView};
pub use views::*;
