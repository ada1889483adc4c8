//! What the BPF programs have in common: access to packets, and counters.

#![no_std]

pub mod counters;
pub mod packet;

/// The kernel refuses programs with loops that cannot end; a panic is compiled out or fails to load.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
