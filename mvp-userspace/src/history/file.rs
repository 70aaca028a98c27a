//! The file in which the record outlives the agent: beside the operators' socket, in a folder that is empty again after the node's
//! own restart, as the pins are.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::document::{HistoryDocument, MOST_BYTES};

/// Only its owner may read it: it names clients and servers.
const MODE: u32 = 0o600;

/// Reads and writes the record. Blocks on file I/O.
#[derive(Clone, Debug)]
pub struct Keep {
    path: PathBuf,
}

/// What was found.
#[derive(Debug)]
pub enum Kept {
    /// There is no file.
    Nothing,
    /// What the agent before this one left.
    Record(Box<HistoryDocument>),
    /// It is not used, for this reason.
    Unusable(String),
}

impl Keep {
    /// `admin.sock` has its record in `admin.history`.
    pub fn beside(socket: &Path) -> Self {
        Self {
            path: socket.with_extension("history"),
        }
    }

    /// Where the record is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the record. `now_ms`, milliseconds since 1970, is for times in it that lie in the future.
    pub fn read(&self, now_ms: u64) -> Kept {
        match self.bytes() {
            Ok(bytes) => match HistoryDocument::parse(&bytes, now_ms) {
                Ok(document) => Kept::Record(Box::new(document)),
                Err(error) => Kept::Unusable(error.to_string()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::Nothing,
            Err(error) => Kept::Unusable(error.to_string()),
        }
    }

    /// Replaces the file: who reads it sees the one or the other. Not flushed to a disk, since the folder is in memory.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, document: &HistoryDocument) -> io::Result<()> {
        let bytes = document.encode().map_err(io::Error::other)?;
        let mut aside = self.path.clone().into_os_string();
        aside.push(format!("-{}", std::process::id()));
        let aside = PathBuf::from(aside);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&aside)?;
        file.write_all(&bytes)?;
        fs::rename(&aside, &self.path)
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        // A pipe that nobody writes to must not hold the agent.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.path)?;
        let meta = file.metadata()?;
        let own = rustix::process::geteuid().as_raw();
        if !meta.is_file() || (meta.uid() != own && meta.uid() != 0) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "it is no file of this user's or root's",
            ));
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn keep() -> (tempfile::TempDir, Keep) {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep::beside(&dir.path().join("admin.sock"));
        (dir, keep)
    }

    #[test]
    fn what_was_written_is_read_and_nobody_else_can_read_it() {
        let (dir, keep) = keep();
        assert!(matches!(keep.read(NOW), Kept::Nothing));
        for closed in [false, true] {
            let document = HistoryDocument {
                closed,
                ..HistoryDocument::default()
            };
            keep.write(&document).unwrap();
            let Kept::Record(read) = keep.read(NOW) else {
                panic!("not read");
            };
            assert_eq!(*read, document);
        }
        let mode = fs::metadata(keep.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_record_is_not_used_and_does_not_hold_the_agent() {
        let (dir, keep) = keep();
        fs::write(keep.path(), "{").unwrap();
        assert!(matches!(keep.read(NOW), Kept::Unusable(_)));
        fs::remove_file(keep.path()).unwrap();
        let elsewhere = dir.path().join("elsewhere");
        fs::write(&elsewhere, "x").unwrap();
        symlink(&elsewhere, keep.path()).unwrap();
        assert!(matches!(keep.read(NOW), Kept::Unusable(_)));
        // A write replaces the link and leaves alone what it leads to.
        keep.write(&HistoryDocument::default()).unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"x");
        fs::remove_file(keep.path()).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(keep.path())
            .status();
        assert!(made.unwrap().success());
        assert!(matches!(keep.read(NOW), Kept::Unusable(_)));
    }
}
