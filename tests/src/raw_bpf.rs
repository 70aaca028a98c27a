//! BPF objects as other builds would make and pin them: bpf(2) by hand.

use std::{
    ffi::CString,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

/// A `sk_lookup` program that passes everything, as some other build's.
pub fn trivial_program() -> OwnedFd {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 5],
        attach_type: [u32; 2],
    }
    // r0 = SK_PASS; exit
    let code = [0x0000_0001_0000_00b7_u64, 0x95];
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: 30,
        count: 2,
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 5],
        attach_type: [0; 2],
    };
    // expected_attach_type is at byte 68 of the attributes.
    load.attach_type[1] = 36;
    bpf(5, &load)
}

/// An array map with one number.
pub fn bpf_array_of_one(value: u32) -> OwnedFd {
    // An array of one u32.
    let map = bpf(0, &[2_u32, 4, 4, 1, 0]);
    let (key, value) = (0_u32, value);
    bpf_call(
        2,
        &[
            map.as_raw_fd() as u64,
            &raw const key as u64,
            &raw const value as u64,
            0,
        ],
    );
    map
}

/// Has the pins say that an agent of another release made them, whose maps have the same form all the same.
pub fn of_another_release(pins: &Path, abi: u32) {
    let pin = pins.join("ABI");
    std::fs::remove_file(&pin).unwrap();
    bpf_pin(&bpf_array_of_one(abi), &pin);
}

/// Pins an object into a BPF file system.
pub fn bpf_pin(object: &OwnedFd, path: &Path) {
    let path = CString::new(path.to_str().unwrap()).unwrap();
    bpf_call(6, &[path.as_ptr() as u64, object.as_raw_fd() as u64]);
}

/// Replaces the program of a pinned link.
pub fn bpf_link_update(link: &Path, program: &OwnedFd) {
    let path = CString::new(link.to_str().unwrap()).unwrap();
    let link = bpf(7, &[path.as_ptr() as u64, 0]);
    bpf_call(29, &[link.as_raw_fd(), program.as_raw_fd(), 0, 0]);
}

/// bpf(2) for commands that return a descriptor.
fn bpf<T>(command: i32, attributes: &T) -> OwnedFd {
    let fd = bpf_call(command, attributes);
    // SAFETY: the command returned a new descriptor.
    #[expect(unsafe_code, reason = "a descriptor from a raw system call")]
    unsafe {
        OwnedFd::from_raw_fd(i32::try_from(fd).unwrap())
    }
}

#[expect(
    unsafe_code,
    reason = "pins that another build would make cannot be made through the agent"
)]
fn bpf_call<T>(command: i32, attributes: &T) -> i64 {
    let size = std::mem::size_of::<T>();
    // SAFETY: the attributes are valid for the call, and the kernel does not keep them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size) };
    assert!(
        result >= 0,
        "bpf({command}): {}",
        std::io::Error::last_os_error()
    );
    result
}
