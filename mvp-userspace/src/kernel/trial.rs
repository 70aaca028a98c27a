//! Tries out, in the folder where the agent would do it, everything that steering needs of the kernel: what a security module
//! denies is found by doing it, and by nothing else.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::maps::Array;
use mvp_common::GUARD_MAP;

use super::{
    Error, Programs,
    maps::{self, ABI_PIN},
    pins::{self, LINK_PIN, Locked, PROGRAM_PIN},
    shared::Shared,
    sys,
};

/// Loads the program of this build, pins it with its maps beside `path`, attaches it to the calling thread's network namespace,
/// pins the link, writes to a map and removes all of it again. The program that is attached meanwhile is idle: it passes
/// everything. What an agent has pinned in `path` is not touched.
///
/// # Errors
/// The first thing that the kernel refuses, in the words in which the agent would report it.
pub fn try_pins(path: &Path) -> Result<(), Error> {
    let beside = beside(path);
    let locked = Locked::new(&beside)?;
    let aside = locked.make_aside()?;
    let tried = attach(&aside);
    // What was refused is the thing to report; what is left over is removed by the next trial.
    tried.and(pins::remove(&aside))
}

fn attach(aside: &Path) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::io("attaching sk_lookup", &e);
    let mut programs = Programs::load()?;
    programs.pin(aside)?;
    let (netns, _) = pins::current_netns()?;
    let program = sys::pinned(&aside.join(PROGRAM_PIN)).map_err(failed)?;
    let link = sys::link_create(program.as_fd(), netns.as_fd()).map_err(failed)?;
    let pinned = sys::pin(link.as_fd(), &aside.join(LINK_PIN))
        .map_err(failed)
        .and_then(|()| write(aside));
    // At once: the kernel would free it some time after its last pin.
    let detached = sys::link_detach(link.as_fd()).map_err(failed);
    pinned.and(detached)
}

/// As arming writes, and then the value that was there.
fn write(aside: &Path) -> Result<(), Error> {
    let mut guard: Array<_, Shared<mvp_common::GuardState>> = maps::open(aside, GUARD_MAP)?;
    let idle = guard.get(&0, 0).map_err(|e| maps::read(&e))?;
    guard.set(0, idle, 0).map_err(|e| maps::write(&e))?;
    fs::metadata(aside.join(ABI_PIN))
        .map(drop)
        .map_err(|e| Error::io("reading a pin", &e))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-trial");
    name.into()
}
