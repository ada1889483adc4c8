//! So much of something in a moment, all CPUs together.

use core::arch::asm;

use aya_ebpf::helpers::bpf_ktime_get_ns;
use lb_common::maps::{Budget, WINDOW_BITS};

/// Takes one from a budget, which is a map's value; false if there is none left.
#[inline(always)]
pub fn afford(budget: Option<*mut Budget>) -> bool {
    let Some(budget) = budget else { return false };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() } >> WINDOW_BITS;
    // SAFETY: a valid pointer. Other CPUs read and write these words at the same time, each as a whole; what that can
    // do to the count is said at `Budget`.
    unsafe {
        if (&raw const (*budget).window).read_volatile() != now {
            (&raw mut (*budget).window).write_volatile(now);
            (&raw mut (*budget).spent).write_volatile(0);
        }
        if (&raw const (*budget).spent).read_volatile() >= (&raw const (*budget).limit).read_volatile() {
            return false;
        }
        // The target has no atomic types: `BPF_XADD`.
        asm!("lock *(u64 *)({} + 0) += {}", in(reg) &raw mut (*budget).spent, in(reg) 1u64);
    }
    true
}
