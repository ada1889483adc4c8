//! The director's own maps, beside those of [`lb_ebpf::pools`].

use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::flow::{self, Flow};
use lb_common::maps::{Budget, FlowSet, SEEN, Traffic, WAYS, flow_word, is_of, slot_of};
use lb_common::reasons::{Director, Probe};
use lb_ebpf::budget;
use lb_ebpf::pools::MMAPABLE;

/// Hosts of flows, for services that ask for it.
#[btf_map]
static FLOWS: Array<FlowSet, 8192, MMAPABLE> = Array::new();

/// Sets of the flow table. The loader writes it, and the verifier takes it for a constant.
#[unsafe(no_mangle)]
static FLOW_SETS: u32 = 8192;

/// Packets per reason.
#[btf_map]
pub static DIRECTOR_COUNTERS: PerCpuArray<u64, { Director::COUNT }> = PerCpuArray::new();

/// Probes per reason.
#[btf_map]
pub static PROBE_COUNTERS: PerCpuArray<u64, { Probe::COUNT }> = PerCpuArray::new();

/// Packets and bytes per service.
#[btf_map]
static TRAFFIC: PerCpuArray<Traffic, 1024> = PerCpuArray::new();

/// Packets and bytes per host slot. See [`lb_common::measures`].
#[btf_map]
static HOST_TRAFFIC: PerCpuArray<Traffic, 4096> = PerCpuArray::new();

/// One entry: how many senders are told in a moment that a packet was too big.
#[btf_map]
static ERROR_BUDGET: Array<Budget, 1> = Array::new();

/// Takes one answer from the budget; false if there is none left.
#[inline(always)]
pub fn afford_error() -> bool {
    budget::afford(ERROR_BUDGET.get_ptr_mut(0))
}

/// Where a flow is remembered, if it is.
#[derive(Clone, Copy)]
pub struct Memory {
    set: *mut FlowSet,
    fingerprint: u64,
}

impl Memory {
    /// Of a flow with this hash.
    #[inline(always)]
    pub fn of(seed: u64, flow: &Flow, hash: u32) -> Option<Self> {
        let fingerprint = flow::fingerprint(seed, flow);
        // SAFETY: a valid reference; volatile, since the value is not the one that the compiler sees.
        let sets = unsafe { core::ptr::read_volatile(&raw const FLOW_SETS) };
        // The half of the hash that does not pick the row first.
        let set = flow::row(hash.rotate_left(16), sets);
        Some(Memory { set: FLOWS.get_ptr_mut(set)?, fingerprint })
    }

    /// The slot that the flow was sent to before.
    #[inline(always)]
    pub fn slot(&self) -> Option<u16> {
        for way in 0..WAYS {
            let word = self.read(way);
            if is_of(word, self.fingerprint) {
                if word & SEEN == 0 {
                    self.write(way, word | SEEN);
                }
                return Some(slot_of(word));
            }
        }
        None
    }

    /// Remembers where the flow goes: in place of where it went before, of none, or of a flow that was not seen again lately,
    /// wherever the search for one begins.
    #[inline(always)]
    pub fn keep(&self, slot: u16) {
        let word = flow_word(self.fingerprint, slot);
        for way in 0..WAYS {
            if is_of(self.read(way), self.fingerprint) {
                return self.write(way, word);
            }
        }
        for way in 0..WAYS {
            if self.read(way) == 0 {
                return self.write(way, word);
            }
        }
        let first = self.fingerprint as usize;
        for way in 0..WAYS {
            if self.read(first + way) & SEEN == 0 {
                return self.write(first + way, word);
            }
        }
        for way in 0..WAYS {
            self.write(way, self.read(way) & !SEEN);
        }
        self.write(first, word);
    }

    #[inline(always)]
    fn read(&self, way: usize) -> u64 {
        // SAFETY: inside a set of the map. Other CPUs read and write the same words, each as a whole; whichever flow is
        // lost by that is decided anew.
        unsafe { (&raw const (*self.set)[way & (WAYS - 1)]).read_volatile() }
    }

    #[inline(always)]
    fn write(&self, way: usize, word: u64) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.set)[way & (WAYS - 1)]).write_volatile(word) }
    }
}

/// Adds a packet to a service and to a host.
#[inline(always)]
pub fn count_traffic(service: u32, slot: u16, bytes: u16) {
    if let Some(traffic) = TRAFFIC.get_ptr_mut(service) {
        add(traffic, bytes);
    }
    if let Some(traffic) = HOST_TRAFFIC.get_ptr_mut(u32::from(slot)) {
        add(traffic, bytes);
    }
}

#[inline(always)]
fn add(traffic: *mut Traffic, bytes: u16) {
    // SAFETY: a valid pointer into this CPU's slot, as in `counters::count`.
    unsafe {
        (*traffic).packets += 1;
        (*traffic).bytes += u64::from(bytes);
    }
}
