//! What BPF programs and userspace share.
