//! What the whole machine uses: CPU time, since what the kernel's workers do is charged to no process and no cgroup, and memory of sockets.

use anyhow::{Context, Result};

/// Seconds that all CPUs together have been busy, to a hundredth.
///
/// # Errors
/// `/proc/stat` cannot be read, or has another shape than proc(5) says.
pub fn cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("file /proc/stat")?;
    busy_ticks(&stat)
        .map(|ticks| ticks as f64 / 100.0)
        .context("/proc/stat has another shape than proc(5) says")
}

/// Bytes that the kernel holds for what TCP sockets of this network namespace have received or not sent yet. Both ends of a connection on one
/// machine count; the sockets themselves do not.
///
/// # Errors
/// `/proc/net/sockstat` cannot be read, or has another shape than proc(5) says.
pub fn socket_memory() -> Result<u64> {
    let file = "/proc/net/sockstat";
    let text = std::fs::read_to_string(file).context(file)?;
    let pages = tcp_pages(&text).with_context(|| format!("{file}: {text:?}"))?;
    Ok(pages * page_size()?)
}

/// Bytes; by the first mapping of this process, which is its own program and never of huge pages.
fn page_size() -> Result<u64> {
    let file = "/proc/self/smaps";
    let text = std::fs::read_to_string(file).context(file)?;
    let line = |line: &str| -> Option<u64> {
        let size = line.strip_prefix("KernelPageSize:")?;
        size.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    let kibibytes = text.lines().find_map(line);
    Ok(kibibytes.with_context(|| format!("{file} has no KernelPageSize"))? * 1024)
}

/// The number behind `mem` in the line of TCP.
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let line = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_ascii_whitespace();
    words.find(|word| *word == "mem")?;
    words.next()?.parse().ok()
}

/// The first line without idle, iowait and what guests used (which is part of user time already), in hundredths of a second.
fn busy_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = fields
        .split_ascii_whitespace()
        .map(|field| field.parse().ok())
        .collect::<Option<_>>()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_those_of_tcp() {
        let sockstat =
            "sockets: used 7\nTCP: inuse 6 orphan 0 tw 1 alloc 8 mem 42\nUDP: inuse 1 mem 3\n";
        assert_eq!(tcp_pages(sockstat), Some(42));
        assert_eq!(tcp_pages("UDP: inuse 1 mem 3\n"), None);
        assert!(socket_memory().is_ok());
    }

    #[test]
    fn busy_is_what_is_not_idle() {
        let stat = "cpu  10 20 30 4000 500 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_ticks(stat), Some(10 + 20 + 30 + 6 + 7));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
        assert_eq!(busy_ticks("intr 1"), None);
    }
}
