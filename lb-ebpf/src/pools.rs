//! The maps that say which host a packet belongs to: of directors and hosts alike. Userspace writes them, the programs
//! read them.
//!
//! Sizes are defaults that the loader overrides by the agent's `capacity`.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, HashMap};
use aya_ebpf::macros::btf_map;
use lb_common::flow::Addr;
use lb_common::maps::{Nexthop, Row, Service, ServiceKey, nexthop_index};

/// `BPF_F_MMAPABLE`: userspace fills a new table through memory.
const MMAPABLE: usize = 1 << 10;
/// `BPF_F_INNER_MAP`: tables may differ in size.
const INNER_MAP: usize = 1 << 12;

type Table = Array<Row, 65537, { MMAPABLE | INNER_MAP }>;

/// Replaced element by element: an update swaps in a new one, so a lookup sees the old or the new value whole.
#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, 1024> = HashMap::new();

/// A table is never changed once a service names its slot: a new one goes to a free slot, then the services follow.
#[btf_map]
static TABLES: ArrayOfMaps<Table, 64> = ArrayOfMaps::new();

/// Two entries per host slot, by inner family. See [`Nexthop`] for what a concurrent update can do.
#[btf_map]
static NEXTHOPS: Array<Nexthop, 8192> = Array::new();

/// Stable host ids by slot: hosts pass packets on in their order, and a digest can be taken from the kernel alone.
#[btf_map]
static HOST_IDS: Array<u64, 4096> = Array::new();

/// The service of a VIP, port and protocol.
#[inline(always)]
pub fn service(vip: Addr, port: u16, protocol: u8) -> Option<Service> {
    // SAFETY: the element is copied out before anything else happens. Userspace may free it meanwhile and the kernel
    // reuse it for another service: such a packet is sent by that service's table, a benign race on removal only.
    unsafe { SERVICES.get(&ServiceKey::new(vip, port, protocol)) }.copied()
}

/// A row of a table.
#[inline(always)]
pub fn row(table: u32, index: u32) -> Option<Row> {
    TABLES.get_value(table, &index).copied()
}

/// How to reach a host.
#[inline(always)]
pub fn nexthop(slot: u16, inner_v6: bool) -> Option<&'static Nexthop> {
    NEXTHOPS.get(nexthop_index(slot, inner_v6))
}

/// How to reach what a probe's mark names.
#[inline(always)]
pub fn nexthop_of_mark(index: u32) -> Option<&'static Nexthop> {
    NEXTHOPS.get(index)
}

/// The stable id of the host in a slot; 0 for none.
#[inline(always)]
pub fn host_id(slot: u16) -> u64 {
    HOST_IDS.get(u32::from(slot)).copied().unwrap_or(0)
}
