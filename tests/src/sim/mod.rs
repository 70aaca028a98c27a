//! Any number of simulated kube-apiservers of chosen Kubernetes minors over one store. They answer, over real TLS and
//! HTTP, as recorded kube-apiservers did, and fail on command.

pub mod api;
mod apiservices;
mod clock;
pub mod control;
pub mod discovery;
pub mod identity;
pub mod negotiation;
pub mod pki;
mod plane;
mod process;
mod server;
mod storage_versions;
pub mod store;
pub mod surface;

pub use plane::{Builder, ControlPlane};
pub use process::ChildServer;
pub use server::{AnyCertificate, Fault, Recorded, Server, ServerSpec};
pub(crate) use server::{NUMBER, Numbered, THINKS};
