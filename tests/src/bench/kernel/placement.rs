//! Where the threads of a measurement run.
//!
//! Whether two threads that talk by turns share a CPU makes their round trip 4 or 60 microseconds on an idle machine with two, and the
//! scheduler decides anew each time. So it is decided here, the same for each subject: client and server apart, the proxy on a CPU
//! of its own if there is one, else on the server's.

use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Client,
    Proxy,
    Server,
}

/// Runs `work` on a thread of that place. Threads that it starts stay there too.
///
/// # Errors
/// If the thread cannot be placed; and `work`'s.
pub(super) fn at<T: Send>(place: Place, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| join(scope.spawn(|| run(place, work))))
}

/// Runs client and server at once, and ends with both.
///
/// # Errors
/// The server's, else the client's.
pub(super) fn both<T: Send>(
    client: impl FnOnce() -> Result<T> + Send,
    server: impl FnOnce() -> Result<()> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let server = scope.spawn(|| run(Place::Server, server));
        let client = scope.spawn(|| run(Place::Client, client));
        let client = join(client);
        join(server)?;
        client
    })
}

fn run<T>(place: Place, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let allowed = sched_getaffinity(THIS).context("sched_getaffinity")?;
    let allowed: Vec<usize> = (0..CpuSet::count())
        .filter(|&cpu| allowed.is_set(cpu).unwrap_or(false))
        .collect();
    let mut one = CpuSet::new();
    one.set(cpu(place, &allowed).context("no CPU is allowed")?)?;
    sched_setaffinity(THIS, &one).context("sched_setaffinity")?;
    work()
}

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

fn cpu(place: Place, allowed: &[usize]) -> Option<usize> {
    let at = match place {
        Place::Client => 0,
        Place::Proxy => allowed.len() / 2,
        Place::Server => allowed.len().checked_sub(1)?,
    };
    allowed.get(at).copied()
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("a thread of the benchmark panicked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_and_server_are_apart_and_the_proxy_too_if_it_can() {
        let places = [Place::Client, Place::Proxy, Place::Server];
        let on = |allowed: &[usize]| places.map(|place| cpu(place, allowed));
        assert_eq!(on(&[3, 5]), [Some(3), Some(5), Some(5)]);
        assert_eq!(on(&[0, 1, 2]), [Some(0), Some(1), Some(2)]);
        assert_eq!(on(&[0, 1, 2, 3]), [Some(0), Some(2), Some(3)]);
        assert_eq!(on(&[7]), [Some(7); 3]);
        assert_eq!(on(&[]), [None; 3]);
    }

    #[test]
    fn what_a_placed_thread_starts_stays_there() {
        let cpus = || {
            let set = sched_getaffinity(THIS).unwrap();
            (0..CpuSet::count())
                .filter(|&cpu| set.is_set(cpu).unwrap())
                .count()
        };
        let seen = at(Place::Server, || {
            Ok((cpus(), thread::spawn(cpus).join().unwrap()))
        });
        assert_eq!(seen.unwrap(), (1, 1));
    }
}
