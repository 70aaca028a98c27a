//! What must hold for any bytes that servers send.

use super::encode::{AggregatedVersion, Layout, aggregated_json, etag, to_json};
use super::legacy::{ApiResourceList, api_resource_list, merge_resource_list};
use super::merge::{Input, merge};
use super::priority::Priorities;
use super::protobuf::aggregated_protobuf;
use super::types::Document;
use super::{DecodeError, Root};
use crate::api::{GroupVersion, MAX_NAME};

/// Reads two documents out of `data` (to the first byte 0xff, which no text holds, and behind it; else its halves), merges and
/// writes them, and panics unless what must hold does.
pub fn fuzz_merge(data: &[u8]) {
    let middle = data.len() / 2;
    let at = data.iter().position(|byte| *byte == 0xff);
    let (a, b) = match at {
        Some(at) => (data.get(..at), data.get(at + 1..)),
        None => (data.get(..middle), data.get(middle..)),
    };
    let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
    for root in [Root::Core, Root::Groups] {
        let documents: Vec<Document> = [data, a, b]
            .iter()
            .filter_map(|bytes| Document::aggregated(bytes, root).ok())
            .collect();
        check_merge(&documents, root);
    }
    for bytes in [data, a, b] {
        let lists = [
            ApiResourceList::from_json(bytes),
            ApiResourceList::from_protobuf(bytes),
        ];
        for list in lists.into_iter().flatten() {
            check_list(&list, bytes);
        }
    }
}

fn check_merge(documents: &[Document], root: Root) {
    let priorities = Priorities::default();
    let mut inputs: Vec<Input<'_>> = documents
        .iter()
        .map(|document| Input {
            document,
            alive: true,
        })
        .collect();
    for input in &inputs {
        assert_eq!(merge(&[*input, *input], &priorities), *input.document);
    }
    let merged = merge(&inputs, &priorities);
    inputs.reverse();
    assert_eq!(merge(&inputs, &priorities), merged, "order of inputs");
    let set = merged.api_set();
    for document in documents {
        for entry in document.api_set().entries() {
            let found = set
                .entries()
                .binary_search_by(|other| other.key().cmp(&entry.key()));
            assert!(found.is_ok(), "{:?} is lost", entry.key());
        }
    }

    assert_eq!(etag(&merged).len(), 128);
    assert!(aggregated_protobuf(&merged, AggregatedVersion::V2).starts_with(b"k8s\0"));
    for (version, layout) in [
        (AggregatedVersion::V2, Layout::Compact),
        (AggregatedVersion::V2beta1, Layout::Pretty),
    ] {
        let json = aggregated_json(&merged, version, layout);
        match Document::aggregated(&json, root) {
            Ok(read) => assert_eq!(read, merged),
            // Two documents within the limits may not be so together.
            Err(DecodeError::TooMany { .. }) if documents.len() > 1 => {}
            Err(error) => panic!("{error}"),
        }
    }

    for group in &merged.groups {
        for version in &group.versions {
            let list = api_resource_list(&merged, &group.name, &version.version);
            let list = list.unwrap_or_default();
            let same = merge_resource_list(list.clone(), &merged, &group.name, &version.version);
            assert_eq!(same, list);
        }
    }
}

fn check_list(list: &ApiResourceList, bytes: &[u8]) {
    assert_eq!(
        ApiResourceList::from_protobuf(&list.to_protobuf()).as_ref(),
        Ok(list)
    );
    let json = to_json(list, Layout::Compact);
    assert_eq!(ApiResourceList::from_json(&json).as_ref(), Ok(list));

    let (group, version) = list
        .group_version
        .split_once('/')
        .unwrap_or(("", &list.group_version));
    if group.len() > MAX_NAME || version.len() > MAX_NAME {
        return;
    }
    let gv = GroupVersion {
        group: group.into(),
        version: version.into(),
    };
    let document = Document::from_legacy_lists(&[(gv.clone(), list.clone())]);
    if bytes.starts_with(b"{") && gv.to_string() == *list.group_version {
        assert_eq!(
            Document::from_legacy(&[(gv, bytes)]).as_ref(),
            Ok(&document)
        );
    }
    let root = match group {
        "" => Root::Core,
        _ => Root::Groups,
    };
    check_merge(&[document], root);
}
