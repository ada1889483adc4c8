//! The director's own maps, beside those of [`lb_ebpf::pools`].

use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::flow::Addr;
use lb_common::maps::{ADDRESS_VIP, Traffic};
use lb_common::reasons::{Director, Probe};

/// Which addresses are VIPs. Read only where a packet is about to be refused or is ICMP.
#[btf_map]
static ADDRESSES: HashMap<Addr, u32, 1024> = HashMap::new();

/// Packets per reason.
#[btf_map]
pub static DIRECTOR_COUNTERS: PerCpuArray<u64, { Director::COUNT }> = PerCpuArray::new();

/// Probes per reason.
#[btf_map]
pub static PROBE_COUNTERS: PerCpuArray<u64, { Probe::COUNT }> = PerCpuArray::new();

/// Packets and bytes per service.
#[btf_map]
static TRAFFIC: PerCpuArray<Traffic, 1024> = PerCpuArray::new();

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
