//! Whether and how clients' connections reach this agent: the guard decides, the kernel is kept in step, and connections of before
//! are retired.
//!
//!
//! file | does |
//! |---|---|
//!
//! `guard` | decides from the signs whether new connections are inspected; pure |
//!
//! `signs` | what the guard sees |
//!
//! `handle` | observes the signs, arms and disarms, answers operators |
//!
//! `cluster` | publishes signs to the other agents, and reads theirs |
//!
//! `install` | gives the kernel its programs at the start and takes the connections back at the end |
//!
//! `beat` | sends the heartbeat to the kernel, from the accept loop, while connections are accepted and served |
//!
//! `keep` | keeps the kernel's maps in step: guard, exempt addresses, routes |
//!
//! `targets` | which clients and addresses the kernel steers, and which never |
//!
//! `watch` | reads from the kernel's maps what happens to new connections |
//!
//! `stance` | says in one line what happens to new connections |
//!
//! `retire` | ends connections that clients made with kube-apiserver itself, in a silent moment |

mod beat;
mod cluster;
mod guard;
mod handle;
mod install;
mod keep;
mod retirable;
mod retire;
mod run;
mod signs;
mod stance;
mod stats;
mod targets;
mod view;
mod watch;

pub use cluster::Cluster;
pub(crate) use cluster::{follow, try_out as try_to_share};
pub use guard::{
    ClusterOrder, Guard, GuardReason, GuardReasons, Operator, Signs, State, Transition,
};
pub use handle::GuardHandle;
pub use install::{
    Installed, Kernel, LINGER, SharedSteering, client_listener, replaces, tick, way_to_servers,
};
pub use keep::always_inspects;
pub use retirable::Retirable;
pub use retire::{
    Agents, Due, Ended, Open, QUIET_FIRST, QUIET_LAST, RetireTally, RetireView, Retiring, Schedule,
    Scope, TcpFigures,
};
pub use run::{Wiring, run};
pub use stance::{InForce, Stance, Steers};
pub use stats::SteeringStats;
pub use view::GuardView;
pub use watch::Watch;
