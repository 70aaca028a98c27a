//! The Unix socket of operators, at a path of mode 0600 that is never anybody else's.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Root's alone, or of the user who runs the agent.
const MODE: u32 = 0o600;
/// The mode of a folder that has to be created for it.
const FOLDER: u32 = 0o700;

/// A bound socket. The path is taken over from an agent that drains, and freed again at the end, unless another agent has taken it
/// over meanwhile.
#[derive(Debug)]
pub struct OperatorSocket {
    listener: Option<UnixListener>,
    place: SocketFile,
}

/// Frees the path when dropped.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Where it waits to be put into its place.
    aside: PathBuf,
    /// Device and inode: what is at the path may be another agent's.
    identity: (u64, u64),
}

impl OperatorSocket {
    /// Binds it beside its place, so that a start that fails takes nothing from an agent that runs.
    ///
    /// # Errors
    /// The folder cannot be made or belongs to somebody else, or the path is too long (107 bytes, unix(7)).
    pub fn bind(path: &Path) -> io::Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        make_folder(folder)?;
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!("-{}", std::process::id()));
        let aside = PathBuf::from(aside);
        free(&aside)?;
        let listener = UnixListener::bind(&aside)?;
        // Who may connect is who may write to it (unix(7)). Until here it has the mode that the umask leaves, in a folder that
        // nobody else may write to; whoever connects in this moment waits in a queue that is not served yet, and is the same user
        // unless the umask is 0.
        fs::set_permissions(&aside, Permissions::from_mode(MODE))?;
        let meta = fs::metadata(&aside)?;
        Ok(Self {
            listener: Some(listener),
            place: SocketFile {
                path: path.to_owned(),
                aside,
                identity: (meta.dev(), meta.ino()),
            },
        })
    }

    /// Puts it into its place: from now on commands come here.
    ///
    /// # Errors
    /// What is at the path is no socket, or cannot be replaced.
    pub fn publish(mut self) -> io::Result<PublishedSocket> {
        if let Ok(there) = fs::symlink_metadata(&self.place.path)
            && !there.file_type().is_socket()
        {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the path exists and is no socket",
            ));
        }
        fs::rename(&self.place.aside, &self.place.path)?;
        let listener = self.listener.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(PublishedSocket {
            listener,
            _place: self.place,
        })
    }
}

/// A socket that commands find.
#[derive(Debug)]
pub struct PublishedSocket {
    pub(super) listener: UnixListener,
    _place: SocketFile,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        for path in [&self.aside, &self.path] {
            let ours = fs::symlink_metadata(path)
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.identity);
            if ours && let Err(error) = fs::remove_file(path) {
                tracing::debug!(path = %path.display(), %error, "the operators' socket stays");
            }
        }
    }
}

/// Makes the folder, or looks whose it is: in a folder where others may rename files they could put a socket of their own into the
/// place of ours, and would be asked in our stead.
fn make_folder(folder: &Path) -> io::Result<()> {
    match DirBuilder::new()
        .mode(FOLDER)
        .recursive(true)
        .create(folder)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::metadata(folder)?;
    let owner = meta.uid();
    let own = rustix::process::geteuid().as_raw();
    let (writable, sticky) = (meta.mode() & 0o022 != 0, meta.mode() & 0o1000 != 0);
    if (owner != own && owner != 0) || (writable && !sticky) {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "others may change the folder {} (owner {owner}, mode {:04o}): chmod go-w it, or choose another",
                folder.display(),
                meta.mode() & 0o7777
            ),
        ));
    }
    Ok(())
}

/// What an agent of the same process number left behind when it was killed.
fn free(aside: &Path) -> io::Result<()> {
    match fs::remove_file(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[tokio::test]
    async fn it_is_for_its_owner_only_and_goes_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/admin.sock");
        let bound = OperatorSocket::bind(&path).unwrap();
        assert!(!path.exists(), "a start that fails must take nothing");
        let published = bound.publish().unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(published);
        assert_eq!(fs::read_dir(dir.path().join("run")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn the_next_agent_takes_it_over_and_the_old_one_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let old = OperatorSocket::bind(&path).unwrap().publish().unwrap();
        drop(OperatorSocket::bind(&path).unwrap());
        assert!(path.exists(), "a start that failed has not taken it");
        let new = OperatorSocket::bind(&path).unwrap().publish().unwrap();
        drop(old);
        let connected = tokio::net::UnixStream::connect(&path);
        let (accepted, connected) = tokio::join!(new.listener.accept(), connected);
        accepted.unwrap();
        connected.unwrap();
    }

    #[tokio::test]
    async fn no_other_file_is_replaced_and_no_folder_of_others_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "x").unwrap();
        assert!(OperatorSocket::bind(&path).unwrap().publish().is_err());
        assert_eq!(fs::read(&path).unwrap(), b"x");
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        let error = OperatorSocket::bind(&open.join("admin.sock")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        // As /tmp is: nobody may rename what is not theirs.
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        OperatorSocket::bind(&open.join("admin.sock")).unwrap();
    }
}
