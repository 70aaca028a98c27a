//! The simulated control plane answers as real kube-apiservers do.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod apiservices;
mod auth;
mod clients;
mod cluster;
mod common;
mod discovery;
mod discovery_encodings;
mod discovery_openapi;
mod discovery_surface;
mod faults;
mod objects;
mod process;
mod shapes;
mod streams;
mod watch;
