//! The director's object: its maps, and their sizes.

use std::collections::BTreeMap;

use aya::include_bytes_aligned;
use lb_common::maps::{self, Nexthop, Traffic};
use lb_common::reasons;

use crate::dataplane::load::{Capacities, MapShape, Object, kind};

/// `BPF_F_NO_PREALLOC`, which the kernel wants of LPM tries.
pub(crate) const NO_PREALLOC: u32 = 1;

const fn shape(name: &'static str, kind: u32, key: u32, value: usize, entries: u32) -> MapShape {
    MapShape { name, kind, key, value: value as u32, flags: 0, entries }
}

/// The director's object.
pub static OBJECT: Object = Object {
    name: "director",
    bytes: include_bytes_aligned!("../../../prebuilt/director.o"),
    maps: &[
        shape("SERVICES", kind::HASH, 20, size_of::<maps::Service>(), 1024),
        shape("ADDRESSES", kind::HASH, 16, 4, 1024),
        shape("TABLES", kind::ARRAY_OF_MAPS, 4, 4, 64),
        shape("NEXTHOPS", kind::ARRAY, 4, size_of::<Nexthop>(), 8192),
        shape("HOST_IDS", kind::ARRAY, 4, 8, 4096),
        shape("DIRECTOR_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Director::COUNT as u32),
        shape("PROBE_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Probe::COUNT as u32),
        shape("TRAFFIC", kind::PERCPU_ARRAY, 4, size_of::<Traffic>(), 1024),
    ],
};

/// Sizes of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Services, and VIPs.
    pub services: u32,
    /// Hosts over all pools, at most 65535.
    pub hosts: u32,
    /// Tables: one per pool, and one spare to change them.
    pub tables: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Capacity { services: 1024, hosts: 4096, tables: 64 }
    }
}

impl Capacity {
    pub(super) fn maps(self) -> Capacities {
        BTreeMap::from([
            ("SERVICES", self.services),
            ("ADDRESSES", self.services),
            ("TRAFFIC", self.services),
            ("TABLES", self.tables),
            ("NEXTHOPS", self.hosts * 2),
            ("HOST_IDS", self.hosts),
        ])
    }
}
