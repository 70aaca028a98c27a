//! Flags that override the file's values.

use serde_json::Value;

use super::tree::{Tree, find};
use super::{ConfigError, ValueType};

const GATE: &str = "UnknownVersionInteroperabilityProxy";

/// Values from the command line, in the order given; a later one wins.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    values: Vec<(String, String, String)>,
    /// `NAME=URL`; any replaces the file's whole list.
    peers: Vec<String>,
    /// `--feature-gates=UnknownVersionInteroperabilityProxy=…`
    pub interoperability_proxy: Option<bool>,
}

impl Overrides {
    /// `flag` is what the user typed, for error texts. Lists are separated by commas.
    pub fn set(&mut self, key: &str, value: &str, flag: &str) {
        self.values
            .push((key.to_owned(), value.to_owned(), flag.to_owned()));
    }

    /// `--set KEY=VALUE`
    pub fn set_pair(&mut self, pair: &str) -> Result<(), ConfigError> {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| ConfigError::new("--set", format!("{pair:?} is not KEY=VALUE")))?;
        self.set(key, value, "--set");
        Ok(())
    }

    /// `--peer NAME=URL`
    pub fn peer(&mut self, pair: &str) {
        self.peers.push(pair.to_owned());
    }

    pub(super) fn apply(&self, tree: &mut Tree) -> Result<(), ConfigError> {
        for (key, value, flag) in &self.values {
            if key.contains('[') {
                let problem = format!("{key}: lists of mappings are set in the file, or by --peer");
                return Err(ConfigError::new(flag, problem));
            }
            tree.set(key, typed(key, value, flag)?, flag)?;
        }
        if !self.peers.is_empty() {
            tree.clear_list("peers.static");
        }
        for (i, pair) in self.peers.iter().enumerate() {
            let (name, url) = pair
                .split_once('=')
                .ok_or_else(|| ConfigError::new("--peer", format!("{pair:?} is not NAME=URL")))?;
            let element = format!("peers.static[{i}]");
            tree.set(&format!("{element}.name"), name.into(), "--peer")?;
            tree.set(&format!("{element}.url"), url.into(), "--peer")?;
        }
        Ok(())
    }
}

/// kube-apiserver's `--feature-gates` syntax. Only the gate this agent stands in for is known; another name is
/// refused, since a misspelt one would silently leave the agent on.
pub fn parse_feature_gates(text: &str) -> Result<Option<bool>, ConfigError> {
    let mut found = None;
    for pair in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let wrong = |problem: String| ConfigError::new("--feature-gates", problem);
        let (gate, value) = pair
            .split_once('=')
            .ok_or_else(|| wrong(format!("{pair:?} is not GATE=true or GATE=false")))?;
        if gate.trim() != GATE {
            return Err(wrong(format!(
                "unknown gate {gate:?}; the only one is {GATE}"
            )));
        }
        found = Some(match value.trim() {
            "true" => true,
            "false" => false,
            other => return Err(wrong(format!("{other:?} is neither true nor false"))),
        });
    }
    Ok(found)
}

fn typed(key: &str, value: &str, flag: &str) -> Result<Value, ConfigError> {
    match find(key).map(|k| k.kind) {
        Some(ValueType::TextList) => Ok(value
            .split(',')
            .map(str::trim)
            .filter(|element| !element.is_empty())
            .map(Value::from)
            .collect()),
        Some(ValueType::Path) if !value.is_empty() => {
            let path = std::path::absolute(value)
                .map_err(|error| ConfigError::new(flag, format!("{value:?}: {error}")))?;
            let path = path
                .to_str()
                .ok_or_else(|| ConfigError::new(flag, "the working directory is not UTF-8"))?;
            Ok(path.into())
        }
        _ => Ok(value.into()),
    }
}
