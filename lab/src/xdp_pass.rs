//! The smallest XDP program: pass everything.
//!
//! A veth's native `XDP_TX` puts packets into its peer's receive ring, but wakes the peer only if that has an XDP
//! program too (`veth_xdp_flush`). With mere GRO at the peer, packets lie there until others come along.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_XDP: u32 = 6;
const XDP_PASS: i32 = 2;
/// It takes frames in several pieces, and so interfaces with a large MTU.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// `struct bpf_insn`.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// `r0 = XDP_PASS; exit`.
const PROGRAM: [Instruction; 2] = [
    Instruction { code: 0xb7, registers: 0, offset: 0, immediate: XDP_PASS },
    Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 },
];

/// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes the rest as zero.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads the program; attached, it stays until its interface goes.
pub fn load() -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_XDP,
        instruction_count: 2,
        instructions: PROGRAM.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: BPF_F_XDP_HAS_FRAGS,
        name: *b"lab_pass\0\0\0\0\0\0\0\0",
    };
    // SAFETY: the attributes, and the program and license they point to, outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<LoadAttributes>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
