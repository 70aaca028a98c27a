//! Waits for two sockets to end without being woken by their data.
//!
//! tokio registers a socket for reading and writing, and sockmap wakes readers for each segment. So the two sockets are in an
//! epoll instance of their own, for nothing but the end of the other side and errors, and tokio watches that instance.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// See the module's description.
pub struct EndWatch(AsyncFd<OwnedFd>);

/// What is known of each socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// The other side will send no more.
    pub fin: bool,
    /// The connection is broken.
    pub error: bool,
}

impl EndWatch {
    /// Watches two sockets as long as they are open.
    ///
    /// # Errors
    /// The system's: out of descriptors or memory.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    #[expect(
        unsafe_code,
        reason = "AsyncFd cannot see that the descriptor stays the same"
    )]
    pub fn new(sockets: [&impl AsFd; 2]) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, socket) in sockets.into_iter().enumerate() {
            // Edge-triggered: an end stays, and is to be reported once. Errors are always reported.
            epoll::add(
                &epoll,
                socket,
                epoll::EventData::new_u64(index as u64),
                epoll::EventFlags::RDHUP | epoll::EventFlags::ET,
            )?;
        }
        // SAFETY: an OwnedFd has one descriptor, and nobody else has this one.
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) };
        Ok(Self(epoll.map_err(io::Error::from)?))
    }

    /// Waits until something has happened, and adds it to `seen`. Cancel safe.
    ///
    /// # Errors
    /// The system's, which has no reason to.
    pub async fn next(&self, seen: &mut [Ends; 2]) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // Cleared first: an end that comes in between makes it readable again.
            ready.clear_ready();
            let mut events = [MaybeUninit::<epoll::Event>::uninit(); 4];
            let now = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let (events, _) = epoll::wait(ready.get_inner(), &mut events, Some(&now))?;
            if events.is_empty() {
                continue;
            }
            for event in events {
                let flags = event.flags;
                let Some(seen) = seen.get_mut(event.data.u64() as usize) else {
                    continue;
                };
                seen.error |= flags.contains(epoll::EventFlags::ERR);
                seen.fin |= flags.contains(epoll::EventFlags::RDHUP);
            }
            return Ok(());
        }
    }
}
