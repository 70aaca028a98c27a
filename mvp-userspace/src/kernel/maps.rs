//! The pinned maps, typed.

use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockMap};
use mvp_common::{
    ABI_SECTION, COUNTERS_MAP, Counter, EXEMPT_MAP, ExemptKey, ExemptValue, GUARD_MAP, GuardState,
    LISTENERS_MAP, LOCAL_SOURCES_MAP, LOOKUP_STATE_MAP, NOTED_MAP, OWNER_MAP, PULSE_MAP, Pulse,
    ROUTES_MAP, RouteKey, RouteValue, SERVERS_MAP, STEER_PORTS_MAP, STEERED_MAP, ServerValue,
    SteerKey, TABLE_MAP, TableHead,
};

use super::{Counters, Error, local::Trie, shared::Shared};

/// Every map that is pinned: its name in the object and the name of its pin. The ABI version comes first: what has it is
/// ours. (bpffs takes no dots in names.)
pub(super) const PINS: [(&str, &str); 16] = [
    (ABI_SECTION, ABI_PIN),
    (COUNTERS_MAP, COUNTERS_MAP),
    (EXEMPT_MAP, EXEMPT_MAP),
    (GUARD_MAP, GUARD_MAP),
    (LISTENERS_MAP, LISTENERS_MAP),
    (LOCAL_SOURCES_MAP, LOCAL_SOURCES_MAP),
    (LOG_MAP, LOG_MAP),
    (LOOKUP_STATE_MAP, LOOKUP_STATE_MAP),
    (NOTED_MAP, NOTED_MAP),
    (OWNER_MAP, OWNER_MAP),
    (PULSE_MAP, PULSE_MAP),
    (ROUTES_MAP, ROUTES_MAP),
    (SERVERS_MAP, SERVERS_MAP),
    (STEER_PORTS_MAP, STEER_PORTS_MAP),
    (STEERED_MAP, STEERED_MAP),
    (TABLE_MAP, TABLE_MAP),
];

/// Name of the pin with the ABI version.
pub(super) const ABI_PIN: &str = "ABI";

/// aya-log's ring buffer.
pub(super) const LOG_MAP: &str = "AYA_LOGS";

type One<T> = Array<MapData, T>;

/// Descriptors of the maps in one pin folder; they stay valid when the folder is replaced or removed.
pub(super) struct Maps {
    pub guard: One<Shared<GuardState>>,
    pub pulse: One<Shared<Pulse>>,
    pub steered: One<u64>,
    pub ports: HashMap<MapData, Shared<SteerKey>, u32>,
    pub exempt: HashMap<MapData, Shared<ExemptKey>, Shared<ExemptValue>>,
    pub local: Trie,
    pub listeners: SockMap<MapData>,
    pub counters: PerCpuArray<MapData, u64>,
    pub table: One<Shared<TableHead>>,
    pub routes: HashMap<MapData, Shared<RouteKey>, Shared<RouteValue>>,
    pub servers: Array<MapData, Shared<ServerValue>>,
}

impl Maps {
    /// Opens the maps of a folder whose ABI version has been checked.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        Ok(Self {
            guard: open(folder, GUARD_MAP)?,
            pulse: open(folder, PULSE_MAP)?,
            steered: open(folder, STEERED_MAP)?,
            ports: open(folder, STEER_PORTS_MAP)?,
            exempt: open(folder, EXEMPT_MAP)?,
            local: open(folder, LOCAL_SOURCES_MAP)?,
            listeners: open(folder, LISTENERS_MAP)?,
            counters: open(folder, COUNTERS_MAP)?,
            table: open(folder, TABLE_MAP)?,
            routes: open(folder, ROUTES_MAP)?,
            servers: open(folder, SERVERS_MAP)?,
        })
    }

    /// The counters, summed over the CPUs.
    pub(super) fn counters(&self) -> Result<Counters, Error> {
        Counters::read(|counter: Counter| {
            let values = self.counters.get(&counter.index(), 0);
            Ok(values.map_err(|e| read(&e))?.to_vec())
        })
    }
}

/// Opens one pinned map.
pub(super) fn open<M: TryFrom<Map, Error = MapError>>(
    folder: &Path,
    name: &str,
) -> Result<M, Error> {
    MapData::from_pin(folder.join(name))
        .and_then(Map::from_map_data)
        .and_then(M::try_from)
        .map_err(|e| Error::map("opening a pinned map", &e))
}

/// The ABI version that a pin folder carries; `None` if it has none, and so is not ours.
pub(super) fn abi(folder: &Path) -> Option<u32> {
    open_abi(folder).ok()
}

/// As [`abi`], with the reason for which it cannot be read.
pub(super) fn open_abi(folder: &Path) -> Result<u32, Error> {
    let map: Array<MapData, u32> = open(folder, ABI_PIN)?;
    map.get(&0, 0).map_err(|e| read(&e))
}

/// A failure to read one of the maps.
pub(super) fn read(error: &MapError) -> Error {
    Error::map("reading a pinned map", error)
}

/// A failure to write one of the maps.
pub(super) fn write(error: &MapError) -> Error {
    Error::map("writing a pinned map", error)
}
