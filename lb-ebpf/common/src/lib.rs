//! What BPF programs and userspace share.
#![cfg_attr(not(test), no_std)]

pub mod digest;
