//! System calls that neither std nor aya has: bpffs checks and renames, the clock of the programs, netns links.
#![expect(unsafe_code, reason = "raw system calls")]

use std::{
    ffi::CString,
    io,
    mem::{MaybeUninit, size_of},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Nanoseconds of CLOCK_MONOTONIC: what `bpf_ktime_get_ns` returns.
pub(super) fn monotonic_ns() -> u64 {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a timespec of ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr()) };
    // SAFETY: zeroed or filled.
    let time = unsafe { time.assume_init() };
    (time.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(time.tv_nsec as u64)
}

/// Whether `path` is on a BPF file system (BPF_FS_MAGIC in `include/uapi/linux/magic.h`).
pub(super) fn is_bpffs(path: &Path) -> io::Result<bool> {
    const BPF_FS_MAGIC: u32 = 0xcafe_4a11;
    let path = c_path(path)?;
    let mut stat = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: both pointers are valid for the call.
    check(unsafe { libc::statfs(path.as_ptr(), stat.as_mut_ptr()) }.into())?;
    // SAFETY: filled by the call.
    Ok(unsafe { stat.assume_init() }.f_type as u32 == BPF_FS_MAGIC)
}

/// Exchanges two folders of one file system in one step (bpffs: since Linux 5.16).
pub(super) fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let (a, b) = (c_path(a)?, c_path(b)?);
    // SAFETY: both pointers are valid for the call.
    let result = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    check(result.into()).map(drop)
}

/// A listener's accept queue: connections in it, and how many it holds. From TCP_INFO, whose `tcpi_unacked` and
/// `tcpi_sacked` are these for a listening socket (`tcp_get_info` in the kernel's net/ipv4/tcp.c).
pub(super) fn accept_queue(listener: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `info`.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result.into())?;
    // SAFETY: zeroed, then filled; all bit patterns are valid.
    let info = unsafe { info.assume_init() };
    Ok((info.tcpi_unacked, info.tcpi_sacked))
}

/// What /proc says about a descriptor.
pub(super) fn fd_info(fd: BorrowedFd<'_>) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
}

/// Attaches a `sk_lookup` program to a network namespace.
pub(super) fn link_create(program: BorrowedFd<'_>, netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const BPF_LINK_CREATE: libc::c_int = 28;
    const BPF_SK_LOOKUP: u32 = 36;
    #[repr(C)]
    struct Attr {
        prog_fd: RawFd,
        target_fd: RawFd,
        attach_type: u32,
        flags: u32,
    }
    let attr = Attr {
        prog_fd: program.as_raw_fd(),
        target_fd: netns.as_raw_fd(),
        attach_type: BPF_SK_LOOKUP,
        flags: 0,
    };
    // SAFETY: the attributes are those of this command.
    unsafe { bpf_fd(BPF_LINK_CREATE, &attr) }
}

/// Puts another program into a link, in one step: each lookup runs the old one or the new one.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_UPDATE: libc::c_int = 29;
    #[repr(C)]
    struct Attr {
        link_fd: RawFd,
        new_prog_fd: RawFd,
        flags: u32,
        old_prog_fd: u32,
    }
    let attr = Attr {
        link_fd: link.as_raw_fd(),
        new_prog_fd: program.as_raw_fd(),
        flags: 0,
        old_prog_fd: 0,
    };
    // SAFETY: the attributes are those of this command.
    unsafe { bpf(BPF_LINK_UPDATE, &attr) }.map(drop)
}

/// Numbers of the `sk_lookup` programs on a network namespace, at most 64, in the order in which they run.
pub(super) fn lookup_programs(netns: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_SK_LOOKUP: u32 = 36;
    #[repr(C)]
    struct Attr {
        target_fd: RawFd,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        _padding: u32,
    }
    let mut ids = [0_u32; 64];
    let mut attr = Attr {
        target_fd: netns.as_raw_fd(),
        attach_type: BPF_SK_LOOKUP,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        _padding: 0,
    };
    // SAFETY: the attributes are those of this command. The kernel writes to them, and at most `prog_cnt` numbers to `ids`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    check(result)?;
    let count = (attr.prog_cnt as usize).min(ids.len());
    Ok(ids.iter().take(count).copied().collect())
}

/// Detaches a link at once, even if other processes have a descriptor of it.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_LINK_DETACH: libc::c_int = 34;
    #[repr(C)]
    struct Attr {
        link_fd: RawFd,
    }
    let attr = Attr {
        link_fd: link.as_raw_fd(),
    };
    // SAFETY: the attributes are those of this command.
    unsafe { bpf(BPF_LINK_DETACH, &attr) }.map(drop)
}

/// Pins any BPF object.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    const BPF_OBJ_PIN: libc::c_int = 6;
    let path = c_path(path)?;
    let attr = ObjAttr::new(&path, object.as_raw_fd());
    // SAFETY: the attributes are those of this command, and the path lives through the call.
    unsafe { bpf(BPF_OBJ_PIN, &attr) }.map(drop)
}

/// Opens a pinned BPF object of any kind.
pub(super) fn pinned(path: &Path) -> io::Result<OwnedFd> {
    const BPF_OBJ_GET: libc::c_int = 7;
    let path = c_path(path)?;
    let attr = ObjAttr::new(&path, 0);
    // SAFETY: the attributes are those of this command, and the path lives through the call.
    unsafe { bpf_fd(BPF_OBJ_GET, &attr) }
}

/// `union bpf_attr` for BPF_OBJ_PIN and BPF_OBJ_GET (`include/uapi/linux/bpf.h`).
#[repr(C)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: RawFd,
    file_flags: u32,
}

impl ObjAttr {
    fn new(path: &CString, bpf_fd: RawFd) -> Self {
        Self {
            pathname: path.as_ptr() as u64,
            bpf_fd,
            file_flags: 0,
        }
    }
}

/// # Safety
/// `attr` must be the attributes of `command`, and what it points to must be alive.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<i64> {
    // SAFETY: by contract. The kernel takes a short `union bpf_attr` and treats the rest as zero.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    })
}

/// # Safety
/// As [`bpf`]; the command must return a new descriptor.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: by contract.
    let fd = unsafe { bpf(command, attr) }?;
    // SAFETY: a new descriptor, owned by nobody yet.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
