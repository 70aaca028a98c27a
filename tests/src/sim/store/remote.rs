//! The other end of `host`: the store as seen from a child process.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::oneshot,
};

use super::{Batch, Op, Reply, Scope, StoreError};

type Answer = Result<Reply, StoreError>;

#[derive(Debug)]
pub struct Remote {
    socket: PathBuf,
    next: AtomicU64,
    write: tokio::sync::Mutex<OwnedWriteHalf>,
    waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>,
}

#[derive(Debug)]
pub struct RemoteWatch {
    lines: Lines<BufReader<OwnedReadHalf>>,
    /// Kept open: its end tells the host that the watch is over.
    _write: OwnedWriteHalf,
    revision: u64,
}

impl Remote {
    pub(super) async fn connect(socket: &Path) -> Result<Self, StoreError> {
        let (read, write) = UnixStream::connect(socket).await?.into_split();
        let waiting = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(dispatch(read, waiting.clone()));
        Ok(Self {
            socket: socket.into(),
            next: AtomicU64::new(1),
            write: tokio::sync::Mutex::new(write),
            waiting,
        })
    }

    pub(super) async fn call(&self, op: Op) -> Answer {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = oneshot::channel();
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, send);
        let mut line = serde_json::to_vec(&(id, op))
            .map_err(|error| StoreError::Unreachable(error.to_string()))?;
        line.push(b'\n');
        self.write.lock().await.write_all(&line).await?;
        receive
            .await
            .map_err(|_| StoreError::Unreachable("the store closed the connection".into()))?
    }

    pub(super) async fn watch(&self, scope: Scope, from: u64) -> Result<RemoteWatch, StoreError> {
        let (read, mut write) = UnixStream::connect(&self.socket).await?.into_split();
        let line = serde_json::to_string(&(0, Op::Watch(scope, from)))
            .map_err(|error| StoreError::Unreachable(error.to_string()))?;
        write.write_all((line + "\n").as_bytes()).await?;
        Ok(RemoteWatch {
            lines: BufReader::new(read).lines(),
            _write: write,
            revision: from,
        })
    }
}

impl RemoteWatch {
    pub(super) async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            let line = self
                .lines
                .next_line()
                .await?
                .ok_or_else(|| StoreError::Unreachable("the watch ended".into()))?;
            let batch: Result<Batch, StoreError> = serde_json::from_str(&line)
                .map_err(|error| StoreError::Unreachable(error.to_string()))?;
            let batch = batch?;
            self.revision = batch.revision;
            if !batch.events.is_empty() {
                return Ok(batch);
            }
        }
    }

    pub(super) fn now(&mut self) -> Batch {
        Batch {
            events: Vec::new(),
            revision: self.revision,
        }
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

async fn dispatch(read: OwnedReadHalf, waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>) {
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok((id, answer)) = serde_json::from_str::<(u64, Answer)>(&line) else {
            break;
        };
        let sender = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if let Some(sender) = sender {
            // The caller may have been cancelled.
            let _ = sender.send(answer);
        }
    }
    // Wakes every caller with an error.
    waiting
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clear();
}
