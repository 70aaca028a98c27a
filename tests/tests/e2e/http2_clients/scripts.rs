//! Clients that are libraries: a script of each does what it is told.

use std::path::PathBuf;

use mvp_tests::script::Script;
use mvp_tests::{javascript, python};
use serde_json::{Value, json};

use super::{Answer, Foreign, Stage};

/// A script that keeps one connection.
pub(super) struct Scripted(Script);

impl Scripted {
    /// httpx.
    pub(super) fn python(stage: &Stage) -> Option<Self> {
        python::http2(&to(stage)).map(Self)
    }

    /// Node.js.
    pub(super) fn node(stage: &Stage) -> Option<Self> {
        javascript::start("http2.mjs", &to(stage)).map(Self)
    }

    /// A short upload with a trailer.
    pub(super) fn trailers(&mut self, path: &str) -> Answer {
        answer(&self.told(&json!(["trailers", path])))
    }

    /// What GOAWAY said.
    pub(super) fn goodbye(&mut self) -> Value {
        self.told(&json!(["goodbye"]))
    }

    fn told(&mut self, step: &Value) -> Value {
        let told = self.0.answer(&step.to_string()).unwrap();
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told.get("error"), None, "{step}");
        told
    }
}

/// Where the agent is, and who asks.
fn to(stage: &Stage) -> PathBuf {
    let pki = stage.plane.pki();
    let file = pki.path("http2.json");
    let to = json!({
        "url": format!("https://{}", stage.address),
        "ca": pki.path("ca.crt"),
        "cert": pki.path("admin.crt"),
        "key": pki.path("admin.key"),
    });
    std::fs::write(&file, to.to_string()).unwrap();
    file
}

fn answer(told: &Value) -> Answer {
    Answer {
        status: told["status"].as_u64().unwrap().try_into().unwrap(),
        text: told["text"].as_str().unwrap().to_owned(),
        trailers: told.get("trailers").map(Value::to_string),
    }
}

impl Foreign for Scripted {
    fn get(&mut self, path: &str) -> Answer {
        answer(&self.told(&json!(["get", path])))
    }

    fn post(&mut self, path: &str, size: usize) -> Answer {
        answer(&self.told(&json!(["post", path, size])))
    }

    fn many(&mut self, count: usize, path: &str) -> Vec<u16> {
        let told = self.told(&json!(["many", count, path]));
        serde_json::from_value(told).unwrap()
    }

    fn cancel(&mut self, path: &str) {
        assert_eq!(self.told(&json!(["cancel", path])), true);
    }

    fn begin(&mut self, path: &str) {
        assert_eq!(self.told(&json!(["begin", path])), Value::Null);
    }

    fn finish(&mut self) -> Answer {
        answer(&self.told(&json!(["finish"])))
    }
}
