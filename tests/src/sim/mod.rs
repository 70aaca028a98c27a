//! Any number of simulated kube-apiservers of chosen Kubernetes minors over one store.

pub mod discovery;
pub mod surface;
