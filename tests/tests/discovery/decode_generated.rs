//! Discovery documents that are generated: every form of the same surface reads the same, and no bytes panic.

use std::collections::BTreeMap;

use mvp::api::{ApiSet, GroupVersion, Verb, VerbSet};
use mvp::discovery::fuzz_decode;
use mvp::document::{Decoded, Root};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::decode::{keys, v2};

type Key = (String, String, String, String);

/// What a server serves, from which every form of document is made.
type Model = BTreeMap<Key, Vec<&'static str>>;

fn model() -> impl Strategy<Value = Model> {
    let verbs = prop::sample::subsequence(
        vec!["get", "list", "watch", "create", "delete", "bind"],
        0..=6,
    );
    let name = "[a-z]{1,3}";
    let group = prop_oneof![Just(String::new()), "[a-z]{1,3}(\\.io)?"];
    let sub = prop_oneof![Just(String::new()), "[a-z]{1,3}"];
    prop::collection::btree_map((group, name, name, sub), verbs, 0..40)
}

fn expected(model: &Model) -> Vec<String> {
    model
        .iter()
        .map(|((g, v, r, s), verbs)| {
            let set = VerbSet::from_names(verbs.iter().copied());
            let verbs: Vec<_> = set.iter().map(Verb::as_str).collect();
            format!("{g}/{v}/{r}/{s} {}", verbs.join(","))
        })
        .collect()
}

/// JSON text with the fields of every object in an order that `turn` decides.
fn write(value: &Value, turn: usize) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields
                .iter()
                .map(|(k, v)| format!("{}:{}", json!(k), write(v, turn / 2)))
                .collect();
            let count = fields.len().max(1);
            fields.rotate_left(turn % count);
            format!("{{{}}}", fields.join(","))
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|v| write(v, turn)).collect();
            format!("[{}]", items.join(","))
        }
        other => other.to_string(),
    }
}

/// Every entry as a group of its own, shuffled, some twice: nothing but the keys and verbs may matter.
fn scattered(model: &Model, order: &[usize], root: Root) -> Value {
    let mut items: Vec<Value> = model
        .iter()
        .filter(|((g, ..), _)| root.holds(g))
        .map(|((g, v, r, s), verbs)| {
            let resource = if s.is_empty() {
                json!({"resource": r, "responseKind": {"kind": "X"}, "verbs": verbs})
            } else {
                json!({"resource": r, "subresources": [{"subresource": s, "verbs": verbs}]})
            };
            json!({"metadata": {"name": g}, "versions": [{"version": v, "resources": [resource]}]})
        })
        .collect();
    for (i, at) in order.iter().enumerate() {
        if !items.is_empty() {
            let (i, at) = (i % items.len(), at % items.len());
            items.swap(i, at);
            items.push(items[at].clone());
        }
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2beta1", "items": items})
}

fn nested(model: &Model, root: Root) -> Value {
    let mut groups: BTreeMap<&str, BTreeMap<&str, BTreeMap<&str, Value>>> = BTreeMap::new();
    for ((g, v, r, s), verbs) in model.iter().filter(|((g, ..), _)| root.holds(g)) {
        let versions = groups.entry(g).or_default();
        let resource = versions
            .entry(v)
            .or_default()
            .entry(r)
            .or_insert_with(|| json!({"resource": r}));
        if s.is_empty() {
            resource["responseKind"] = json!({"group": "", "version": "", "kind": "X"});
            resource["verbs"] = json!(verbs);
        } else if let Some(list) = resource["subresources"].as_array_mut() {
            list.push(json!({"subresource": s, "verbs": verbs}));
        } else {
            resource["subresources"] = json!([{"subresource": s, "verbs": verbs}]);
        }
    }
    let items: Vec<_> = groups
        .into_iter()
        .map(|(g, versions)| {
            let versions: Vec<_> = versions
                .into_iter()
                .map(|(v, rs)| json!({"version": v, "resources": rs.into_values().collect::<Vec<_>>(), "freshness": "Current"}))
                .collect();
            json!({"metadata": {"name": g, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn from_legacy(model: &Model) -> ApiSet {
    let mut lists: BTreeMap<(String, String), Vec<Value>> = BTreeMap::new();
    for ((g, v, r, s), verbs) in model {
        let name = if s.is_empty() {
            r.clone()
        } else {
            format!("{r}/{s}")
        };
        lists
            .entry((g.clone(), v.clone()))
            .or_default()
            .push(json!({"name": name, "kind": "X", "verbs": verbs}));
    }
    let mut entries = Vec::new();
    for ((group, version), list) in lists {
        let gv = GroupVersion {
            group: group.into(),
            version: version.into(),
        };
        let document =
            json!({"kind": "APIResourceList", "groupVersion": gv.to_string(), "resources": list});
        let document = document.to_string();
        let decoded = Decoded::from_legacy(&[(gv, document.as_bytes())]).unwrap();
        assert_eq!(decoded.refused, 0);
        entries.extend(decoded.document.entries());
    }
    ApiSet::new(entries)
}

fn from_aggregated(document: impl Fn(Root) -> String) -> ApiSet {
    let mut entries = Vec::new();
    for root in [Root::Core, Root::Groups] {
        let decoded = Decoded::aggregated(document(root).as_bytes(), root).unwrap();
        assert_eq!(decoded.refused, 0);
        entries.extend(decoded.document.entries());
    }
    ApiSet::new(entries)
}

proptest! {
    #[test]
    fn every_form_of_the_same_surface_reads_the_same(
        model in model(), order in prop::collection::vec(0usize..64, 0..20), turn in 0usize..1000,
    ) {
        let expected = expected(&model);
        prop_assert_eq!(keys(&from_aggregated(|root| write(&nested(&model, root), turn))), expected.clone());
        prop_assert_eq!(keys(&from_aggregated(|root| write(&scattered(&model, &order, root), turn))), expected.clone());
        prop_assert_eq!(keys(&from_legacy(&model)), expected);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        fuzz_decode(&bytes);
    }

    #[test]
    fn no_damage_panics(model in model(), at in any::<prop::sample::Index>(), with in any::<Vec<u8>>(), cut in any::<bool>()) {
        let mut document = nested(&model, Root::Groups).to_string().into_bytes();
        let at = at.index(document.len());
        let end = if cut { document.len() } else { (at + with.len()).min(document.len()) };
        document.splice(at..end, with);
        fuzz_decode(&document);
    }

    #[test]
    fn no_json_panics(value in any_json()) {
        fuzz_decode(value.to_string().as_bytes());
        fuzz_decode(&v2(value));
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        ".{0,8}".prop_map(|s| json!(s)),
    ];
    let field = prop_oneof![
        Just("kind"),
        Just("items"),
        Just("metadata"),
        Just("name"),
        Just("versions"),
        Just("version"),
        Just("resources"),
        Just("resource"),
        Just("responseKind"),
        Just("verbs"),
        Just("subresources"),
        Just("subresource"),
        Just("freshness"),
        Just("x"),
    ];
    leaf.prop_recursive(6, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(field.clone(), inner, 0..4).prop_map(
                |fields| Value::Object(
                    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
                )
            ),
        ]
    })
}
