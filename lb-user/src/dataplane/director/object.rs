//! The director's object: its maps, and their sizes.

use std::collections::BTreeMap;

use aya::include_bytes_aligned;
use lb_common::maps::{self, Nexthop, Traffic};
use lb_common::reasons;

use crate::config::Capacity;
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

/// How many entries each map has.
pub(super) fn entries(capacity: Capacity) -> Capacities {
    BTreeMap::from([
        ("SERVICES", capacity.services),
        ("ADDRESSES", capacity.services),
        ("TRAFFIC", capacity.services),
        ("TABLES", capacity.tables),
        ("NEXTHOPS", capacity.hosts * 2),
        ("HOST_IDS", capacity.hosts),
    ])
}
