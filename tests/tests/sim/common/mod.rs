//! A small HTTP client for the tests of the simulated control plane.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses a part; tests may unwrap"
)]

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mvp_tests::sim::{
    ControlPlane, ServerSpec,
    pki::{ClientAuth, Pki},
};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Servers `s0`, `s1`, … of these minors.
pub(crate) async fn plane(minors: &[u8]) -> ControlPlane {
    let specs = minors
        .iter()
        .enumerate()
        .map(|(index, minor)| ServerSpec::new(&format!("s{index}"), *minor));
    ControlPlane::builder()
        .servers(specs)
        .start()
        .await
        .unwrap()
}

/// One HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Client {
    send: conn::http2::SendRequest<Full<Bytes>>,
    authority: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Client {
    pub(crate) async fn admin(plane: &ControlPlane, server: usize) -> Self {
        Self::new(
            plane,
            server,
            ClientAuth::Certificate(plane.pki().admin().unwrap()),
        )
        .await
    }

    pub(crate) async fn new(plane: &ControlPlane, server: usize, auth: ClientAuth) -> Self {
        let authority = plane.server(server).addr().to_string();
        let tls = connect(plane.pki(), &authority, auth, &["h2"])
            .await
            .unwrap();
        let (send, connection) = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { send, authority }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], body)
            .await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        Answer::read(self.open(method, path, headers, body).await.unwrap())
            .await
            .unwrap()
    }

    /// The answer's head; the body is still to come.
    pub(crate) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.authority));
        if headers.iter().all(|(name, _)| *name != "user-agent") {
            request = request.header("user-agent", "curl/8.0");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone();
        send.ready().await?;
        send.send_request(
            request
                .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
                .unwrap(),
        )
        .await
    }
}

impl Answer {
    pub(crate) async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (parts, body) = response.into_parts();
        Ok(Self {
            status: parts.status,
            headers: parts.headers,
            body: body.collect().await?.to_bytes(),
        })
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Empty if absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map(|value| value.to_str().unwrap())
            .unwrap_or_default()
    }
}

pub(crate) async fn connect(
    pki: &Pki,
    authority: &str,
    auth: ClientAuth,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = pki.client_config(auth, alpn).unwrap();
    let tcp = TcpStream::connect(authority).await?;
    let name = ServerName::try_from("kubernetes.default.svc").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}
