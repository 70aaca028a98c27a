//! HTTP/2 towards a server: by the h2 crate, or by the agent's own client (`upstream.http2`).

mod library;
mod own;
mod own_body;
#[cfg(test)]
mod own_body_tests;
mod own_io;
mod own_pump;
#[cfg(test)]
pub(super) mod own_tests;

use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::attempt::of_reset;
use super::blame::Ending;
use super::body::UploadBody;
use super::error::AttemptError;
use super::keep_alive::KeepAlive;
use super::outgoing::UpstreamRequest;
use super::wire_body::WireBody;
use crate::config::Http2;
use crate::h2wire::{Fault, Limits};

pub(super) use own_body::OwnBody;
pub(super) use own_io::{Exchange, Io, Shared, fault};
pub(super) use own_pump::Pump;

/// Where requests are given to a connection. Cheap to clone; the connection ends with the last one and the last answer.
#[derive(Clone)]
pub(super) enum Sender {
    Library(library::Sender),
    Own(own::Sender),
}

/// What a connection grants a server, and how it is kept.
pub(super) struct Settings {
    pub limits: Limits,
    /// Cancelled streams that are remembered for a second, so that what a server still sends on them is not answered frame by frame.
    pub remembered_resets: usize,
    pub keep_alive: KeepAlive,
}

/// Begins HTTP/2 on a connection. The future that comes with the sender drives the connection until it ends, and says what ended it.
///
/// # Errors
/// The connection broke before the preface was written.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    engine: Http2,
    stream: S,
    settings: Settings,
) -> Result<(Sender, impl Future<Output = Result<(), String>> + 'static), h2::Error> {
    let (sender, library, own) = match engine {
        Http2::Library => {
            let (sender, driver) = library::handshake(stream, settings).await?;
            (Sender::Library(sender), Some(driver), None)
        }
        Http2::Own => {
            let (sender, driver) = own::begin(stream, settings);
            (Sender::Own(sender), None, Some(driver))
        }
    };
    let driven = async move {
        if let Some(driver) = library {
            return driver.await.map_err(|error| error.to_string());
        }
        match own {
            Some(driver) => driver.await.map_err(|fault| fault.to_string()),
            None => Ok(()),
        }
    };
    Ok((sender, driven))
}

impl Sender {
    /// Takes no further request: it has ended, the server is ending it, or its stream numbers are used up.
    pub(super) fn is_closed(&mut self) -> bool {
        match self {
            Self::Library(sender) => sender.is_closed(),
            Self::Own(sender) => sender.is_closed(),
        }
    }

    /// Streams that may be open at a time.
    pub(super) fn stream_limit(&self) -> usize {
        match self {
            Self::Library(sender) => sender.stream_limit(),
            Self::Own(sender) => sender.stream_limit(),
        }
    }

    /// True for the first who asks.
    pub(super) fn breaks_first(&self) -> bool {
        match self {
            Self::Library(sender) => sender.breaks_first(),
            Self::Own(sender) => sender.breaks_first(),
        }
    }

    /// Sends one request and waits for the head of its answer. Dropping the future resets the stream.
    pub(super) async fn send(
        &mut self,
        request: UpstreamRequest,
    ) -> Result<Response<WireBody>, AttemptError> {
        self.send_http(request.into_http()).await
    }

    async fn send_http(
        &mut self,
        request: Request<UploadBody>,
    ) -> Result<Response<WireBody>, AttemptError> {
        match self {
            Self::Library(sender) => sender.send(request).await,
            Self::Own(sender) => sender.send(request).await,
        }
    }
}

/// What an attempt that ended so says of the server.
pub(super) fn fault_error(fault: Fault) -> AttemptError {
    let ending = match fault {
        Fault::Reset(code) => of_reset(code.into()),
        Fault::Malformed(_) => Ending::AnswerMalformed,
        Fault::GoingAway(_) => Ending::GoingAway,
        Fault::ConnectionMalformed(_) => Ending::ConnectionMalformed,
        Fault::OwnLimit(_) => Ending::OwnLimit,
        Fault::Broken => Ending::ConnectionBroken,
        Fault::PingUnanswered => Ending::PingUnanswered,
    };
    AttemptError::new(ending, fault.to_string())
}

/// A body whose length is known says so, unless it is the empty one of a method that usually has none (RFC 9110 §8.6).
fn announce_length(head: &mut http::request::Parts, upload: &UploadBody) {
    let has_one = !matches!(
        head.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT
    );
    if let Some(length) = upload.size_hint().exact()
        && (length > 0 || has_one)
    {
        let field = head.headers.entry(CONTENT_LENGTH);
        field.or_insert_with(|| HeaderValue::from(length));
    }
}
