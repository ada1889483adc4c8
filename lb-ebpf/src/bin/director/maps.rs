//! The director's own maps, beside those of [`lb_ebpf::pools`].

use aya_ebpf::btf_maps::{HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::flow::{Addr, Flow};
use lb_common::maps::{ADDRESS_VIP, FlowKey, Traffic};
use lb_common::reasons::{Director, Probe};

/// Which addresses are VIPs. Read only where a packet is about to be refused or is ICMP.
#[btf_map]
static ADDRESSES: HashMap<Addr, u32, 1024> = HashMap::new();

/// Host slots of flows, for services that ask for it; the least recently used ones make room.
#[btf_map]
static FLOWS: LruHashMap<FlowKey, u32, 65536> = LruHashMap::new();

/// Packets per reason.
#[btf_map]
pub static DIRECTOR_COUNTERS: PerCpuArray<u64, { Director::COUNT }> = PerCpuArray::new();

/// Probes per reason.
#[btf_map]
pub static PROBE_COUNTERS: PerCpuArray<u64, { Probe::COUNT }> = PerCpuArray::new();

/// Packets and bytes per service.
#[btf_map]
static TRAFFIC: PerCpuArray<Traffic, 1024> = PerCpuArray::new();

/// The slot that the flow was sent to before.
#[inline(always)]
pub fn remembered(flow: &Flow) -> Option<u16> {
    // SAFETY: a single word, read once; another flow's, if the kernel has reused the element, names a host as well.
    unsafe { FLOWS.get(&FlowKey::new(flow)) }.map(|slot| *slot as u16)
}

/// Remembers where the flow goes. A full table makes room by itself; what it cannot hold is decided anew by the next packet.
#[inline(always)]
pub fn remember(flow: &Flow, slot: u16) {
    let _ = FLOWS.insert(FlowKey::new(flow), u32::from(slot), 0);
}

/// The address is a VIP.
#[inline(always)]
pub fn is_vip(address: Addr) -> bool {
    // SAFETY: a single word, read once.
    unsafe { ADDRESSES.get(&address) }.is_some_and(|roles| roles & ADDRESS_VIP != 0)
}

/// Adds a packet to a service.
#[inline(always)]
pub fn count_traffic(service: u32, bytes: u16) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(service) {
        // SAFETY: this CPU's slot, as in `counters::count`.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += u64::from(bytes);
        }
    }
}
