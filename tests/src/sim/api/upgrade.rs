//! `Connection: Upgrade`: which protocol is spoken from then on; tunnels that echo their bytes, and watches over WebSocket.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
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
/// SPDY's counterpart of `Sec-WebSocket-Protocol`.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// What is spoken from then on; of WebSocket also the protocol within it.
pub(super) enum Switched {
    WebSocket(&'static str),
    Spdy,
}

pub(super) fn is_websocket(request: &Request) -> bool {
    wants(request, "websocket") && request.headers.contains_key(header::SEC_WEBSOCKET_KEY)
}

/// Switches protocols and sends back whatever comes: raw bytes for SPDY, whole frames' bytes for WebSocket (a client
/// that masks its frames gets them back masked).
pub(super) fn echo(request: &mut Request) -> Answer {
    let response = switch_to_first(request)?;
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
    let response = switch_to_first(request)?;
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

/// Agrees upon the first protocol of the client's that the server has too.
pub(super) fn switch(
    request: &Request,
    websocket: &[&'static str],
    spdy: &[&'static str],
) -> Result<(Response<Body>, Switched), status::Failure> {
    if is_websocket(request) {
        let agreed = agree(offers(request, header::SEC_WEBSOCKET_PROTOCOL), websocket)?;
        Ok((to_websocket(request, agreed)?, Switched::WebSocket(agreed)))
    } else if wants(request, "SPDY/3.1") {
        let agreed = agree(offers(request, STREAM_PROTOCOL), spdy)?;
        Ok((to_spdy(agreed)?, Switched::Spdy))
    } else {
        Err(status::bad_request("Upgrade request required"))
    }
}

/// Agrees upon whatever the client would like most.
fn switch_to_first(request: &Request) -> Result<Response<Body>, status::Failure> {
    let first = |name| offers(request, name).next().unwrap_or_default();
    if is_websocket(request) {
        to_websocket(request, first(header::SEC_WEBSOCKET_PROTOCOL))
    } else if wants(request, "SPDY/3.1") {
        to_spdy(first(STREAM_PROTOCOL))
    } else {
        Err(status::bad_request("Upgrade request required"))
    }
}

fn to_websocket(request: &Request, protocol: &str) -> Result<Response<Body>, status::Failure> {
    let key = request
        .headers
        .get(header::SEC_WEBSOCKET_KEY)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    let accept = STANDARD.encode(sha1::digest(&[key, GUID.as_bytes()].concat()));
    let mut response = switching("websocket", header::SEC_WEBSOCKET_PROTOCOL, protocol)?;
    response.headers_mut().insert(
        header::SEC_WEBSOCKET_ACCEPT,
        HeaderValue::try_from(accept).map_err(status::internal)?,
    );
    Ok(response)
}

fn to_spdy(protocol: &str) -> Result<Response<Body>, status::Failure> {
    switching("SPDY/3.1", STREAM_PROTOCOL, protocol)
}

fn switching(
    to: &'static str,
    name: HeaderName,
    protocol: &str,
) -> Result<Response<Body>, status::Failure> {
    let mut response = Response::new(body::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(to));
    if !protocol.is_empty() {
        let protocol = HeaderValue::try_from(protocol).map_err(status::internal)?;
        headers.insert(name, protocol);
    }
    Ok(response)
}

/// Nothing offered: nothing is said of it (the first version of the protocols had no name). The words are those of apimachinery's
/// `httpstream.Handshake`.
fn agree<'a>(
    offers: impl Iterator<Item = &'a str>,
    accepted: &[&'static str],
) -> Result<&'static str, status::Failure> {
    let offers: Vec<&str> = offers.collect();
    let agreed = offers
        .iter()
        .find_map(|offer| accepted.iter().find(|one| *one == offer));
    match agreed {
        Some(agreed) => Ok(*agreed),
        None if offers.is_empty() => Ok(""),
        None => Err(status::Failure::Text(
            403,
            format!(
                "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]\n",
                offers.join(" "),
                accepted.join(" ")
            ),
        )),
    }
}

/// The protocols that the client offers, in the order of its liking: on one line or on several.
fn offers(request: &Request, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.headers.get_all(name).into_iter();
    lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|offer| !offer.is_empty())
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
