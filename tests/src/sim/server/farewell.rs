//! GOAWAY as Go's HTTP/2 server sends it after a handler set `Connection: close`: at once, with the last stream that it has seen,
//! and deaf to every stream above that. hyper's graceful end is gentler: it takes new streams until the client knows.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: usize = 24;
const HEADER: usize = 9;
const HEADERS: u8 = 1;

/// An HTTP/2 connection that can be told to say goodbye.
pub(super) struct Farewell<S> {
    stream: S,
    /// Set by a handler.
    asked: Arc<AtomicBool>,
    incoming: Frames,
    outgoing: Frames,
    last_stream: u32,
    /// Read and not yet given to hyper.
    held: Vec<u8>,
    /// GOAWAY, once it was decided, and how much of it was written.
    goaway: Option<(Vec<u8>, usize)>,
}

/// Finds where frames begin.
struct Frames {
    preface: usize,
    header: Vec<u8>,
    left: usize,
}

impl Frames {
    fn new(preface: usize) -> Self {
        Self {
            preface,
            header: Vec::new(),
            left: 0,
        }
    }

    fn at_boundary(&self) -> bool {
        self.preface == 0 && self.header.is_empty() && self.left == 0
    }

    /// Passes `bytes` on in pieces that belong to one frame each: its kind and stream, as far as they are known, and whether
    /// the piece is the whole header of a frame or a part of its payload.
    fn split(&mut self, mut bytes: &[u8], mut piece: impl FnMut(Option<(u8, u32)>, &[u8])) {
        while !bytes.is_empty() {
            if self.preface > 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(self.preface));
                self.preface -= head.len();
                piece(None, head);
                bytes = rest;
                continue;
            }
            if self.left == 0 && self.header.len() < HEADER {
                let (head, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend(head);
                bytes = rest;
                if self.header.len() < HEADER {
                    return;
                }
                let h = &self.header;
                self.left = u32::from_be_bytes([0, h[0], h[1], h[2]]) as usize;
                let header = self.header.clone();
                piece(self.frame(), &header);
            } else {
                let (part, rest) = bytes.split_at(bytes.len().min(self.left));
                self.left -= part.len();
                bytes = rest;
                piece(self.frame(), part);
            }
            if self.left == 0 {
                self.header.clear();
            }
        }
    }

    fn frame(&self) -> Option<(u8, u32)> {
        let h = &self.header;
        (h.len() == HEADER).then(|| (h[3], u32::from_be_bytes([h[5] & 0x7f, h[6], h[7], h[8]])))
    }

    fn until_boundary(&self) -> usize {
        match self.header.len() {
            0 => self.preface,
            HEADER => self.left,
            have => HEADER - have,
        }
    }
}

impl<S> Farewell<S> {
    pub(super) fn new(stream: S, asked: &Arc<AtomicBool>) -> Self {
        Self {
            stream,
            asked: asked.clone(),
            incoming: Frames::new(PREFACE),
            outgoing: Frames::new(0),
            last_stream: 0,
            held: Vec::new(),
            goaway: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Farewell<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.held.is_empty() {
            let mut bytes = [0; 16 * 1024];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (deaf, mut last) = (this.goaway.is_some(), this.last_stream);
            let held = &mut this.held;
            this.incoming.split(read.filled(), |frame, piece| {
                if let Some((kind, stream)) = frame {
                    if deaf && stream > last {
                        return;
                    }
                    if kind == HEADERS {
                        last = last.max(stream);
                    }
                }
                held.extend_from_slice(piece);
            });
            this.last_stream = last;
        }
        let given = this.held.len().min(buf.remaining());
        buf.put_slice(&this.held[..given]);
        this.held.drain(..given);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Farewell<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.goaway.is_none() && this.outgoing.at_boundary() && this.asked.load(Ordering::SeqCst)
        {
            let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
            frame.extend(this.last_stream.to_be_bytes());
            frame.extend(0u32.to_be_bytes());
            this.goaway = Some((frame, 0));
        }
        while let Some((frame, sent)) = &mut this.goaway
            && *sent < frame.len()
        {
            *sent += ready!(Pin::new(&mut this.stream).poll_write(cx, &frame[*sent..]))?;
        }
        // While it is asked for, one piece at a time, so that the boundary is met.
        let most = match this.goaway.is_none() && this.asked.load(Ordering::SeqCst) {
            true => buf.len().min(this.outgoing.until_boundary().max(1)),
            false => buf.len(),
        };
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &buf[..most]))?;
        this.outgoing.split(&buf[..written], |_, _| {});
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
