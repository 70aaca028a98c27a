//! The loaded object: its programs, their attachments and their maps.

use std::{fs::File, os::fd::AsFd, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{SkLookup, sk_lookup::SkLookupLinkId},
};
use mvp_common::{
    ABI_SECTION, ABI_VERSION, COUNTERS_MAP, Counter, LOOKUP_STATE_MAP, LookupState, STEER_PROGRAM,
};

use super::{
    Counters, Error, LogForwarder,
    maps::{LOG_MAP, PINS},
    object,
    pins::PROGRAM_PIN,
    shared::Shared,
    sys,
};

/// The BPF programs of this build, loaded into the kernel. Dropping it detaches them and frees their maps.
pub struct Programs {
    bpf: Ebpf,
    log: Option<LogForwarder>,
    lookup: Option<SkLookupLinkId>,
}

impl Programs {
    /// Loads the object of this build; attaches nothing.
    ///
    /// # Errors
    /// [`Error::NoObject`], [`Error::Object`] and [`Error::Abi`] are the build's fault; [`Error::Permission`] and
    /// [`Error::Unsupported`] say what the process or the kernel lacks.
    pub fn load() -> Result<Self, Error> {
        Self::load_object(object().ok_or(Error::NoObject)?)
    }

    fn load_object(object: &[u8]) -> Result<Self, Error> {
        let mut bpf = Ebpf::load(object).map_err(|e| Error::load("creating the BPF maps", e))?;
        check_abi(&bpf)?;
        let log = LogForwarder::new(&mut bpf)?;
        let mut programs = Self {
            bpf,
            log: Some(log),
            lookup: None,
        };
        programs
            .steer()?
            .load()
            .map_err(|e| Error::program("loading the sk_lookup program", &e))?;
        Ok(programs)
    }

    /// Attaches the `sk_lookup` program to the calling thread's network namespace. Does nothing if it is attached.
    ///
    /// # Errors
    /// [`Error::Permission`] without CAP_NET_ADMIN in the user namespace that owns the network namespace.
    pub fn attach_lookup(&mut self) -> Result<(), Error> {
        let netns = File::open("/proc/thread-self/ns/net")
            .map_err(|e| Error::io("opening the network namespace (is /proc mounted?)", &e))?;
        self.attach_lookup_to(netns)
    }

    /// As [`Self::attach_lookup`], to the network namespace that `netns` refers to.
    ///
    /// # Errors
    /// The same as [`Self::attach_lookup`].
    pub fn attach_lookup_to(&mut self, netns: impl AsFd) -> Result<(), Error> {
        if self.lookup.is_none() {
            let link = self
                .steer()?
                .attach(netns)
                .map_err(|e| Error::program("attaching sk_lookup", &e))?;
            self.lookup = Some(link);
        }
        Ok(())
    }

    /// Whether the `sk_lookup` program is attached.
    pub fn lookup_attached(&self) -> bool {
        self.lookup.is_some()
    }

    /// Detaches the `sk_lookup` program; the counters keep their values. Does nothing if it is not attached.
    ///
    /// # Errors
    /// [`Error::System`] if the kernel refuses, which it has no reason to.
    pub fn detach_lookup(&mut self) -> Result<(), Error> {
        if let Some(link) = self.lookup.take() {
            self.steer()?
                .detach(link)
                .map_err(|e| Error::program("detaching sk_lookup", &e))?;
        }
        Ok(())
    }

    /// The counters, summed over the CPUs.
    ///
    /// # Errors
    /// [`Error::Object`] if the object lacks the map or its layout differs.
    pub fn counters(&self) -> Result<Counters, Error> {
        let map = self
            .bpf
            .map(COUNTERS_MAP)
            .ok_or_else(|| Error::missing(COUNTERS_MAP))?;
        let map = PerCpuArray::<&MapData, u64>::try_from(map)
            .map_err(|e| Error::map("reading the counters", &e))?;
        Counters::read(|counter: Counter| {
            let values = map
                .get(&counter.index(), 0)
                .map_err(|e| Error::map("reading the counters", &e))?;
            Ok(values.to_vec())
        })
    }

    /// What the `sk_lookup` program noted about the first lookup that it saw; `None` before that.
    ///
    /// # Errors
    /// The same as [`Self::counters`].
    pub fn first_lookup(&self) -> Result<Option<LookupState>, Error> {
        let map = self
            .bpf
            .map(LOOKUP_STATE_MAP)
            .ok_or_else(|| Error::missing(LOOKUP_STATE_MAP))?;
        let map = Array::<&MapData, Shared<LookupState>>::try_from(map)
            .map_err(|e| Error::map("reading the lookup state", &e))?;
        let state = map
            .get(&0, 0)
            .map_err(|e| Error::map("reading the lookup state", &e))?
            .0;
        Ok((state.first_ns != 0).then_some(state))
    }

    /// The programs' log, once; `None` afterwards. [`LogForwarder::run`] it on a runtime.
    pub fn take_log(&mut self) -> Option<LogForwarder> {
        self.log.take()
    }

    /// Pins the maps and the `sk_lookup` program into a folder on bpffs that is theirs alone.
    pub(super) fn pin(&mut self, folder: &Path) -> Result<(), Error> {
        const ACTION: &str = "pinning the maps and the program";
        for (map, pin) in PINS {
            let path = folder.join(pin);
            match (self.bpf.map(map), &self.log) {
                (Some(map), _) => map.pin(path).map_err(|e| Error::pin(ACTION, &e))?,
                // The log took its map out of the object.
                (None, Some(log)) if map == LOG_MAP => {
                    sys::pin(log.ring(), &path).map_err(|e| Error::io(ACTION, &e))?;
                }
                _ => return Err(Error::missing(map)),
            }
        }
        let program = self.steer()?.fd();
        let program = program.map_err(|e| Error::program(ACTION, &e))?;
        sys::pin(program.as_fd(), &folder.join(PROGRAM_PIN)).map_err(|e| Error::io(ACTION, &e))
    }

    /// The log of the programs whose maps are pinned in `folder`, which must be this build's. Makes the object's other maps
    /// and drops them: aya-log opens its ring buffer in no other way without CAP_SYS_ADMIN.
    pub(super) fn pinned_log(folder: &Path) -> Result<LogForwarder, Error> {
        let mut bpf = EbpfLoader::new()
            .map_pin_path(LOG_MAP, folder.join(LOG_MAP))
            .load(object().ok_or(Error::NoObject)?)
            .map_err(|e| Error::load("opening the pinned log", e))?;
        LogForwarder::new(&mut bpf)
    }

    fn steer(&mut self) -> Result<&mut SkLookup, Error> {
        self.bpf
            .program_mut(STEER_PROGRAM)
            .ok_or_else(|| Error::missing(STEER_PROGRAM))?
            .try_into()
            .map_err(|e| Error::Object(format!("program {STEER_PROGRAM}: {e}")))
    }
}

/// Refuses an object that was built from other sources before anything of it runs.
pub(super) fn check_abi(bpf: &Ebpf) -> Result<(), Error> {
    let map = bpf
        .map(ABI_SECTION)
        .ok_or_else(|| Error::missing(ABI_SECTION))?;
    let map = Array::<&MapData, u32>::try_from(map)
        .map_err(|e| Error::map("reading the ABI version", &e))?;
    let found = map
        .get(&0, 0)
        .map_err(|e| Error::map("reading the ABI version", &e))?;
    if found == ABI_VERSION {
        Ok(())
    } else {
        Err(Error::Abi {
            found,
            expected: ABI_VERSION,
        })
    }
}
