//! The entry point of the fuzz target `discovery`.

use super::{MAX_PATHS, OpenApiIndex, changes};
use crate::api::{ApiSet, GroupVersion, is_path_segment};
use crate::document::{MAX_ENTRIES, Root, aggregated, group_versions, resources};

/// Gives `data` to every decoder, as the fuzz target does. Must neither panic nor keep more than the limits allow.
pub fn fuzz_decode(data: &[u8]) {
    for root in [Root::Core, Root::Groups] {
        if let Ok(decoded) = aggregated(data, root) {
            assert!(decoded.entries.len() <= MAX_ENTRIES);
            let set = ApiSet::new(decoded.entries);
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
        if let Ok(decoded) = resources(data, &gv) {
            assert!(decoded.entries.iter().all(|e| *e.version == *version));
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
