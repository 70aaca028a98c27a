//! A configuration with every default written out, as a file that says the same.

use serde_json::{Map, Value};

use super::keys::{ConfigKey, KEYS, Need, ValueType};
use super::tree::Tree;
use super::{Config, ConfigError};

/// What is optional and absent is left out. Secrets are never part of it: the configuration names
/// the files that hold them.
pub(super) fn document(tree: &Tree, config: &Config) -> Result<Value, ConfigError> {
    let mut all = Map::new();
    for key in KEYS {
        match key.name.split_once("[].") {
            Some((list, member)) => {
                for i in 0..tree.len(list) {
                    let name = format!("{list}[{i}].{member}");
                    if let Some(value) = value(tree, key, &name)? {
                        element(&mut all, list, i, member, value);
                    }
                }
            }
            None if !needed(tree, key) => {}
            None => {
                let value = match key.name {
                    // Without it the host's name, which may be another one where the file is read.
                    "node" => Some(config.node.clone().into()),
                    name => value(tree, key, name)?,
                };
                if let Some(value) = value {
                    let path: Vec<&str> = key.name.split('.').collect();
                    put(&mut all, &path, value);
                }
            }
        }
    }
    Ok(Value::Object(all))
}

/// The defaults of a section without which there is none, such as `requestHeader`, are no values of a file that leaves it out.
fn needed(tree: &Tree, key: &ConfigKey) -> bool {
    let Some((section, _)) = key.name.split_once('.') else {
        return true;
    };
    let prefix = format!("{section}.");
    let whole = KEYS
        .iter()
        .any(|other| other.name.starts_with(&prefix) && other.need == Need::WithSection);
    !whole || section == "peers" || tree.has(&prefix)
}

fn value(tree: &Tree, key: &ConfigKey, name: &str) -> Result<Option<Value>, ConfigError> {
    Ok(match key.kind {
        ValueType::TextList => Some(tree.list(name)?)
            .filter(|list| !list.is_empty())
            .map(Value::from),
        ValueType::Path => tree
            .path(name)?
            .map(|path| path.display().to_string().into()),
        ValueType::Bool => Some(tree.flag(name)?.into()),
        ValueType::Choice(_) => Some(tree.choice(name)?.into()),
        ValueType::Count(..) | ValueType::AutoCount(..) | ValueType::Share => {
            tree.text(name)?.map(number)
        }
        _ => tree.text(name)?.map(Value::from),
    })
}

/// As a number, if it is one.
fn number(text: String) -> Value {
    if let Ok(whole) = text.parse::<u64>() {
        return whole.into();
    }
    match text.parse::<f64>() {
        Ok(share) => share.into(),
        Err(_) => text.into(),
    }
}

/// Sets `path`, making the mappings on its way.
fn put(into: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            into.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let section = into
                .entry(*first)
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(section) = section {
                put(section, rest, value);
            }
        }
    }
}

/// Sets `member` of the element `i` of a list of mappings.
fn element(into: &mut Map<String, Value>, list: &str, i: usize, member: &str, value: Value) {
    let (section, name) = match list.split_once('.') {
        Some((section, name)) => {
            let section = into
                .entry(section)
                .or_insert_with(|| Value::Object(Map::new()));
            (section.as_object_mut(), name)
        }
        None => (Some(into), list),
    };
    let Some(section) = section else { return };
    let elements = section
        .entry(name)
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(elements) = elements else {
        return;
    };
    while elements.len() <= i {
        elements.push(Value::Object(Map::new()));
    }
    if let Some(Value::Object(mapping)) = elements.get_mut(i) {
        mapping.insert(member.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::load;
    use super::super::{build, parse};
    use super::*;

    const SMALL: &str = "{apiVersion: mvp/v1, listen: '127.0.0.1:8443', serving: {certFile: c, keyFile: k}, \
        upstream: {caFile: ca}, local: {url: 'https://127.0.0.1:6443'}, inspect: armed, kernel: {steering: on}, \
        peers: {static: [{name: cp-b, url: 'https://10.0.0.2:6443'}, {name: cp-c, url: 'https://10.0.0.3:6443'}]}}";
    const WHOLE: &str = "{apiVersion: mvp/v1, node: cp-a, listen: '127.0.0.1:8443', serving: {certFile: c, keyFile: k}, \
        sni: [{certFile: s, keyFile: t, names: [a.example]}], clientCAFile: cc, \
        requestHeader: {clientCAFile: rc, allowedNames: [front-proxy-client]}, threads: 2, relay: {maxShare: 0.25}, \
        upstream: {caFile: ca, clientCertFile: u, clientKeyFile: v}, local: {url: 'https://127.0.0.1:6443'}}";

    fn shown(text: &str, base: &str) -> Value {
        let tree = load::tree(text, Path::new(base));
        let config = build::build(&tree).unwrap();
        document(&tree, &config).unwrap()
    }

    #[test]
    fn what_is_shown_says_the_same_as_the_file() {
        for text in [SMALL, WHOLE] {
            let yaml = serde_saphyr::to_string(&shown(text, "/etc/mvp")).unwrap();
            let here = parse(text, Path::new("/etc/mvp")).unwrap();
            let there =
                parse(&yaml, Path::new("/elsewhere")).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
            assert_eq!(here, there, "{yaml}");
        }
    }

    #[test]
    fn defaults_are_written_out_and_what_is_absent_is_not() {
        let small = shown(SMALL, "/etc/mvp");
        assert_eq!(small["limits"]["cancellations"], 400);
        assert_eq!(small["relay"]["maxShare"], 0.5);
        assert_eq!(small["threads"], "auto");
        assert_eq!(small["serving"]["certFile"], "/etc/mvp/c");
        assert_eq!(small["kernel"]["steering"], "on");
        assert_eq!(small["inspect"]["mode"], "armed");
        assert_eq!(small["peers"]["kubernetes"]["enabled"], false);
        assert_eq!(small["peers"]["static"][1]["name"], "cp-c");
        for absent in ["requestHeader", "sni", "clientCAFile"] {
            assert!(small.get(absent).is_none(), "{absent}");
        }
        let whole = shown(WHOLE, "/etc/mvp");
        assert_eq!(whole["requestHeader"]["uidHeaders"][0], "X-Remote-Uid");
        assert_eq!(whole["sni"][0]["names"][0], "a.example");
        let keys: Vec<_> = whole.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 19, "{keys:?}");
    }
}
