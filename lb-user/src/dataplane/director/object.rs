//! The director's object: its maps, and their sizes.

use aya::include_bytes_aligned;
use lb_common::maps::Traffic;
use lb_common::reasons;

use crate::config::Capacity;
use crate::dataplane::load::{Capacities, Object, kind};
use crate::dataplane::pools::{self, HOST_IDS, NEXTHOPS, SERVICES, TABLES, shape};

/// `BPF_F_NO_PREALLOC`, which the kernel wants of LPM tries.
pub(crate) const NO_PREALLOC: u32 = 1;

/// The director's object.
pub static OBJECT: Object = Object {
    name: "director",
    bytes: include_bytes_aligned!("../../../prebuilt/director.o"),
    maps: &[
        SERVICES,
        shape("ADDRESSES", kind::HASH, 16, 4, 1024),
        TABLES,
        NEXTHOPS,
        HOST_IDS,
        shape("DIRECTOR_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Director::COUNT as u32),
        shape("PROBE_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Probe::COUNT as u32),
        shape("TRAFFIC", kind::PERCPU_ARRAY, 4, size_of::<Traffic>(), 1024),
    ],
};

/// How many entries each map has.
pub(super) fn entries(capacity: Capacity) -> Capacities {
    let mut entries = pools::entries(capacity);
    entries.extend([("ADDRESSES", capacity.services), ("TRAFFIC", capacity.services)]);
    entries
}
