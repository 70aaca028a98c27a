//! The fast upstream's HTTP/2.

use std::task::Poll;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;

use super::answering::{Answering, parts};
use super::upstream::{Counted, Server, is_told};
use crate::proving;

/// Serves one connection until it ends. `certificate`: its client has shown one.
pub(super) async fn serve<S>(io: S, certificate: bool, server: Server) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Server {
        answers,
        events,
        watches,
        way,
        ..
    } = server;
    let mut connection = h2::server::Builder::new()
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        // golang.org/x/net/http2's default, which kube-apiserver keeps.
        .max_concurrent_streams(250)
        .handshake::<_, Bytes>(io)
        .await?;
    let mut open: Vec<(h2::SendStream<Bytes>, Counted)> = Vec::new();
    // Agents watch as well, what never changes here.
    let mut silent: Vec<h2::SendStream<Bytes>> = Vec::new();
    let mut told = events.subscribe();
    drop(events);
    // No task for each request: lean answers to all requests of one read leave in one write.
    loop {
        let next = tokio::select! {
            biased;
            next = connection.accept() => next,
            event = told.recv(), if !open.is_empty() => {
                match event {
                    // A watch that has ended takes nothing more.
                    Ok(event) => open.retain_mut(|(watch, _)| watch.send_data(event.clone(), false).is_ok()),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                }
                continue;
            }
        };
        let Some(next) = next else { return Ok(()) };
        let (request, respond) = next?;
        let (path, headers) = (request.uri().path(), request.headers());
        if let Some((status, body)) = proving::answer(path, headers, certificate) {
            prove(status, body, respond)?;
            continue;
        }
        let answering = way.get();
        let (answer, head) = answers.to(&request, answering);
        let Some(stream) = begin(&request, head, respond)? else {
            continue;
        };
        if !answer.open {
            send(&mut connection, stream, answer.body.clone(), answering).await?;
        } else if is_told(&request) {
            if open.is_empty() {
                // Earlier events are not for it.
                told = told.resubscribe();
            }
            open.push((stream, Counted::new(&watches)));
        } else {
            silent.push(stream);
        }
    }
}

fn prove(
    status: StatusCode,
    body: Bytes,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    *head.status_mut() = status;
    respond.send_response(head, false)?.send_data(body, true)
}

/// Sends the head. `None`: that is all of the answer.
fn begin(
    request: &Request<RecvStream>,
    head: Response<()>,
    mut respond: SendResponse<Bytes>,
) -> Result<Option<h2::SendStream<Bytes>>, h2::Error> {
    let bodiless =
        head.status() == StatusCode::NOT_MODIFIED || request.method() == http::Method::HEAD;
    let stream = respond.send_response(head, bodiless)?;
    Ok((!bodiless).then_some(stream))
}

async fn send<S>(
    connection: &mut Connection<S, Bytes>,
    mut stream: h2::SendStream<Bytes>,
    body: Bytes,
    answering: Answering,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if answering == Answering::Lean {
        stream.send_data(body, true)?;
        return Ok(());
    }
    // The head is written first, and a client that waits for it may run before the body follows, as it may while Go runs the handler.
    std::future::poll_fn(|cx| match connection.poll_closed(cx) {
        Poll::Ready(ended) => Poll::Ready(ended.context("the client left")),
        Poll::Pending => Poll::Ready(Ok(())),
    })
    .await?;
    tokio::task::yield_now().await;
    for (part, last) in parts(body) {
        // The client may have given it up meanwhile.
        if stream.send_data(part, last).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rustls_pki_types::ServerName;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::bench::target::{SERVER_NAME, answered_by, request};
    use crate::bench::upstream::{MEDIUM, PATH, Upstream};
    use crate::load::{Endpoint, tls};
    use crate::sim::pki::Pki;

    /// What a TLS record adds to its plain bytes besides its header: an authentication tag, and its type (RFC 8446 §5.2).
    const SEALED: usize = 17;
    /// An HTTP/2 frame's header.
    const HEADER: usize = 9;

    /// Passes one connection on to `server`, and keeps the bytes that come from there.
    async fn tap(listener: TcpListener, server: std::net::SocketAddr, seen: Arc<Mutex<Vec<u8>>>) {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(server).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        let down = async {
            let mut buffer = vec![0; 65536];
            while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
                seen.lock().unwrap().extend_from_slice(&buffer[..count]);
                let written = tokio::io::AsyncWriteExt::write_all(&mut to_client, &buffer[..count]);
                if written.await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::join!(up, down);
    }

    /// The plain bytes of each TLS record with application data that the peer sends to a client with one GET.
    async fn records(answering: Answering, path: &str) -> Vec<usize> {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::generate(dir.path()).unwrap();
        let upstream = Upstream::start(&pki).unwrap();
        upstream.answer(answering);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint {
            address: listener.local_addr().unwrap(),
            server_name: ServerName::try_from(SERVER_NAME).unwrap(),
            tls: Arc::new(tls(pki.read("ca.crt").unwrap().as_bytes(), &["h2"]).unwrap()),
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let tap = tokio::spawn(tap(listener, upstream.peer, Arc::clone(&seen)));
        let mut get = request().unwrap();
        get.uri = format!("https://{SERVER_NAME}{path}").parse().unwrap();
        let server = answered_by(&endpoint, &get).await.unwrap();
        assert_eq!(server.as_deref(), Some("peer"));
        tap.abort();
        let seen = seen.lock().unwrap();
        let (mut rest, mut records) = (seen.as_slice(), Vec::new());
        while let [kind, _, _, high, low, behind @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            // Application data (RFC 8446 §5.1).
            if *kind == 23 {
                records.push(length - SEALED);
            }
            rest = &behind[length..];
        }
        records
    }

    #[tokio::test]
    async fn a_lean_answer_is_one_record() {
        let records = records(Answering::Lean, PATH).await;
        let last = records.last().unwrap();
        assert!((1024 + 2 * HEADER..1600).contains(last), "{records:?}");
    }

    #[tokio::test]
    async fn a_real_answer_begins_with_a_record_for_its_head() {
        let records = records(Answering::Real, PATH).await;
        let [.., head, body] = records.as_slice() else {
            panic!("{records:?}")
        };
        assert!((100..600).contains(head), "{records:?}");
        assert_eq!(*body, HEADER + 1536, "{records:?}");
    }

    #[tokio::test]
    async fn a_real_list_comes_by_what_a_handler_gathers() {
        let records = records(Answering::Real, MEDIUM).await;
        let gathered = records.iter().filter(|bytes| **bytes == HEADER + 4096);
        // Behind the client's first window (RFC 9113 §6.9.2) the windows that it opens decide.
        assert!(gathered.count() >= 65_535 / 4096, "{records:?}");
        assert!(records.iter().all(|bytes| *bytes < 2 * 4096), "{records:?}");
    }
}
