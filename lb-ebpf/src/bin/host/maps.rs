//! The host's maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::flow::Addr;
use lb_common::maps::{ADDRESS_LOCAL, ADDRESS_VIP};
use lb_common::reasons::Host;

/// What an address is to this host: a bit set, read as one word.
#[btf_map]
static ADDRESSES: HashMap<Addr, u32, 1024> = HashMap::new();

/// Prefixes of accepted senders. A trie's nodes are replaced whole, and freed after a grace period.
#[btf_map]
static SENDERS: LpmTrie<Addr, u32, 1024> = LpmTrie::new();

/// Packets per reason.
#[btf_map]
pub static HOST_COUNTERS: PerCpuArray<u64, { Host::COUNT }> = PerCpuArray::new();

#[inline(always)]
fn roles(address: Addr) -> u32 {
    // SAFETY: a single word, read once.
    unsafe { ADDRESSES.get(&address) }.copied().unwrap_or(0)
}

/// A tunnel may end at this address.
#[inline(always)]
pub fn is_local(address: Addr) -> bool {
    roles(address) & ADDRESS_LOCAL != 0
}

/// The address is a VIP of this host.
#[inline(always)]
pub fn is_vip(address: Addr) -> bool {
    roles(address) & ADDRESS_VIP != 0
}

/// Packets of this sender are unwrapped.
#[inline(always)]
pub fn is_sender(address: Addr) -> bool {
    SENDERS.get(&Key::new(128, address)).is_some()
}
