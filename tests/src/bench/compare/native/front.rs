//! Accepts clients while the own server lives, since both are one process in what is simulated: when the server ends, its connections do.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::request::{Caller, Forwarder};
use crate::proving::any_certificate;
use crate::sim::pki::Pki;

/// Between two looks whether the own server has come back.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn serve(
    listen: SocketAddr,
    own: SocketAddr,
    pki: &Pki,
    forwarder: Forwarder,
) -> Result<()> {
    let tls = TlsAcceptor::from(Arc::new(tls(pki)?));
    let forwarder = Arc::new(forwarder);
    tokio::spawn(forwarder.known.clone().follow(Arc::clone(&forwarder)));
    let (alive, lives) = watch::channel(true);
    tokio::spawn(look(own, alive));
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("address {listen}"))?;
    loop {
        let (socket, _) = listener.accept().await?;
        if !*lives.borrow() {
            // Closed with a reset: nobody listens there, as far as the client can tell.
            let _ = socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO));
            continue;
        }
        let (tls, forwarder, lives) = (tls.clone(), Arc::clone(&forwarder), lives.clone());
        tokio::spawn(async move {
            // A client that breaks off is its own affair.
            let _ = connection(socket, tls, forwarder, lives).await;
        });
    }
}

/// A server that ends closes a connection that says nothing, and refuses the next one.
async fn look(own: SocketAddr, alive: watch::Sender<bool>) {
    loop {
        let connection = TcpStream::connect(own).await;
        let lives = connection.is_ok();
        alive.send_if_modified(|now| std::mem::replace(now, lives) != lives);
        match connection {
            Ok(mut connection) => {
                let _ = connection.read(&mut [0]).await;
                // One that ends connections at once is not to be asked without a pause.
                tokio::time::sleep(LOOK / 10).await;
            }
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

/// As kube-apiserver: a client certificate is asked for, and need not come.
fn tls(pki: &Pki) -> Result<ServerConfig> {
    let identity = pki.identity("apiserver")?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(any_certificate())
        .with_single_cert(identity.chain()?, identity.key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(
    socket: TcpStream,
    tls: TlsAcceptor,
    forwarder: Arc<Forwarder>,
    mut lives: watch::Receiver<bool>,
) -> Result<()> {
    socket.set_nodelay(true)?;
    let io = tls.accept(socket).await?;
    let session = io.get_ref().1;
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let caller = certificate.and_then(|der| caller(der)).map(Arc::new);
    let service = service_fn(move |request| {
        let answer = Arc::clone(&forwarder).answer(request, caller.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(io);
    let ended = async move { lives.wait_for(|lives| !lives).await.map(drop) };
    let mut ended = pin!(ended);
    if is_http2 {
        let served = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .max_concurrent_streams(250)
            .serve_connection(io, service);
        let mut served = pin!(served);
        tokio::select! {
            done = served.as_mut() => return Ok(done?),
            _ = ended.as_mut() => served.as_mut().graceful_shutdown(),
        }
        return Ok(served.await?);
    }
    let served = http1::Builder::new().serve_connection(io, service);
    let mut served = pin!(served);
    tokio::select! {
        done = served.as_mut() => return Ok(done?),
        _ = ended.as_mut() => served.as_mut().graceful_shutdown(),
    }
    Ok(served.await?)
}

/// The common name and the organizations, as kube-apiserver reads them. A front proxy's certificate says nothing of a user.
fn caller(der: &[u8]) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok().map(str::to_owned));
    (user != FRONT_PROXY).then(|| Caller {
        user: user.to_owned(),
        groups: groups.collect(),
    })
}

const FRONT_PROXY: &str = "front-proxy-client";
