//! How much memory the maps take, and what for.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::MapInfo;

use super::load::Loaded;
use super::pools::{map_error, map_io};
use super::{Error, Result};

/// A map, or all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// Its name in the object.
    pub map: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// Memory that the kernel has set aside for it.
    pub bytes: u64,
}

/// The name of all inner maps of `TABLES` together.
pub const ROWS: &str = "table rows";

/// All maps of the programs and what they are for, in the order in which they are shown.
const PURPOSES: &[(&str, &str)] = &[
    ("SERVICES", "services and VIPs"),
    ("SERVICE_CHAINS", "the way to services"),
    ("PREFIXES", "VIPs that are prefixes"),
    ("TABLES", "slots of tables"),
    (ROWS, "owners of all rows of all tables"),
    ("NEXTHOPS", "ways to hosts, with outer headers"),
    ("HOST_IDS", "stable ids of hosts"),
    ("EXTRAS", "what services ask for beyond a table"),
    ("SOURCE_LISTS", "prefixes in lists of sources"),
    ("BUCKETS", "sources of services with a limit"),
    ("SERVER_IDS", "hosts by QUIC server id"),
    ("FLOWS", "flows of services with affinity: flow-table"),
    ("TRAFFIC", "packets and bytes per service and CPU"),
    ("HOST_TRAFFIC", "packets and bytes per host and CPU"),
    ("DIRECTOR_COUNTERS", "packets per reason and CPU"),
    ("PROBE_COUNTERS", "probes per reason and CPU"),
    ("ERROR_BUDGET", "ICMP errors that may be sent"),
    ("CAPTURE", "buffers of lb capture"),
    ("ADDRESSES", "VIPs and addresses of this machine"),
    ("SENDERS", "prefixes that tunnels are accepted from"),
    ("VIEWS", "generations in force, per table"),
    ("ACCOUNTS", "packets per service, generation, fate and CPU"),
    ("BUDGET", "packets that may be passed on"),
    ("HOST_COUNTERS", "packets per reason and CPU"),
    (".rodata", "constants"),
    (".data", "variables"),
    (".bss", "variables"),
];

/// Of a map of this name, which the kernel cuts after 15 bytes.
fn known(name: &str) -> Option<(&'static str, &'static str)> {
    let cut = |whole: &str| whole == name || name.len() == 15 && whole.starts_with(name);
    PURPOSES.iter().copied().find(|(whole, _)| cut(whole))
}

/// Of all maps of an object but the tables, of which the kernel counts the slots alone.
pub fn of_object(loaded: &Loaded) -> Result<Vec<MapUse>> {
    let mut ids = BTreeSet::new();
    for (_, program) in loaded.programs() {
        let info = program.info().map_err(|source| Error::Program { program: "info", source })?;
        ids.extend(
            info.map_ids()
                .map_err(|source| Error::Program { program: "maps", source })?
                .into_iter()
                .flatten(),
        );
    }
    let mut uses = Vec::new();
    for id in ids {
        let info = MapInfo::from_id(id).map_err(map_error("info"))?;
        let descriptor = info.fd().map_err(map_error("info"))?;
        let (map, purpose) = info.name_as_str().and_then(known).unwrap_or(("other", "something else"));
        uses.push(MapUse { map, purpose, bytes: locked(descriptor.as_fd()).map_err(map_io(map))? });
    }
    Ok(uses)
}

/// Of so many bytes of tables.
pub fn of_tables(bytes: u64) -> Option<MapUse> {
    known(ROWS).map(|(map, purpose)| MapUse { map, purpose, bytes })
}

/// In the order of the list.
pub fn sort(uses: &mut [MapUse]) {
    uses.sort_by_key(|used| PURPOSES.iter().position(|(name, _)| *name == used.map));
}

/// What the kernel says of a map's memory.
pub fn locked(map: BorrowedFd<'_>) -> io::Result<u64> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
    let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    let bytes = bytes.and_then(|bytes| bytes.trim().parse().ok());
    bytes.ok_or_else(|| io::Error::other("fdinfo tells no memlock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{director, host};

    #[test]
    fn every_map_is_for_something() {
        for shape in director::OBJECT.maps.iter().chain(host::OBJECT.maps) {
            let cut = &shape.name[..shape.name.len().min(15)];
            assert_eq!(known(cut).map(|(name, _)| name), Some(shape.name));
        }
        assert_eq!(known("SERVICE"), None);
    }
}
