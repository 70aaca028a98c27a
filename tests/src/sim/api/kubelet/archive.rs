//! Archives of a container's files, as `tar` makes and reads them.

use std::collections::BTreeMap;
use std::io::Read as _;

/// By absolute path; a folder has no content.
pub(super) type Files = BTreeMap<String, Option<Vec<u8>>>;

/// The size of a header, and what content is padded to.
const BLOCK: usize = 512;

/// What lies at `path` and below, under names without a leading slash.
pub(super) fn pack(files: &Files, folder: &str, path: &str) -> std::io::Result<Option<Vec<u8>>> {
    let absolute = join(folder, path);
    let below = format!("{}/", absolute.trim_end_matches('/'));
    let mut archive = tar::Builder::new(Vec::new());
    let mut empty = true;
    for (name, content) in files {
        if *name != absolute && !name.starts_with(&below) {
            continue;
        }
        empty = false;
        let name = match path.starts_with('/') {
            true => name.trim_start_matches('/'),
            false => name[folder.len()..].trim_start_matches('/'),
        };
        // The folder itself, as `.`.
        if name.is_empty() {
            continue;
        }
        let mut header = tar::Header::new_ustar();
        match content {
            Some(content) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(0o644);
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, name, content.as_slice())?;
            }
            None => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(0o755);
                header.set_size(0);
                archive.append_data(&mut header, name, std::io::empty())?;
            }
        }
    }
    Ok(if empty {
        None
    } else {
        Some(archive.into_inner()?)
    })
}

/// Puts an archive's files into `folder`.
pub(super) fn unpack(files: &mut Files, folder: &str, archive: &[u8]) -> std::io::Result<()> {
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = join(folder, &entry.path()?.to_string_lossy());
        match entry.header().entry_type() {
            tar::EntryType::Directory => drop(files.insert(path, None)),
            tar::EntryType::Regular => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content)?;
                files.insert(path, Some(content));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the two empty blocks have come with which an archive ends. What reads one needs no end of its input.
pub(super) fn is_complete(archive: &[u8]) -> bool {
    let mut at = 0;
    while let Some(header) = archive.get(at..at + BLOCK) {
        if header.iter().all(|byte| *byte == 0) {
            let next = archive.get(at + BLOCK..at + 2 * BLOCK);
            return next.is_some_and(|next| next.iter().all(|byte| *byte == 0));
        }
        let size = tar::Header::from_byte_slice(header).entry_size();
        let size = size.map_or(0, |size| size as usize);
        at += BLOCK + size.next_multiple_of(BLOCK);
    }
    false
}

/// An absolute path without `.` and without slashes at its end.
pub(super) fn join(folder: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{folder}/{path}"),
    };
    let parts = whole
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    parts.fold(String::new(), |path, part| format!("{path}/{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let content = |text: &str| Some(text.as_bytes().to_vec());
        [
            ("/data".to_owned(), None),
            ("/data/a".to_owned(), content("one")),
            ("/data/b/c".to_owned(), content("")),
            ("/database".to_owned(), content("another")),
        ]
        .into()
    }

    #[test]
    fn what_is_packed_is_unpacked_elsewhere() {
        for (folder, path, at) in [
            ("/", "/data", "/x/data/a"),
            ("/", "data/", "/x/data/a"),
            ("/data", ".", "/x/a"),
            ("/data", "a", "/x/a"),
        ] {
            let archive = pack(&files(), folder, path).unwrap().unwrap();
            let mut unpacked = Files::new();
            unpack(&mut unpacked, "/x", &archive).unwrap();
            assert_eq!(unpacked[at].as_deref(), Some(&b"one"[..]), "{path}");
            assert!(!unpacked.contains_key("/x/database"), "{path}");
        }
        assert_eq!(pack(&files(), "/", "/none").unwrap(), None);
    }

    #[test]
    fn an_archive_is_complete_with_its_end_and_not_before() {
        let archive = pack(&files(), "/", "/data").unwrap().unwrap();
        assert!(is_complete(&archive));
        for cut in [0, 1, BLOCK, archive.len() - 2 * BLOCK, archive.len() - 1] {
            assert!(!is_complete(&archive[..cut]), "{cut}");
        }
    }
}
