//! The maps that say which host a packet belongs to: of directors and hosts alike. Userspace writes them, the programs
//! read them.
//!
//! Sizes are defaults that the loader overrides by the agent's `capacity`.

use aya_ebpf::btf_maps::{Array, ArrayOfMaps};
use aya_ebpf::macros::btf_map;
use lb_common::flow::Addr;
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
static SERVICES: Array<Entry, 3073, MMAPABLE> = Array::new();

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

/// The address is a VIP. Of directors only: hosts have other VIPs than those of services.
#[inline(always)]
pub fn is_vip(address: Addr) -> bool {
    let [high, low] = address.pairs();
    has_vip(high, low)
}

/// A function of its own: it is called from many places, none of them on the way of a packet that is sent on.
#[inline(never)]
fn has_vip(high: u64, low: u64) -> bool {
    find(ServiceKey::of_vip(Addr::from_pairs([high, low]))).is_some()
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
