//! Offers a store of this process to other processes: a Unix socket, one JSON document a line.

use std::{io, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use super::{Batch, Op, Scope, Store, memory::Memory};

/// How often a watch without events tells its follower the revision, which bookmarks need.
const PROGRESS: Duration = Duration::from_secs(5);

/// Serves until dropped.
#[derive(Debug)]
pub struct Host {
    accept: JoinHandle<()>,
}

impl Host {
    /// A remote store cannot be hosted a second time.
    pub fn serve(store: &Store, socket: &Path) -> io::Result<Self> {
        let Store::Local(memory) = store else {
            return Err(io::Error::other(
                "only the process that owns the store can host it",
            ));
        };
        let memory = memory.clone();
        let listener = UnixListener::bind(socket)?;
        let accept = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A follower that goes away ends its own task.
                tokio::spawn(serve(memory.clone(), stream));
            }
        });
        Ok(Self { accept })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

async fn serve(memory: Arc<Memory>, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let (id, op): (u64, Op) = serde_json::from_str(&line)?;
        if let Op::Watch(scope, from) = op {
            // A watch takes the connection for itself.
            return follow(&memory, scope, from, write).await;
        }
        let mut reply = serde_json::to_vec(&(id, memory.apply(op)))?;
        reply.push(b'\n');
        write.write_all(&reply).await?;
    }
    Ok(())
}

async fn follow(
    memory: &Arc<Memory>,
    scope: Scope,
    from: u64,
    mut write: tokio::net::unix::OwnedWriteHalf,
) -> io::Result<()> {
    let mut watch = memory.watch(scope, from);
    loop {
        let batch: Result<Batch, _> = match tokio::time::timeout(PROGRESS, watch.next()).await {
            Ok(batch) => batch,
            Err(_) => watch.now(),
        };
        let mut line = serde_json::to_vec(&batch)?;
        line.push(b'\n');
        write.write_all(&line).await?;
        if batch.is_err() {
            return Ok(());
        }
    }
}
