//! Helm's own library on the chart in deploy/, in a Python process. Helm itself is in no registry; its Go SDK is, packed for Python.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::python::environment;
use crate::script::{self, Script};

/// Ended when dropped.
pub struct Helm(Script);

/// Rendered templates by their names.
pub type Files = BTreeMap<String, String>;

impl Helm {
    /// `None`, with a line that says why, where the library cannot be had.
    ///
    /// # Panics
    /// It cannot be had although everything is required (`CI` is set to something).
    pub fn start() -> Option<Self> {
        let python = environment("python-helm", "helm_python", "helm/requirements.txt")?;
        let script = script::tests().join("helm/render.py");
        Some(Self(Script::start(&python, &script, &chart())))
    }

    /// What the chart is with these values, or why Helm refuses them.
    ///
    /// # Errors
    /// Helm's words.
    pub fn render(&mut self, values: &Value) -> Result<Files, String> {
        self.files(&json!({"render": values, "namespace": "kube-system"}))
    }

    /// The manifests for those who have no Helm, by their names in deploy/.
    ///
    /// # Errors
    /// Helm's words.
    pub fn plain(&mut self) -> Result<Files, String> {
        self.files(&json!({"plain": null}))
    }

    /// What `helm lint --strict` finds.
    pub fn lint(&mut self, values: &Value) -> Vec<String> {
        let told = self.ask(&json!({"lint": values}));
        serde_json::from_value(told["messages"].clone()).unwrap()
    }

    fn files(&mut self, question: &Value) -> Result<Files, String> {
        let told = self.ask(question);
        match told["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(serde_json::from_value(told["files"].clone()).unwrap()),
        }
    }

    fn ask(&mut self, question: &Value) -> Value {
        let line = self.0.answer(&question.to_string()).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// The chart's folder.
pub fn chart() -> PathBuf {
    deploy().join("chart")
}

/// What is deployed.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy")
}
