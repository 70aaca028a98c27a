//! SPDY: a process whose streams are SPDY streams, and ports, of which each connection is a pair of streams.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::sync::mpsc;

use super::Wanted;
use super::container::{Output, Process};
use super::ports;
use super::spdy::{self, Event, Writer};

/// The two directions of a connection.
struct Session<S> {
    events: mpsc::Receiver<Event>,
    writer: Writer<WriteHalf<S>>,
    newest: u32,
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Session<S> {
    fn new(stream: S) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (sender, events) = mpsc::channel(16);
        tokio::spawn(spdy::read(read, sender));
        Self {
            events,
            writer: Writer::new(write),
            newest: 0,
        }
    }

    /// Does what every session does. What is left is the caller's.
    async fn usual(&mut self, event: Event) -> io::Result<Option<Event>> {
        match &event {
            Event::Ping(number) => {
                self.writer.pong(*number).await?;
                return Ok(None);
            }
            Event::Opened { id, .. } => {
                self.newest = *id;
                self.writer.reply(*id).await?;
            }
            Event::Data { .. } | Event::Reset { .. } => {}
        }
        Ok(Some(event))
    }

    /// Says goodbye, and waits until the client has gone: what it still sends would otherwise be answered with a reset, which can
    /// overtake what it has not read.
    async fn end(mut self) -> io::Result<()> {
        self.writer.end(self.newest).await?;
        while self.events.recv().await.is_some() {}
        Ok(())
    }
}

/// Streams are named by their `streamtype`; the process begins when all are there (kubelet
/// `pkg/cri/streaming/remotecommand/httpstream.go`).
pub(super) async fn process(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    wanted: Wanted,
    mut process: Process,
) -> io::Result<()> {
    let mut session = Session::new(stream);
    let mut streams: HashMap<String, u32> = HashMap::new();
    let names = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
    ];
    let all = |streams: &HashMap<String, u32>| {
        let mut wanted = names.iter().filter(|(_, wanted)| *wanted);
        wanted.all(|(name, _)| streams.contains_key(*name))
    };
    loop {
        tokio::select! {
            event = session.events.recv() => {
                let Some(event) = event else { return Ok(()) };
                match session.usual(event).await? {
                    Some(Event::Opened { id, mut headers }) => {
                        streams.insert(headers.remove("streamtype").unwrap_or_default(), id);
                    }
                    Some(Event::Data { id, bytes, last }) if streams.get("stdin") == Some(&id) => {
                        input(&mut process, bytes, last);
                    }
                    _ => {}
                }
            }
            output = process.output.recv(), if all(&streams) => {
                let (name, bytes) = match output {
                    Some(Output::Stdout(bytes)) => ("stdout", bytes),
                    Some(Output::Stderr(bytes)) => ("stderr", bytes),
                    Some(Output::Ended(status)) => {
                        let status = status.to_string();
                        for (name, bytes) in [("error", status.as_str()), ("stdout", ""), ("stderr", "")] {
                            if let Some(id) = streams.get(name) {
                                session.writer.data(*id, bytes.as_bytes(), true).await?;
                            }
                        }
                        return session.end().await;
                    }
                    None => return session.end().await,
                };
                if let Some(id) = streams.get(name) {
                    session.writer.data(*id, &bytes, false).await?;
                }
            }
        }
    }
}

fn input(process: &mut Process, bytes: Bytes, last: bool) {
    if let Some(stdin) = &process.stdin
        && !bytes.is_empty()
    {
        // It may have ended.
        let _ = stdin.send(bytes);
    }
    if last {
        process.stdin = None;
    }
}

/// A connection to a port: a stream for data and one for an error, which have the same `requestid`.
#[derive(Default)]
struct Pair {
    data: Option<u32>,
    error: Option<u32>,
    port: u16,
}

/// Any number of connections to ports (kubelet `pkg/cri/streaming/portforward/httpstream.go`).
pub(super) async fn ports(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    open: &[u16],
) -> io::Result<()> {
    let mut session = Session::new(stream);
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    while let Some(event) = session.events.recv().await {
        match session.usual(event).await? {
            Some(Event::Opened { id, headers }) => {
                let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
                let pair = pairs.entry(header("requestid").to_owned()).or_default();
                pair.port = header("port").parse().unwrap_or_default();
                match header("streamtype") {
                    "data" => pair.data = Some(id),
                    _ => pair.error = Some(id),
                }
                if let (Some(data), Some(error)) = (pair.data, pair.error)
                    && !open.contains(&pair.port)
                {
                    let refused = ports::refused(pair.port);
                    session.writer.data(error, refused.as_bytes(), true).await?;
                    session.writer.data(data, b"", true).await?;
                }
            }
            Some(Event::Data { id, bytes, last }) => {
                let pair = pairs.values().find(|pair| pair.data == Some(id));
                let Some(pair) = pair.filter(|pair| open.contains(&pair.port)) else {
                    continue;
                };
                session.writer.data(id, &bytes, last).await?;
                if let Some(error) = pair.error.filter(|_| last) {
                    session.writer.data(error, b"", true).await?;
                }
            }
            _ => {}
        }
    }
    session.end().await
}
