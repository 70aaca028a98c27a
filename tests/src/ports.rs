//! Ports for servers and agents that end and come back: nobody else may take one in between.
//!
//! They lie below the ports that the kernel hands out itself (`net.ipv4.ip_local_port_range`, from 32768 by default), so neither a
//! connection nor a bind to port 0 elsewhere ever gets one. No two callers in a process get the same one either.

use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};

/// Above what services on a developer's machine commonly take.
const FIRST: u16 = 14_000;
const COUNT: u16 = 18_000;

/// A port of `ip` where nobody listens.
///
/// # Errors
/// If `ip` is no address of this machine, or every port is taken.
pub fn free_port(ip: &str) -> Result<SocketAddr> {
    let ip: IpAddr = ip.parse().with_context(|| format!("{ip} is no address"))?;
    Ok(SocketAddr::new(ip, free_on(&[ip])?))
}

/// A port where nobody listens at any of `addresses`.
///
/// # Errors
/// If one of them is no address of this machine, or there is no such port.
pub fn free_on(addresses: &[IpAddr]) -> Result<u16> {
    let mut turns = std::iter::repeat_with(next).take(COUNT.into());
    match turns.find(|port| is_free(*port, addresses)) {
        Some(port) => Ok(port),
        None => bail!("no port is free on {addresses:?}"),
    }
}

/// Whether a server could be bound there. The socket that finds out never listens: a process that another thread starts meanwhile holds
/// copies of all sockets until it runs its program, and a copy of one that listens would keep the port taken after it was closed here.
fn is_free(port: u16, addresses: &[IpAddr]) -> bool {
    addresses
        .iter()
        .all(|ip| bound(SocketAddr::new(*ip, port)).is_ok())
}

/// As servers are bound: with SO_REUSEADDR, which lets pass whatever does not listen.
fn bound(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The next in turn; where a process begins depends on its id, so that processes side by side rarely meet.
fn next() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    let start = || AtomicU16::new((std::process::id().wrapping_mul(997) % u32::from(COUNT)) as u16);
    let turn = NEXT.get_or_init(start).fetch_add(1, Ordering::Relaxed);
    FIRST + turn % COUNT
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_port_can_be_bound_while_other_threads_start_processes() {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            let taken: Vec<SocketAddr> = (0..2_000)
                .map(|_| free_port("127.0.0.1").unwrap())
                .filter(|address| TcpListener::bind(address).is_err())
                .collect();
            done.store(true, Ordering::Relaxed);
            assert!(taken.is_empty(), "{taken:?}");
        });
    }

    #[test]
    fn ports_are_below_those_of_the_kernel_and_never_given_twice() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let lowest: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let given: Vec<u16> = (0..100)
            .map(|_| free_port("127.0.0.1").unwrap().port())
            .collect();
        assert!(given.iter().all(|port| *port < lowest), "{lowest}");
        let mut once = given.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), given.len());
    }

    #[test]
    fn a_port_taken_on_one_address_is_not_free() {
        let ips = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let port = free_on(&ips).unwrap();
        assert!(is_free(port, &ips));
        let taken = TcpListener::bind((ips[1], port)).unwrap();
        assert!(!is_free(port, &ips));
        drop(taken);
        assert!(is_free(port, &ips));
    }

    #[test]
    fn what_is_no_address_of_this_machine_is_an_error() {
        assert!(free_port("none").is_err());
        assert!(free_port("192.0.2.1").is_err());
    }
}
