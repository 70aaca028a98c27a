//! The configuration: one tree of plain types, read from YAML or from kube-apiserver's own manifest.

mod types;

pub use types::*;
