//! HTTP/2 towards a server by the agent's own client: its socket, and requests on it.
//!
//! A request, its connection and its client are on one thread, so that the lock of what they share is never waited for.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use http::{Request, Response};
use http_body::Body as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::own_body::OwnBody;
use super::own_upload::Upload;
use super::{Settings, announce_length, fault_error};
use crate::h2wire::client::{Client, Fault};
use crate::proxy::body::UploadBody;
use crate::proxy::error::AttemptError;
use crate::proxy::keep_alive::{KeepAlive, Pings};
use crate::proxy::wire_body::WireBody;

/// Room for one read. An idle connection has none.
const READ: usize = 32 * 1024;

/// What a connection's requests and its driver share.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Client>>);

/// See [`super::Sender`].
#[derive(Clone)]
pub(crate) struct Sender {
    open: Arc<Open>,
}

/// What all senders of a connection share: when the last one is dropped, the connection ends.
struct Open {
    client: Shared,
    /// A request has noticed that the connection broke.
    broken: AtomicBool,
}

/// Drives a connection until it ends.
pub(super) struct Driver<S> {
    socket: S,
    client: Shared,
    inbox: BytesMut,
    /// Something was written behind the last flush.
    unflushed: bool,
    /// It ends because nobody needs it any more.
    in_order: bool,
    keep_alive: KeepAlive,
}

/// One request and its answer. Dropped, it gives up what has not come.
#[derive(Debug)]
pub struct Exchange {
    pub client: Shared,
    pub id: u32,
}

/// Begins a connection; the driver writes the preface.
pub(super) fn begin<S>(socket: S, settings: Settings) -> (Sender, Driver<S>) {
    let client = Shared(Arc::new(Mutex::new(Client::new(settings.limits))));
    let keep_alive = settings
        .keep_alive
        .with(Some(Pings::Own(Arc::clone(&client.0))));
    let open = Arc::new(Open {
        client: client.clone(),
        broken: AtomicBool::new(false),
    });
    let driver = Driver {
        socket,
        client,
        inbox: BytesMut::new(),
        unflushed: false,
        in_order: false,
        keep_alive,
    };
    (Sender { open }, driver)
}

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let exchange = Exchange { client, id };
        let mut upload = (!ends).then(|| Upload::new(&exchange, upload));
        let answer = std::future::poll_fn(|cx| {
            if let Some(uploading) = &mut upload
                && Pin::new(uploading).poll(cx).is_ready()
            {
                upload = None;
            }
            exchange.client.lock().poll_head(id, cx)
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

impl Drop for Exchange {
    fn drop(&mut self) {
        self.client.lock().let_go(self.id);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            self.inbox.reserve(READ);
            let read = pin!(self.socket.read_buf(&mut self.inbox)).poll(cx)?;
            match read {
                Poll::Ready(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(_) => {
                    self.client.lock().receive(&mut self.inbox);
                    if self.client.lock().is_done() {
                        return Ok(());
                    }
                }
                Poll::Pending => break,
            }
        }
        if self.inbox.is_empty() {
            self.inbox = BytesMut::new();
        }
        Ok(())
    }

    /// Ready when everything is written and flushed.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut client = self.client.lock();
            let outgoing = client.outgoing();
            if outgoing.is_empty() {
                break;
            }
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, outgoing))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            client.written(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Result<(), Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.client.lock().is_done()
            && let Err(error) = this.poll_read(cx)
        {
            this.client.lock().broken(fault(&error));
        }
        let in_order = {
            let mut client = this.client.lock();
            let in_order = client.is_done() && client.fault().is_none();
            if in_order {
                client.say_goodbye();
            }
            in_order
        };
        this.in_order |= in_order;
        let written = this.poll_write(cx);
        if let Poll::Ready(Err(error)) = &written {
            this.client.lock().broken(fault(error));
        }
        let (done, ended) = {
            let client = this.client.lock();
            (client.is_done(), client.fault())
        };
        if done {
            // What it says of the end is written, if the server takes it.
            if matches!(written, Poll::Ready(Ok(()))) {
                let _ = ready!(Pin::new(&mut this.socket).poll_shutdown(cx));
            } else if written.is_pending() {
                return Poll::Pending;
            }
            let ended = ended.filter(|_| !this.in_order);
            return Poll::Ready(ended.map_or(Ok(()), Err));
        }
        if !this.keep_alive.is_alive(cx) {
            this.client.lock().broken(Fault::PingUnanswered);
            return Poll::Ready(Err(Fault::PingUnanswered));
        }
        this.client.lock().owned_by(cx.waker());
        Poll::Pending
    }
}

/// Dropped, as with its runtime, it ends all that waits for it.
impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.client.lock().broken(Fault::Broken);
    }
}

/// The kernel gives up a connection whose other end is silent (TCP_USER_TIMEOUT).
fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::TimedOut => Fault::PingUnanswered,
        _ => Fault::Broken,
    }
}
