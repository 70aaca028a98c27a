//! The entry point of the fuzz target `discovery`.

use super::{MAX_PATHS, OpenApiIndex, changes};
use crate::api::{ApiSet, GroupVersion, is_path_segment};
use crate::document::{Decoded, MAX_ENTRIES, Root, group_versions};

/// Gives `data` to every decoder, as the fuzz target does. Must neither panic nor keep more than the limits allow.
pub fn fuzz_decode(data: &[u8]) {
    for root in [Root::Core, Root::Groups] {
        if let Ok(decoded) = Decoded::aggregated(data, root) {
            let entries = decoded.document.entries();
            assert!(entries.len() + decoded.refused <= MAX_ENTRIES);
            let set = ApiSet::new(entries);
            assert!(
                set.entries()
                    .iter()
                    .all(|e| root.holds(&e.group) && is_path_segment(&e.resource))
            );
        }
        if let Ok(listed) = group_versions(data, root) {
            assert!(listed.iter().all(|gv| is_path_segment(&gv.version)));
        }
    }
    for (group, version) in [("", "v1"), ("apps", "v1")] {
        let gv = GroupVersion {
            group: group.into(),
            version: version.into(),
        };
        if let Ok(decoded) = Decoded::from_legacy(&[(gv, data)]) {
            let entries = decoded.document.entries();
            assert!(entries.iter().all(|e| *e.version == *version));
        }
    }
    if let Ok(index) = OpenApiIndex::read(data) {
        assert!(index.len() <= MAX_PATHS);
        let urls = index.paths().map(|(_, url)| url);
        assert!(urls.into_iter().all(|url| url.starts_with("/openapi/v3/")));
    }
    for services in [false, true] {
        let _ = changes::Page::read(data, services);
        let _ = changes::Change::read(data, services);
    }
}
