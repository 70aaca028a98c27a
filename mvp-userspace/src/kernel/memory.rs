//! The allocator's free memory, given back to the system.
//!
//! glibc gives back by itself only what is free at the end of a heap: one small object that lives keeps everything below it
//! resident, for good (`M_TRIM_THRESHOLD` in mallopt(3)). `malloc_trim` gives back every free page of every heap.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "three functions of glibc")
)]

/// What the process has of the system's memory, bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Resident {
    /// VmRSS of proc(5).
    pub resident: u64,
    /// What the program uses of its heaps; the rest of `resident` is code, stacks, and what the allocator keeps.
    pub in_use: u64,
}

impl Resident {
    /// As of now. `None` if /proc cannot be read.
    pub fn now() -> Option<Self> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
        Some(Self {
            resident: kib.saturating_mul(1024),
            in_use: in_use(),
        })
    }

    /// What is resident without being in use.
    pub fn unused(self) -> u64 {
        self.resident.saturating_sub(self.in_use)
    }
}

/// Gives free pages of all heaps back. Takes a few milliseconds for each 100 MiB and holds one heap's lock at a time. False if
/// there is nothing to give back, or the allocator is another one than glibc's.
pub fn give_back() -> bool {
    trim()
}

/// Large blocks are mapped each by itself from now on, so that they leave as soon as they are freed. Without this, glibc raises
/// both thresholds whenever a mapped block is freed, up to 32 and 64 MiB: after one large discovery document, the next ones lie in the
/// heap and stay resident (`M_MMAP_THRESHOLD` in mallopt(3)). False if the allocator is another one, which is left as it is.
pub fn map_large_blocks() -> bool {
    set_thresholds()
}

/// Bodies are forwarded in pieces far below this; only whole documents are above.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 1 << 20;
/// Free memory at the end of a heap that is kept, bytes: a burst of requests finds it again without a system call.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 4 << 20;

#[cfg(target_env = "gnu")]
fn set_thresholds() -> bool {
    // SAFETY: thread-safe by mallopt(3); sets two numbers of the allocator under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT) == 1
    }
}

#[cfg(not(target_env = "gnu"))]
fn set_thresholds() -> bool {
    false
}

#[cfg(target_env = "gnu")]
fn in_use() -> u64 {
    // SAFETY: without arguments; takes the allocator's own locks.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks as u64).saturating_add(info.hblkhd as u64)
}

#[cfg(target_env = "gnu")]
fn trim() -> bool {
    // SAFETY: thread-safe by malloc_trim(3); what is in use is not touched.
    (unsafe { libc::malloc_trim(0) }) == 1
}

#[cfg(not(target_env = "gnu"))]
fn in_use() -> u64 {
    0
}

#[cfg(not(target_env = "gnu"))]
fn trim() -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_a_living_object_is_given_back() {
        const COUNT: usize = 4000;
        let mut blocks: Vec<Vec<u8>> = (0..COUNT).map(|_| vec![1; 16 * 1024]).collect();
        let full = Resident::now().unwrap();
        // Every hundredth stays.
        let mut number = 0;
        blocks.retain(|_| {
            number += 1;
            number % 100 == 0
        });
        let freed = Resident::now().unwrap();
        assert!(
            freed.in_use + 32 * 1024 * 1024 < full.in_use,
            "{full:?} {freed:?}"
        );
        give_back();
        let trimmed = Resident::now().unwrap();
        assert!(
            trimmed.resident + 32 * 1024 * 1024 < full.resident,
            "{full:?} {trimmed:?}"
        );
        assert_eq!(blocks.len(), COUNT / 100);
    }
}
