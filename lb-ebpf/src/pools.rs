//! The maps that say which host a packet belongs to: of directors and hosts alike. Userspace writes them, the programs
//! read them.
//!
//! Sizes are defaults that the loader overrides by the agent's `capacity`.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, LpmTrie};
use aya_ebpf::macros::btf_map;
use lb_common::flow::{Addr, Flow};
use lb_common::maps::{CHAINS, Entry, LINKS, Nexthop, Row, Service, ServiceKey, nexthop_index};
use lb_common::prefixes::{PREFIX_KEY_BITS, Prefix, PrefixKey};

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

/// VIPs that are prefixes, and the services and fragments of such: see [`lb_common::prefixes`]. An entry comes after
/// that of the directory, and goes before it.
#[btf_map]
static PREFIXES: LpmTrie<PrefixKey, Prefix, 4097> = LpmTrie::new();

/// Not 0: some VIP is a prefix. The loader writes it, and the verifier takes it for a constant: while there are none,
/// what looks for them is no part of the program.
#[unsafe(no_mangle)]
static ANY_PREFIX: u32 = 0;

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

/// The service of a flow: of its port, or of any port; of its address, or of the longest prefix that holds it.
#[inline(always)]
pub fn service_of(flow: &Flow) -> Option<&'static Service> {
    let exact = service(flow.destination, flow.destination_port(), flow.protocol);
    exact.or_else(|| find_apart(key_of(flow).any_port())).or_else(|| service_within(flow))
}

/// The service of a flow to an address that is no VIP by itself.
#[inline(always)]
pub fn service_within(flow: &Flow) -> Option<&'static Service> {
    if flow.v6 && any_prefix() { find_within(key_of(flow)) } else { None }
}

/// The service whose host gets the fragments of a protocol for a VIP.
#[inline(always)]
pub fn service_of_fragments(flow: &Flow) -> Option<&'static Service> {
    let key = ServiceKey::of_fragments(flow.destination, flow.protocol);
    find_apart(key).or_else(|| if flow.v6 && any_prefix() { find_within(key) } else { None })
}

/// The address is a VIP, or in one.
#[inline(always)]
pub fn is_vip(address: Addr) -> bool {
    is_vip_itself(address) || is_within(address)
}

/// The address is a VIP. One that is none mostly meets an empty chain, which is seen without a call.
#[inline(always)]
pub fn is_vip_itself(address: Addr) -> bool {
    let key = ServiceKey::of_vip(address);
    SERVICE_CHAINS.get(key.chain()).is_some_and(|first| *first != 0) && find_apart(key).is_some()
}

/// The address is in a VIP that is a prefix.
#[inline(always)]
pub fn is_within(address: Addr) -> bool {
    if address.is_mapped() || !any_prefix() {
        return false;
    }
    let [high, low] = address.pairs();
    held(high, low)
}

#[inline(always)]
fn key_of(flow: &Flow) -> ServiceKey {
    ServiceKey::new(flow.destination, flow.destination_port(), flow.protocol)
}

#[inline(always)]
fn any_prefix() -> bool {
    // SAFETY: a valid reference; volatile, since the value is not the one that the compiler sees.
    unsafe { core::ptr::read_volatile(&raw const ANY_PREFIX) != 0 }
}

/// A function of its own, as [`found`] is.
#[inline(never)]
fn held(high: u64, low: u64) -> bool {
    prefix(ServiceKey::of_vip(Addr::from_pairs([high, low]))).is_some()
}

#[inline(always)]
fn find_within(key: ServiceKey) -> Option<&'static Service> {
    let ([high, low], port_protocol) = key.parts();
    found_within(high, low, port_protocol)
}

/// Among prefixes of one length a port goes before any port.
#[inline(never)]
fn found_within(high: u64, low: u64, port_protocol: u64) -> Option<&'static Service> {
    let key = ServiceKey::from_parts([high, low], port_protocol);
    let (of_port, of_any) = (prefix(key), prefix(key.any_port()));
    match (of_port, of_any) {
        (Some(of_port), Some(of_any)) if of_any.length > of_port.length => {
            find_apart(key.any_port().within(*of_any))
        }
        (Some(prefix), _) => find_apart(key.within(*prefix)),
        (None, Some(prefix)) => find_apart(key.any_port().within(*prefix)),
        (None, None) => None,
    }
}

/// The longest prefix of which there is such a key.
#[inline(always)]
fn prefix(key: ServiceKey) -> Option<&'static Prefix> {
    PREFIXES.get(&Key::new(PREFIX_KEY_BITS, key.in_trie()))
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

/// A row of a table. It does not change while a service names the table, so its owners may be read one after the other.
#[inline(always)]
pub fn row(table: u32, index: u32) -> Option<&'static Row> {
    TABLES.get_value(table, &index)
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
