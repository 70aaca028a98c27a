//! One accepted connection: TLS, then HTTP/2 or HTTP/1.1 by hyper.

use std::{
    error::Error,
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, server::conn, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{App, Fault, Phase, Recorded, Upload, farewell::Farewell, gate::Gate, host, net_http};
use crate::sim::api::{
    self,
    authn::PeerCertificate,
    body::{Counted, CountedBody},
};

/// kube-apiserver's HTTP/2 settings (apiserver `server/secure_serving.go`).
const STREAM_WINDOW: u32 = 256 << 10;
pub(super) const CONNECTION_WINDOW: u32 = 100 * STREAM_WINDOW;
/// Go's http.DefaultMaxHeaderBytes.
const MAX_HEADER_LIST: u32 = 1 << 20;
/// For how many milliseconds the server thinks about a request with this header.
pub(crate) const THINKS: &str = "x-test-thinks-ms";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// What requests need to know of the connection they came over.
#[derive(Debug)]
pub struct Connection {
    /// From 1, over the life of the server object.
    pub id: u64,
    pub peer: SocketAddr,
    pub http2: bool,
    pub certificate: PeerCertificate,
    /// The connection ends with the answer that is made now.
    pub ends: Arc<AtomicBool>,
    abort: Arc<AtomicBool>,
}

/// Runs until the connection ends. What goes wrong on it is the peer's matter and not reported.
pub(super) async fn run(
    app: Arc<App>,
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    id: u64,
) {
    let mut phase = app.phase.clone();
    phase.mark_unchanged();
    let abort = Arc::new(AtomicBool::new(false));
    // Fails only on a socket that is closed already.
    let _ = tcp.set_nodelay(true);
    let gate = Gate {
        tcp,
        faults: app.faults.clone(),
        phase: phase.clone(),
        abort: abort.clone(),
        _open: Counted::new(&app.connections),
    };
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(gate));
    let mut killed = phase.clone();
    let tls = tokio::select! {
        tls = handshake => tls,
        () = over(&mut killed) => return,
    };
    let Ok(Ok(tls)) = tls else { return };
    let (_, session) = tls.get_ref();
    let http2 = session.alpn_protocol() == Some(b"h2");
    let certificate = app
        .authorities
        .inspect(session.peer_certificates().unwrap_or_default());
    let connection = Arc::new(Connection {
        id,
        peer,
        http2,
        certificate,
        ends: Arc::default(),
        abort,
    });
    serve(app, connection, tls, phase).await;
}

async fn serve(
    app: Arc<App>,
    connection: Arc<Connection>,
    tls: TlsStream<Gate>,
    phase: watch::Receiver<Phase>,
) {
    let http2 = connection.http2;
    let max_streams = app.max_concurrent_streams;
    let connection_window = app.connection_window;
    let ends = connection.ends.clone();
    let service = service_fn(move |request| respond(app.clone(), connection.clone(), request));
    if http2 {
        let io = TokioIo::new(Farewell::new(tls, &ends));
        let conn = conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(connection_window)
            .max_frame_size(STREAM_WINDOW)
            // h2 derives from it how many frames a header may come in, which Go does not limit below 1 MB.
            .max_header_list_size(16 * MAX_HEADER_LIST)
            .max_concurrent_streams(max_streams)
            // Go has so many wait for a handler, reset or not, before it ends the connection (x/net `scheduleHandler`).
            .max_pending_accept_reset_streams(4 * max_streams as usize)
            // Go's server has no limit for what it resets itself over a connection's life.
            .max_local_error_reset_streams(None)
            .serve_connection(io, service);
        drive(pin!(conn), phase, |conn| conn.graceful_shutdown()).await;
    } else {
        let io = TokioIo::new(tls);
        let conn = conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .title_case_headers(true)
            // Go counts bytes, not fields.
            .max_headers(20_000)
            .max_buf_size(MAX_HEADER_LIST as usize)
            .serve_connection(io, service)
            .with_upgrades();
        drive(pin!(conn), phase, |conn| conn.graceful_shutdown()).await;
    }
}

/// Runs the connection, tells it to finish when the server says so, and drops it when the server was killed.
async fn drive<C: Future>(
    mut conn: Pin<&mut C>,
    mut phase: watch::Receiver<Phase>,
    finish: impl Fn(Pin<&mut C>),
) {
    loop {
        tokio::select! {
            _ = conn.as_mut() => return,
            changed = phase.changed() => {
                let phase = *phase.borrow_and_update();
                if changed.is_err() || phase == Phase::Killed {
                    return;
                }
                if phase != Phase::Leaving {
                    finish(conn.as_mut());
                }
            }
        }
    }
}

async fn over(phase: &mut watch::Receiver<Phase>) {
    // An error means that the server object is gone.
    let _ = phase.wait_for(|phase| *phase == Phase::Killed).await;
}

async fn respond(
    app: Arc<App>,
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<CountedBody>, Box<dyn Error + Send + Sync>> {
    let (parts, body) = request.into_parts();
    // Go's HTTP/2 server takes no user information in an authority.
    let userinfo = |parts: &http::request::Parts| {
        let authority = parts.uri.authority();
        authority.is_some_and(|authority| authority.as_str().contains('@'))
    };
    if connection.http2 && userinfo(&parts) {
        app.log.record(Recorded::new(&parts, &connection, None));
        return Err(h2::Error::from(h2::Reason::PROTOCOL_ERROR).into());
    }
    // What agents ask for themselves, and follow for as long as they run, is no request of a test.
    let own = parts
        .headers
        .get("x-remote-user")
        .is_some_and(|user| user == "system:mvp");
    let count = Counted::new(if own {
        &app.own_streams
    } else {
        &app.open_streams
    });
    if !connection.http2
        && let Some(refused) = host::refused(&parts)
    {
        return Ok(refused.map(|body| CountedBody::new(body, count)));
    }
    if let Some(answer) = net_http::answered(&parts, connection.http2) {
        app.log.record(Recorded::new(&parts, &connection, None));
        return Ok(answer.map(|body| CountedBody::new(body, count)));
    }
    let concerned = app.faults.concern(parts.uri.path());
    let fault = if concerned { app.faults.take() } else { None };
    // hyper resets the stream with the reason of the h2 error that it finds here.
    let reason = match fault {
        None | Some(Fault::Cut(_)) => None,
        Some(Fault::Refused) => Some(h2::Reason::REFUSED_STREAM),
        Some(Fault::Rejected) => Some(h2::Reason::PROTOCOL_ERROR),
        Some(Fault::Reset) => Some(h2::Reason::INTERNAL_ERROR),
    };
    if let Some(reason) = reason {
        app.log.record(Recorded {
            fault,
            ..Recorded::new(&parts, &connection, None)
        });
        if !connection.http2 {
            connection.abort.store(true, Ordering::SeqCst);
        }
        return Err(h2::Error::from(reason).into());
    }
    let delay = app.faults.delay();
    if concerned && !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let number = app.log.number(&parts.headers);
    let thinks = parts
        .headers
        .get(THINKS)
        .and_then(|value| value.to_str().ok());
    if let Some(thinks) = thinks.and_then(|millis| millis.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(thinks)).await;
    }
    let log = Arc::clone(&app.log);
    let malformed = Arc::new(AtomicBool::new(false));
    let body = Upload::new(body, &parts.headers, connection.http2, &malformed);
    let response = api::handle(app, &connection, parts, body).await;
    if let Some(number) = number {
        log.answered(&number, response.status());
    }
    if malformed.load(Ordering::SeqCst) {
        return Err(h2::Error::from(h2::Reason::PROTOCOL_ERROR).into());
    }
    Ok(response.map(|body| match fault {
        Some(Fault::Cut(bytes)) => CountedBody::new(api::body::cut(body, bytes), count),
        _ => CountedBody::new(body, count),
    }))
}
