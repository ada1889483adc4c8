//! The director's object: its maps, and their sizes.

use aya::include_bytes_aligned;
use lb_common::maps::{Budget, FlowSet, Traffic, WAYS};
use lb_common::reasons;

use super::DirectorOptions;
use super::extras::{self, BUCKETS, EXTRAS, SOURCE_LISTS};
use super::server_ids::SERVER_IDS;
use crate::dataplane::load::{Capacities, Object, kind};
use crate::dataplane::pools::{self, HOST_IDS, NEXTHOPS, SERVICE_CHAINS, SERVICES, TABLES, memory, shape};
use crate::dataplane::prefixes::{self, ANY_PREFIX, PREFIXES};

/// `BPF_F_NO_PREALLOC`, which the kernel wants of LPM tries.
pub(crate) const NO_PREALLOC: u32 = 1;

/// The director's object.
pub static OBJECT: Object = Object {
    name: "director",
    bytes: include_bytes_aligned!("../../../prebuilt/director.o"),
    maps: &[
        SERVICES,
        SERVICE_CHAINS,
        TABLES,
        NEXTHOPS,
        HOST_IDS,
        PREFIXES,
        EXTRAS,
        SOURCE_LISTS,
        BUCKETS,
        SERVER_IDS,
        shape("DIRECTOR_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Director::COUNT as u32),
        shape("PROBE_COUNTERS", kind::PERCPU_ARRAY, 4, 8, reasons::Probe::COUNT as u32),
        memory("FLOWS", size_of::<FlowSet>(), sets(65536)),
        shape("ERROR_BUDGET", kind::ARRAY, 4, size_of::<Budget>(), 1),
        shape("TRAFFIC", kind::PERCPU_ARRAY, 4, size_of::<Traffic>(), 1024),
        shape("HOST_TRAFFIC", kind::PERCPU_ARRAY, 4, size_of::<Traffic>(), 4096),
    ],
    constants: &[("FLOW_SETS", "FLOWS"), (ANY_PREFIX, ANY_PREFIX)],
};

/// Sets of the flow table that hold so many flows.
const fn sets(flows: u32) -> u32 {
    flows.div_ceil(WAYS as u32)
}

/// Words of the flow table.
pub(super) fn flow_words(options: &DirectorOptions) -> usize {
    sets(options.flows) as usize * WAYS
}

/// How many entries each map has.
pub(super) fn entries(options: &DirectorOptions) -> Capacities {
    let capacity = options.capacity;
    let mut entries = pools::entries(capacity);
    entries.extend([
        ("EXTRAS", extras::entries(capacity.services)),
        ("TRAFFIC", capacity.services),
        ("HOST_TRAFFIC", capacity.hosts),
        ("FLOWS", sets(options.flows)),
    ]);
    prefixes::tell(options.prefixes, &mut entries);
    entries
}
