//! CPU time of the whole machine: what the kernel's workers do is charged to no process and no cgroup.

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
    fn busy_is_what_is_not_idle() {
        let stat = "cpu  10 20 30 4000 500 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_ticks(stat), Some(10 + 20 + 30 + 6 + 7));
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
        assert_eq!(busy_ticks("intr 1"), None);
    }
}
