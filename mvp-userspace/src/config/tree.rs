//! A configuration before its values have types: keys and scalars, with where each came from.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::keys::{ConfigKey, KEYS, Need, ValueType, millis};
use super::{ConfigError, value};

/// Only keys that [`KEYS`] knows; list elements as `peers.static[0].name`.
#[derive(Debug)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
    /// What relative paths are relative to.
    base: PathBuf,
}

#[derive(Debug)]
struct Entry {
    value: Value,
    /// The flag that set it; none: the file.
    flag: Option<String>,
}

impl Tree {
    /// No key is set. Relative paths will be relative to the folder `base`.
    pub fn empty(base: &Path) -> Self {
        Self {
            entries: BTreeMap::new(),
            base: base.to_owned(),
        }
    }

    /// Errors: an unknown key, or a mapping where a value belongs and the other way round.
    pub fn from_document(document: Value, base: &Path) -> Result<Self, ConfigError> {
        let mut tree = Self::empty(base);
        match document {
            Value::Null => {}
            Value::Object(_) => tree.flatten("", document)?,
            other => {
                let problem = format!("a mapping is needed, not {}", kind_of(&other));
                return Err(ConfigError::new("file", problem));
            }
        }
        Ok(tree)
    }

    /// Sets `key` to what `flag` says. Paths given by flags are relative to the working directory: resolve them before.
    pub fn set(&mut self, key: &str, value: Value, flag: &str) -> Result<(), ConfigError> {
        let key = whole_name(key);
        if find(key).is_none() {
            return Err(ConfigError::new(flag, format!("{key}: {}", unknown(key))));
        }
        let flag = Some(flag.to_owned());
        self.entries.insert(key.to_owned(), Entry { value, flag });
        Ok(())
    }

    /// Removes every element of a list of mappings.
    pub fn clear_list(&mut self, list: &str) {
        let prefix = format!("{list}[");
        self.entries.retain(|key, _| !key.starts_with(&prefix));
    }

    /// Number of elements of a list of mappings.
    pub fn len(&self, list: &str) -> usize {
        (0..)
            .take_while(|i| self.has(&format!("{list}[{i}].")))
            .count()
    }

    /// True if a key that starts with `prefix` was set.
    pub fn has(&self, prefix: &str) -> bool {
        self.entries
            .range(prefix.to_owned()..)
            .next()
            .is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// An error at `key`, naming the flag that set it.
    pub fn fail(&self, key: &str, problem: impl AsRef<str>) -> ConfigError {
        match self.entries.get(key).and_then(|entry| entry.flag.as_ref()) {
            Some(flag) => ConfigError::new(format!("{key} ({flag})"), problem),
            None => ConfigError::new(key, problem),
        }
    }

    /// The scalar as text, or its default. `None`: optional and absent (or empty).
    pub fn text(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let (found, need) = self.look_up(key);
        let text = match found {
            Some(Value::String(text)) if text.is_empty() => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            Some(Value::Bool(truth)) => Some(truth.to_string()),
            Some(other) => {
                return Err(self.fail(key, format!("a value is needed, not {}", kind_of(other))));
            }
            None => None,
        };
        match (text, need) {
            (Some(text), _) => Ok(Some(text)),
            (None, Need::Default(default)) => Ok(Some(default.to_owned())),
            (None, Need::Optional(_)) => Ok(None),
            (None, Need::Required | Need::WithSection) => Err(self.fail(key, "missing")),
        }
    }

    /// As [`Tree::text`] for a key that is required or has a default.
    pub fn need(&self, key: &str) -> Result<String, ConfigError> {
        self.text(key)?.ok_or_else(|| self.fail(key, "missing"))
    }

    /// A list of texts; empty if the key is absent and has no default.
    ///
    /// # Errors
    /// It is no list, or an element of it is blank or no text.
    pub fn list(&self, key: &str) -> Result<Vec<String>, ConfigError> {
        let (found, need) = self.look_up(key);
        let elements = match (found, need) {
            (Some(Value::Array(elements)), _) => elements.as_slice(),
            (Some(other), _) => {
                return Err(self.fail(key, format!("a list is needed, not {}", kind_of(other))));
            }
            (None, Need::Default(default)) => return Ok(vec![default.to_owned()]),
            (None, _) => &[],
        };
        elements
            .iter()
            .map(|element| match element {
                Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
                Value::String(_) => Err(self.fail(key, "an element is empty")),
                Value::Number(number) => Ok(number.to_string()),
                other => Err(self.fail(key, format!("an element is {}", kind_of(other)))),
            })
            .collect()
    }

    /// A path, made absolute by the folder of the file; `None` if the key is absent.
    ///
    /// # Errors
    /// It is no text.
    pub fn path(&self, key: &str) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text(key)?.map(|text| self.base.join(text)))
    }

    /// As [`Tree::path`] for a key that is required or has a default.
    ///
    /// # Errors
    /// It is absent, or no text.
    pub fn need_path(&self, key: &str) -> Result<PathBuf, ConfigError> {
        Ok(self.base.join(self.need(key)?))
    }

    /// An `ip:port` that can be listened on or dialled; `None` if the key is absent.
    ///
    /// # Errors
    /// It is a name instead of an address, or its port is missing or 0.
    pub fn address(&self, key: &str) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = self.text(key)? else {
            return Ok(None);
        };
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => Ok(Some(address)),
            Ok(_) => Err(self.fail(key, format!("{text:?} has port 0"))),
            Err(_) => Err(self.fail(key, format!("{text:?} is no ip:port"))),
        }
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// It is anything else, or absent without a default.
    pub fn flag(&self, key: &str) -> Result<bool, ConfigError> {
        match self.need(key)?.as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(self.fail(key, format!("{other:?} is neither true nor false"))),
        }
    }

    /// One of the words the table allows.
    pub fn choice(&self, key: &str) -> Result<String, ConfigError> {
        let Some(ValueType::Choice(names)) = find(key).map(|k| k.kind) else {
            return Err(self.fail(key, "has no choices"));
        };
        let text = self.need(key)?;
        // YAML 1.1 readers and writers turn a plain `on` and `off` into true and false.
        let text = match text.as_str() {
            "true" if names.contains(&"on") => "on".to_owned(),
            "false" if names.contains(&"off") => "off".to_owned(),
            _ => text,
        };
        if names.contains(&text.as_str()) {
            Ok(text)
        } else {
            Err(self.fail(key, format!("{text:?} is none of {}", names.join(", "))))
        }
    }

    /// A duration with its unit, within the bounds of the table.
    ///
    /// # Errors
    /// It has no unit, or is out of bounds.
    pub fn duration(&self, key: &str) -> Result<Duration, ConfigError> {
        let found = value::duration(&self.need(key)?).map_err(|problem| self.fail(key, problem))?;
        match find(key).map(|k| k.kind) {
            Some(ValueType::Duration(min, max))
                if found < Duration::from_millis(min) || found > Duration::from_millis(max) =>
            {
                let (min, max) = (millis(min), millis(max));
                Err(self.fail(key, format!("{found:?} is not within {min} to {max}")))
            }
            _ => Ok(found),
        }
    }

    /// A number within the bounds of the table.
    ///
    /// # Errors
    /// It is no whole number, is out of bounds, or does not fit `T`.
    pub fn count<T: TryFrom<u64>>(&self, key: &str) -> Result<T, ConfigError> {
        let text = self.need(key)?;
        let (min, max) = match find(key).map(|k| k.kind) {
            Some(ValueType::Count(min, max) | ValueType::AutoCount(min, max)) => (min, max),
            _ => (0, u64::MAX),
        };
        text.parse::<u64>()
            .ok()
            .filter(|number| (min..=max).contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| self.fail(key, format!("{text} is no number within {min} to {max}")))
    }

    /// A fraction above 0 and at most 1.
    ///
    /// # Errors
    /// It is anything else.
    pub fn share(&self, key: &str) -> Result<f64, ConfigError> {
        let text = self.need(key)?;
        text.parse::<f64>()
            .ok()
            .filter(|share| *share > 0.0 && *share <= 1.0)
            .ok_or_else(|| self.fail(key, format!("{text} is no number above 0 and at most 1")))
    }

    fn look_up(&self, key: &str) -> (Option<&Value>, Need) {
        let need = find(key).map_or(Need::Optional(""), |k| k.need);
        (self.entries.get(key).map(|entry| &entry.value), need)
    }

    fn flatten(&mut self, path: &str, value: Value) -> Result<(), ConfigError> {
        let leaf = find(path);
        match value {
            // `key:` with nothing after it is the same as no key, if there is such a key.
            Value::Null if leaf.is_some() || is_section(path) => Ok(()),
            Value::Object(members) if leaf.is_none() && (path.is_empty() || is_section(path)) => {
                for (name, member) in members {
                    let child = if path.is_empty() {
                        name
                    } else {
                        format!("{path}.{name}")
                    };
                    self.flatten(&child, member)?;
                }
                Ok(())
            }
            Value::Array(elements) if leaf.is_none() && is_section(&format!("{path}[]")) => {
                for (i, element) in elements.into_iter().enumerate() {
                    let child = format!("{path}[{i}]");
                    if element.as_object().is_none_or(|members| members.is_empty()) {
                        let problem = format!("a mapping is needed, not {}", kind_of(&element));
                        return Err(ConfigError::new(child, problem));
                    }
                    self.flatten(&child, element)?;
                }
                Ok(())
            }
            value if leaf.is_some() => {
                let entry = Entry { value, flag: None };
                self.entries.insert(path.to_owned(), entry);
                Ok(())
            }
            value @ Value::String(_) if whole_name(path) != path => {
                let entry = Entry { value, flag: None };
                self.entries.insert(whole_name(path).to_owned(), entry);
                Ok(())
            }
            other if is_section(&format!("{path}[]")) => Err(ConfigError::new(
                path,
                format!("a list is needed, not {}", kind_of(&other)),
            )),
            other if is_section(path) => Err(ConfigError::new(
                path,
                format!("a mapping is needed, not {}", kind_of(&other)),
            )),
            _ => Err(ConfigError::new(path, unknown(path))),
        }
    }
}

/// The table's row for a key with or without list positions.
pub(super) fn find(key: &str) -> Option<&'static ConfigKey> {
    let general = generalize(key);
    KEYS.iter().find(|k| k.name == general)
}

/// The key that a section's own name is short for: `inspect: auto` says the same as `inspect: {mode: auto}`.
fn whole_name(path: &str) -> &str {
    match path {
        "inspect" => "inspect.mode",
        other => other,
    }
}

/// `peers.static[3].name` -> `peers.static[].name`
fn generalize(key: &str) -> String {
    let mut inside = false;
    key.chars()
        .filter(|c| {
            if *c == ']' {
                inside = false;
            }
            let keep = !inside;
            if *c == '[' {
                inside = true;
            }
            keep
        })
        .collect()
}

fn is_section(path: &str) -> bool {
    let prefix = format!("{}.", generalize(path));
    KEYS.iter().any(|k| k.name.starts_with(&prefix))
}

/// Suggests the nearest key that is a typing error away, or has the same last word.
fn unknown(key: &str) -> String {
    let general = generalize(key);
    let word = |name: &str| name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    let near = KEYS
        .iter()
        .flat_map(|k| prefixes(k.name))
        .map(|name| (distance(name, &general), name))
        .filter(|(edits, name)| *edits <= 2 && general.len() > 3 || word(name) == word(&general))
        .min();
    match near {
        Some((_, near)) => format!("unknown key (is {near} meant?)"),
        None => "unknown key".to_owned(),
    }
}

/// `a.b.c` -> `a`, `a.b`, `a.b.c`
fn prefixes(name: &'static str) -> impl Iterator<Item = &'static str> {
    name.match_indices('.')
        .map(|(at, _)| &name[..at])
        .chain([name])
}

/// Levenshtein's.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // One row of the table, without its first column, which is the number of the row.
    let mut row: Vec<usize> = (1..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let (mut diagonal, mut left) = (i, i + 1);
        for (cell, cb) in row.iter_mut().zip(&b) {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = *cell;
            left = substituted.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
