//! The fast upstream's HTTP/1.1, for proxies that speak nothing else to servers. Go writes a small answer over HTTP/1.1 in one piece
//! (`net/http/server.go`, `bufferBeforeChunkingSize`), so that only TLS records are written as kube-apiserver writes them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;

use super::upstream::{Counted, Server};

/// Serves one connection until it ends.
pub(super) async fn serve<S>(io: S, server: Server) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &server);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(io), service)
        .await?;
    Ok(())
}

fn answer(request: &Request<Incoming>, server: &Server) -> Response<Content> {
    let Server {
        answers,
        events,
        watches,
        way,
        ..
    } = server;
    let (answer, head) = answers.to(request, way.get());
    let bodiless = head.status() == StatusCode::NOT_MODIFIED || request.method() == Method::HEAD;
    let content = match answer.open {
        _ if bodiless => Content::Whole(None),
        false => Content::Whole(Some(answer.body.clone())),
        true => {
            let (to, from) = mpsc::unbounded_channel();
            // Agents, to whose watches nothing is sent, do not connect here.
            tokio::spawn(pass_on(events.subscribe(), to, Counted::new(watches)));
            Content::Events(from)
        }
    };
    head.map(|()| content)
}

/// Until the watch ends, or the upstream does.
async fn pass_on(
    mut events: broadcast::Receiver<Bytes>,
    to: mpsc::UnboundedSender<Bytes>,
    _counted: Counted,
) {
    loop {
        tokio::select! {
            () = to.closed() => return,
            event = events.recv() => match event {
                Ok(event) => {
                    let _ = to.send(event);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
        }
    }
}

enum Content {
    Whole(Option<Bytes>),
    Events(mpsc::UnboundedReceiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => events
                .poll_recv(context)
                .map(|event| event.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
