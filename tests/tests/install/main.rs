//! What is installed, and how it is configured: the archive, the chart and its manifests, the unit, the recipes, the alerts and the
//! dashboard, and every configuration that must be refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod alerts;
mod broken;
mod broken_cases;
mod chart;
mod dist;
mod interface;
mod manifests;
mod recipes;
mod unit;
mod walk;
