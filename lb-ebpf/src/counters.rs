//! Per-CPU counters: no other CPU writes them, so a plain increment is enough.

use aya_ebpf::btf_maps::PerCpuArray;

/// Adds one packet to the counter of a reason.
#[inline(always)]
pub fn count<const N: usize>(counters: &PerCpuArray<u64, N>, reason: u32) {
    if let Some(counter) = counters.get_ptr_mut(reason) {
        // SAFETY: a valid pointer into this CPU's slot; programs are not preempted by one another on it.
        unsafe { *counter += 1 };
    }
}
