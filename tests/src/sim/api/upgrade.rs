//! `Connection: Upgrade`: WebSocket and SPDY tunnels that echo their bytes, and watches over WebSocket.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    body::{self, Body},
    handler::{Answer, Request},
    sha1, status,
    watch::Lines,
};
use crate::sim::server::Ending;

/// RFC 6455 §1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

pub(super) fn is_websocket(request: &Request) -> bool {
    wants(request, "websocket") && request.headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

/// Switches protocols and sends back whatever comes: raw bytes for SPDY, whole frames' bytes for WebSocket (a client
/// that masks its frames gets them back masked).
pub(super) fn echo(request: &mut Request) -> Answer {
    let response = switch(request)?;
    let Some(upgrade) = request.upgrade.take() else {
        return Err(status::bad_request("Upgrade request required"));
    };
    let mut ending = request.app.ending();
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        tokio::select! {
            // Either side may break off at any time.
            _ = tokio::io::copy(&mut read, &mut write) => {}
            () = ending.wait() => {}
        }
        let _ = write.shutdown().await;
    });
    Ok(response)
}

/// A watch whose events are text frames, as kube-apiserver's `WatchServer.HandleWS` sends them.
pub(super) fn websocket_watch(request: &Request, upgrade: OnUpgrade, lines: Lines) -> Answer {
    let response = switch(request)?;
    let ending = request.app.ending();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            // The client may go at any time.
            let _ = send(TokioIo::new(upgraded), lines, ending).await;
        }
    });
    Ok(response)
}

async fn send(
    socket: TokioIo<hyper::upgrade::Upgraded>,
    mut lines: Lines,
    mut ending: Ending,
) -> std::io::Result<()> {
    let (mut read, mut write) = tokio::io::split(socket);
    let mut ignored = [0; 512];
    loop {
        let line = tokio::select! {
            line = lines.next() => line,
            count = read.read(&mut ignored) => match count? {
                0 => return Ok(()),
                // A close frame, masked as all that clients send.
                count if ignored[..count][0] == CLOSE => None,
                _ => continue,
            },
            () = ending.wait() => None,
        };
        match line {
            Some(line) => write.write_all(&frame(TEXT, &line)).await?,
            None => {
                write
                    .write_all(&frame(CLOSE, &1000u16.to_be_bytes()))
                    .await?;
                return write.shutdown().await;
            }
        }
    }
}

fn frame(opcode: u8, payload: &[u8]) -> Bytes {
    let mut out = vec![opcode];
    match payload.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..65_536 => {
            out.push(126);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(payload);
    out.into()
}

fn switch(request: &Request) -> Result<Response<Body>, status::Failure> {
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if is_websocket(request) {
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let key = request
            .headers
            .get(header::SEC_WEBSOCKET_KEY)
            .map(HeaderValue::as_bytes)
            .unwrap_or_default();
        let accept = STANDARD.encode(sha1::digest(&[key, GUID.as_bytes()].concat()));
        headers.insert(
            header::SEC_WEBSOCKET_ACCEPT,
            HeaderValue::try_from(accept).map_err(status::internal)?,
        );
        if let Some(protocol) = first(request, header::SEC_WEBSOCKET_PROTOCOL) {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
    } else if wants(request, "SPDY/3.1") {
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        if let Some(protocol) = first(
            request,
            header::HeaderName::from_static("x-stream-protocol-version"),
        ) {
            headers.insert("x-stream-protocol-version", protocol);
        }
    } else {
        return Err(status::bad_request("Upgrade request required"));
    }
    Ok(response)
}

/// The first protocol that the client offers.
fn first(request: &Request, name: header::HeaderName) -> Option<HeaderValue> {
    let offered = request.headers.get(name)?.to_str().ok()?;
    HeaderValue::try_from(offered.split(',').next()?.trim()).ok()
}

fn wants(request: &Request, protocol: &str) -> bool {
    let has = |name: header::HeaderName, token: &str| {
        request
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| {
                value
                    .split(',')
                    .any(|one| one.trim().eq_ignore_ascii_case(token))
            })
    };
    !request.http2 && has(header::CONNECTION, "upgrade") && has(header::UPGRADE, protocol)
}
