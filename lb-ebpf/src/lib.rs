//! What the BPF programs have in common: access to packets, outer headers, maps of pools, and counters.

#![no_std]
// Inline assembly for BPF, in `budget` and `packet`.
#![feature(asm_experimental_arch)]

pub mod budget;
pub mod counters;
pub mod encapsulate;
pub mod packet;
pub mod pools;
pub mod quote;
pub mod send;
pub mod tags;

/// The kernel refuses programs with loops that cannot end; a panic is compiled out or fails to load.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
