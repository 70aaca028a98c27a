//! The Python client and the JavaScript client, whose days are scripts.

use mvp_tests::javascript;
use mvp_tests::python::Python;

use super::{Day, compare};

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_the_python_client_is_the_same() {
    compare("Python", async |kubeconfig, _| {
        tokio::task::block_in_place(|| {
            let mut python = Python::start("day.py", kubeconfig)?;
            Some(day(&python.answer("").unwrap()))
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_of_the_javascript_client_is_the_same() {
    compare("JavaScript", async |kubeconfig, _| {
        tokio::task::block_in_place(|| {
            let mut javascript = javascript::start("day.mjs", kubeconfig)?;
            Some(day(&javascript.answer("").unwrap()))
        })
    })
    .await;
}

fn day(line: &str) -> Day {
    serde_json::from_str(line).unwrap()
}
