//! The same request straight to a kube-apiserver and through an agent: nothing that a client can see may differ.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod certificates;
mod days;
mod fields;
mod http2;
mod negotiation;
mod newer;
mod odd;
mod openapi;
mod outage;
mod probes;
mod targets;
mod unknown;
mod usual;
mod workloads;
mod writes;
