//! The host's own maps, beside those of [`lb_ebpf::pools`].

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::flow::Addr;
use lb_common::maps::{ADDRESS_LOCAL, ADDRESS_VIP, Account, Budget, GENERATIONS, View, account_index};
use lb_common::reasons::Host;
use lb_ebpf::{budget, pools};

/// What an address is to this host: a bit set, read as one word.
#[btf_map]
static ADDRESSES: HashMap<Addr, u32, 1024> = HashMap::new();

/// Prefixes of accepted senders. A trie's nodes are replaced whole, and freed after a grace period.
#[btf_map]
static SENDERS: LpmTrie<Addr, u32, 1024> = LpmTrie::new();

/// Packets per reason.
#[btf_map]
pub static HOST_COUNTERS: PerCpuArray<u64, { Host::COUNT }> = PerCpuArray::new();

/// Of the table in the same slot of the tables; written before a service names the slot. Where generations come and go
/// over the same rows it is written in place: a packet of that moment may be accounted to another generation.
#[btf_map]
static VIEWS: Array<View, 64> = Array::new();

/// Indexed by [`account_index`].
#[btf_map]
static ACCOUNTS: PerCpuArray<Account, 9216> = PerCpuArray::new();

/// One entry; see [`Budget`] for how CPUs share it.
#[btf_map]
static BUDGET: Array<Budget, 1> = Array::new();

/// What is known of the pool of a table.
#[inline(always)]
pub fn view(table: u32) -> Option<&'static View> {
    VIEWS.get(table)
}

/// Adds a packet of a service to an account of the generation.
#[inline(always)]
pub fn account(service: u32, table: u32, generation: u16, packet: impl FnOnce(&mut Account) -> &mut u64) {
    let place = view(table).map_or(GENERATIONS, |view| view.place(generation));
    if let Some(account) = ACCOUNTS.get_ptr_mut(account_index(service, place)) {
        // SAFETY: this CPU's slot, as in `counters::count`.
        unsafe { *packet(&mut *account) += 1 };
    }
}

/// Takes one packet from the budget; false if there is none left.
#[inline(always)]
pub fn afford() -> bool {
    budget::afford(BUDGET.get_ptr_mut(0))
}

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

/// The address is a VIP of this host, or in one.
#[inline(always)]
pub fn is_vip(address: Addr) -> bool {
    roles(address) & ADDRESS_VIP != 0 || pools::is_within(address)
}

/// Packets of this sender are unwrapped.
#[inline(always)]
pub fn is_sender(address: Addr) -> bool {
    SENDERS.get(&Key::new(128, address)).is_some()
}
