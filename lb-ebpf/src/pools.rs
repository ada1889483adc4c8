//! The maps that say which host a packet belongs to: of directors and hosts alike. Userspace writes them, the programs
//! read them.
//!
//! Sizes are defaults that the loader overrides by the agent's `capacity`.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::btf_map;
use lb_common::flow::{Addr, Flow};
use lb_common::maps::{CHAINS, Entry, LINKS, Nexthop, Row, Service, ServiceKey, nexthop_index};

/// `BPF_F_MMAPABLE`: userspace reads and writes it as memory, word by word; values begin at a page, and so at cache lines.
pub const MMAPABLE: usize = 1 << 10;
/// `BPF_F_INNER_MAP`: tables may differ in size.
const INNER_MAP: usize = 1 << 12;

type Table = Array<Row, 65537, { MMAPABLE | INNER_MAP }>;

/// First entry of each chain of the directory of services and VIPs; 0: none.
#[btf_map]
static SERVICE_CHAINS: Array<u64, CHAINS, MMAPABLE> = Array::new();

/// Entries of the directory; see [`Entry`]. The first is not used.
#[btf_map]
static SERVICES: Array<Entry, 4097, MMAPABLE> = Array::new();

/// A table is never changed once a service names its slot: a new one goes to a free slot, then the services follow.
#[btf_map]
static TABLES: ArrayOfMaps<Table, 64> = ArrayOfMaps::new();

/// Two entries per host slot, by inner family. See [`Nexthop`] for what a concurrent update can do.
#[btf_map]
static NEXTHOPS: Array<Nexthop, 8192, MMAPABLE> = Array::new();

/// Stable host ids by slot: hosts pass packets on in their order, and a digest can be taken from the kernel alone.
#[btf_map]
static HOST_IDS: Array<u64, 4096> = Array::new();

/// The service of a VIP, port and protocol.
#[inline(always)]
pub fn service(vip: Addr, port: u16, protocol: u8) -> Option<&'static Service> {
    find(ServiceKey::new(vip, port, protocol))
}

/// The service of a flow: of its port, or of any port.
#[inline(always)]
pub fn service_of(flow: &Flow) -> Option<&'static Service> {
    let exact = service(flow.destination, flow.destination_port(), flow.protocol);
    exact.or_else(|| {
        find_apart(ServiceKey::new(flow.destination, flow.destination_port(), flow.protocol).any_port())
    })
}

/// The service whose host gets the fragments of a protocol for a VIP.
#[inline(always)]
pub fn service_of_fragments(flow: &Flow) -> Option<&'static Service> {
    find_apart(ServiceKey::of_fragments(flow.destination, flow.protocol))
}

/// The address is a VIP.
#[inline(always)]
pub fn is_vip(address: Addr) -> bool {
    find_apart(ServiceKey::of_vip(address)).is_some()
}

/// [`find`] off the way of a packet as nearly all are.
#[inline(always)]
fn find_apart(key: ServiceKey) -> Option<&'static Service> {
    let ([high, low], port_protocol) = key.parts();
    found(high, low, port_protocol)
}

/// A function of its own, since it is called from many places. The key comes in registers.
#[inline(never)]
fn found(high: u64, low: u64, port_protocol: u64) -> Option<&'static Service> {
    find(ServiceKey::from_parts([high, low], port_protocol))
}

#[inline(always)]
fn find(key: ServiceKey) -> Option<&'static Service> {
    let mut at = *SERVICE_CHAINS.get(key.chain())?;
    for _ in 0..LINKS {
        if at == 0 {
            break;
        }
        let entry = SERVICES.get(at as u32)?;
        if entry.key == key {
            return Some(&entry.service);
        }
        at = entry.next;
    }
    None
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

/// The stable id of the host in a slot.
#[inline(always)]
pub fn host_id(slot: u16) -> Option<u64> {
    HOST_IDS.get(u32::from(slot)).copied()
}
