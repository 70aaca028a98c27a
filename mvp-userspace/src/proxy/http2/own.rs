//! HTTP/2 towards a server by the agent's own client: requests on a connection, and what drives it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncWrite};

use super::own_body::OwnBody;
use super::own_io::{Exchange, Io, Shared, fault};
use super::own_pump::Pump;
use super::{Settings, announce_length, fault_error};
use crate::h2wire::Fault;
use crate::h2wire::client::{Client, Requesting};
use crate::proxy::body::UploadBody;
use crate::proxy::error::AttemptError;
use crate::proxy::keep_alive::{KeepAlive, Pings};
use crate::proxy::wire_body::WireBody;

/// See [`super::Sender`].
#[derive(Clone)]
pub(crate) struct Sender {
    open: Arc<Open>,
}

/// What all senders of a connection share: when the last one is dropped, the connection ends.
struct Open {
    client: Shared<Requesting>,
    /// A request has noticed that the connection broke.
    broken: AtomicBool,
}

/// Drives a connection until it ends.
pub(super) struct Driver<T> {
    io: Io<T, Requesting>,
    /// It ends because nobody needs it any more.
    in_order: bool,
    keep_alive: KeepAlive,
}

/// Begins a connection; the driver writes the preface.
pub(super) fn begin<T>(socket: T, settings: Settings) -> (Sender, Driver<T>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let client = Shared::new(Client::new(settings.limits));
    let keep_alive = settings
        .keep_alive
        .with(Some(Pings::Client(client.clone())));
    let open = Arc::new(Open {
        client: client.clone(),
        broken: AtomicBool::new(false),
    });
    let driver = Driver {
        io: Io::new(socket, client),
        in_order: false,
        keep_alive,
    };
    (Sender { open }, driver)
}

impl Sender {
    /// Whether no request can be sent any more: the connection ended, or the server said GOAWAY.
    pub(crate) fn is_closed(&self) -> bool {
        self.open.client.lock().is_closed()
    }

    /// How many streams the server allows at a time, by its SETTINGS.
    pub(crate) fn stream_limit(&self) -> usize {
        self.open.client.lock().stream_limit()
    }

    /// True for the first who asks: one break of a connection is one failure, however many requests notice it.
    pub(crate) fn breaks_first(&self) -> bool {
        !self.open.broken.swap(true, Ordering::Relaxed)
    }

    /// Sends one request and waits for the head of its answer. Dropping the future resets the stream.
    ///
    /// # Errors
    /// How the attempt ended, for [`Ending`](crate::proxy::blame::Ending).
    pub(crate) async fn send(
        &self,
        request: Request<UploadBody>,
    ) -> Result<Response<WireBody>, AttemptError> {
        let (mut head, upload) = request.into_parts();
        announce_length(&mut head, &upload);
        let ends = upload.is_end_stream();
        let client = self.open.client.clone();
        let id = client
            .lock()
            .request(
                &head.method,
                head.uri
                    .authority()
                    .map_or("", |authority| authority.as_str()),
                head.uri.path_and_query().map_or("/", |path| path.as_str()),
                &head.headers,
                ends,
            )
            .map_err(fault_error)?;
        let exchange = Exchange {
            connection: client.clone(),
            id,
        };
        let mut upload = (!ends).then(|| Pump::new(client, id, upload));
        let answer = std::future::poll_fn(|cx| {
            if let Some(uploading) = &mut upload
                && Pin::new(uploading).poll(cx).is_ready()
            {
                upload = None;
            }
            exchange.connection.lock().poll_head(id, cx)
        })
        .await
        .map_err(fault_error)?;
        if let Some(upload) = upload {
            // What is left of it goes on beside the answer, and ends with the stream.
            tokio::spawn(upload);
        }
        let mut response = Response::new(());
        *response.status_mut() = answer.status;
        *response.version_mut() = http::Version::HTTP_2;
        *response.headers_mut() = answer.fields;
        let body = OwnBody::new(response.headers(), exchange);
        Ok(response.map(|()| WireBody::Own(body)))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.client.lock().close();
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = Result<(), Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let done = {
            let mut client = this.io.connection.lock();
            client.is_awake();
            client.is_done()
        };
        // Whoever watches the server's windows counts the reads as well.
        if !done && let Err(error) = this.io.poll_read(cx) {
            this.io.connection.lock().broken(fault(&error));
        }
        let in_order = {
            let mut client = this.io.connection.lock();
            let in_order = client.is_done() && client.fault().is_none();
            if in_order {
                client.say_goodbye();
            }
            in_order
        };
        this.in_order |= in_order;
        let written = this.io.poll_write(cx);
        if let Poll::Ready(Err(error)) = &written {
            this.io.connection.lock().broken(fault(error));
        }
        let (done, ended) = {
            let client = this.io.connection.lock();
            (client.is_done(), client.fault())
        };
        if done {
            // What it says of the end is written, if the server takes it.
            if matches!(written, Poll::Ready(Ok(()))) {
                let _ = ready!(this.io.poll_shutdown(cx));
            } else if written.is_pending() {
                return Poll::Pending;
            }
            let ended = ended.filter(|_| !this.in_order);
            return Poll::Ready(ended.map_or(Ok(()), Err));
        }
        if !this.keep_alive.is_alive(cx) {
            this.io.connection.lock().broken(Fault::PingUnanswered);
            return Poll::Ready(Err(Fault::PingUnanswered));
        }
        this.io.connection.lock().owned_by(cx.waker());
        Poll::Pending
    }
}

/// Dropped, as with its runtime, it ends all that waits for it.
impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        self.io.connection.lock().broken(Fault::Broken);
    }
}
