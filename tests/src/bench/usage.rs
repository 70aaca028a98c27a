//! CPU and memory that processes use, with their children: nginx' workers are children of the process that was started.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// CPU time of the processes of `roots` and of their descendants, to the nanosecond. Threads and processes that have ended are left out,
/// which proxies at work do not have.
///
/// # Errors
/// One of the processes has ended, or the kernel does not count (CONFIG_SCHED_INFO).
pub(crate) fn cpu(roots: &[u32]) -> Result<Duration> {
    let mut nanos = 0;
    for process in with_descendants(roots)? {
        for thread in threads(process)? {
            let file = format!("/proc/{process}/task/{thread}/schedstat");
            // It may end between two looks.
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            nanos += on_cpu(&text).with_context(|| format!("{file}: {text:?}"))?;
        }
    }
    Ok(Duration::from_nanos(nanos))
}

/// Memory of the processes of `roots` and of their descendants, bytes; what they share counts once.
///
/// # Errors
/// One of the processes has ended.
pub(crate) fn memory(roots: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for process in with_descendants(roots)? {
        let file = format!("/proc/{process}/smaps_rollup");
        let text = fs::read_to_string(&file).with_context(|| file.clone())?;
        sum += proportional(&text).with_context(|| format!("{file} has no Pss"))?;
    }
    Ok(sum)
}

fn with_descendants(roots: &[u32]) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    let mut left = roots.to_vec();
    while let Some(process) = left.pop() {
        all.push(process);
        for thread in threads(process)? {
            let file = format!("/proc/{process}/task/{thread}/children");
            let children = fs::read_to_string(file).unwrap_or_default();
            left.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
    }
    Ok(all)
}

fn threads(process: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(&folder).with_context(|| folder.clone())?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(names.collect())
}

/// The first field of `/proc/PID/task/TID/schedstat`: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// `Pss` of `/proc/PID/smaps_rollup`, in bytes.
fn proportional(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_read() {
        assert_eq!(on_cpu("72015 23 1\n"), Some(72_015));
        assert_eq!(on_cpu(""), None);
        let rollup = "55 [rollup]\nRss:  1688 kB\nPss:   247 kB\nPss_Dirty:  108 kB\n";
        assert_eq!(proportional(rollup), Some(247 * 1024));
        assert_eq!(proportional("Rss: 1 kB\n"), None);
    }

    #[test]
    fn a_process_has_used_something_and_its_child_counts() {
        let own = std::process::id();
        assert!(memory(&[own]).unwrap() > 0);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let all = with_descendants(&[own]);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.unwrap().contains(&child.id()));
        assert!(cpu(&[own]).unwrap() > Duration::ZERO);
    }
}
