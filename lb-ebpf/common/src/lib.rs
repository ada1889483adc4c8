//! What the BPF programs and userspace share: map layouts, the flow hash, outer headers, and the list of reasons.
//!
//! Everything here is `no_std`, allocates nothing, and is tested on the host; the BPF programs compile the very same
//! functions, which `tests/` proves by running them in the kernel.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod bench;
pub mod capture;
pub mod chance;
pub mod digest;
pub mod extras;
pub mod flow;
pub mod limit;
pub mod maps;
pub mod measures;
pub mod outer;
pub mod prefixes;
pub mod reasons;
