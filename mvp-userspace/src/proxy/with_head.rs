//! An answer's head leaves together with the beginning of its body.
//!
//! kube-apiserver writes the head of an answer, and then the body, each in a TLS record and a `write` of its own: a handler of
//! golang.org/x/net/http2 waits until its HEADERS are written before it sends DATA (`writeHeaders` of `server.go`). If the agent passed on
//! each as it came, that would be two records and two writes of its own too, and its client would be woken twice. No client does anything
//! with the head alone, unless the body takes long.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http_body::{Body, Frame};

/// What a head waits for its body at most. Timers have a resolution of a millisecond, so that it is up to twice that.
const HELD: Duration = Duration::from_millis(1);

/// What a body begins with; `None`: it has nothing at all.
pub(super) type First<B> = Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>;

/// Waits for what `body` begins with, but not for long: `None` if it has not come.
pub(super) async fn first<B: Body + Unpin>(body: &mut B) -> Option<First<B>> {
    let begins = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    tokio::select! {
        // What has come is taken, however late the thread looks.
        biased;
        first = begins => Some(first),
        () = tokio::time::sleep(HELD) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;

    struct Parts(mpsc::UnboundedReceiver<Bytes>);

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<First<Self>> {
            let part = self.0.poll_recv(cx);
            part.map(|part| part.map(|part| Ok(Frame::data(part))))
        }
    }

    #[tokio::test]
    async fn what_comes_behind_the_head_is_waited_for() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut body = Parts(receiver);
        let mut waiting = pin!(first(&mut body));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        sender.send(Bytes::from_static(b"body")).unwrap();
        let Some(Some(Ok(frame))) = waiting.await else {
            panic!("the body has come");
        };
        assert_eq!(frame.into_data().unwrap(), "body");
    }

    #[tokio::test]
    async fn an_end_is_what_comes_too() {
        let (sender, receiver) = mpsc::unbounded_channel();
        drop(sender);
        assert!(matches!(first(&mut Parts(receiver)).await, Some(None)));
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let (_sender, receiver) = mpsc::unbounded_channel();
        assert!(first(&mut Parts(receiver)).await.is_none());
    }
}
