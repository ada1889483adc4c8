//! For `lb bench` only: runs a program again and again on the same packet, and what its figures are held against.
//!
//! `BPF_PROG_TEST_RUN` does not restore a packet between repeats: after the first, an encapsulating program would see its
//! own output. So each repeat begins with this wrapper. It gives the packet its length and its first 128 bytes back, writes
//! the word that tells flows apart, and ends with a tail call to the program under test.
//!
//! The wrapper does the same work for every program and every packet, and `null` measures it:
//!
//! - It always calls `bpf_xdp_adjust_head` once, also where the program before left the length as it was.
//! - It restores 128 bytes in sixteen moves of eight bytes. A `memcpy` or `memmove` would be a call that copies byte by
//!   byte, which takes longer than many of the programs.
//! - It always writes the word of the flow. With one flow that word is always the same.
//!
//! So a figure less that of `null` is what the program itself costs.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{Array, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_common::bench::{Case, HEAD};
use lb_common::outer::{ETHERNET, IPV4};
use lb_ebpf::packet::Frame;

/// What is run, and on what.
#[btf_map]
static CASE: Array<Case, 1> = Array::new();

/// What a repeat knows of itself.
#[repr(C)]
struct Repeat {
    /// Repeats so far, for flows that vary.
    number: u64,
    /// Bytes that the program before left.
    len: u64,
}

#[btf_map]
static REPEATS: PerCpuArray<Repeat, 1> = PerCpuArray::new();

/// The program that is measured.
#[btf_map]
static MEASURED: ProgramArray<1> = ProgramArray::new();

/// Begins every repeat.
#[xdp(frags)]
pub fn bench(ctx: XdpContext) -> u32 {
    if restore(&ctx).is_some() {
        // SAFETY: nothing here is left to drop.
        unsafe { MEASURED.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_ABORTED
}

#[inline(always)]
fn restore(ctx: &XdpContext) -> Option<()> {
    let case = CASE.get(0)?;
    // A map's memory: so that the compiler does not mix the two differences, which the verifier forbids of pointers.
    let repeats = REPEATS.get_ptr_mut(0)?;
    // SAFETY: this CPU's slot; volatile for the reason above.
    let (len, number) = unsafe {
        core::ptr::write_volatile(&raw mut (*repeats).len, Frame::xdp(ctx).len() as u64);
        (*repeats).number += 1;
        (core::ptr::read_volatile(&raw const (*repeats).len), (*repeats).number as u32)
    };
    let grown = len as i32 - case.len as i32;
    // SAFETY: the helper checks the length; the frame is taken anew. It is called for nothing, too: see above.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } != 0 {
        return None;
    }
    let frame = Frame::xdp(ctx);
    let head = frame.window::<HEAD>(0)?;
    macro_rules! restore {
        ($($word:literal)*) => { $(head.write::<u64, { $word * 8 }>(case.head[$word]);)* };
    }
    restore!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    // An odd factor: all numbers below a power of two come, in no order that a cache could foresee.
    let varied = u64::from(number.wrapping_mul(0x9e37_79b1)) >> (32 - (case.flows & 31));
    frame.write((case.vary_at & 127) as usize, case.vary_from | (varied as u32).to_be())
}

/// The least that any director in XDP must do: room for an outer header, a constant one, and out.
#[xdp(frags)]
pub fn floor(ctx: XdpContext) -> u32 {
    // SAFETY: as above.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(IPV4 as i32)) } != 0 {
        return xdp_action::XDP_ABORTED;
    }
    let header = [0x0102_0304_0506_0708u64; 4];
    let written = Frame::xdp(&ctx).write(0, header).and(Frame::xdp(&ctx).write(32, 0x090au16));
    if written.is_some() { xdp_action::XDP_TX } else { xdp_action::XDP_ABORTED }
}

/// Nothing: what measuring itself costs.
#[xdp(frags)]
pub fn null(_: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// The kernel's socket lookup for the IPv4 packet behind an outer IPv4 header, and nothing else.
#[xdp(frags)]
pub fn lookup4(ctx: XdpContext) -> u32 {
    let frame = Frame::xdp(&ctx);
    let Some(inner) = frame.window::<{ IPV4 + 4 }>(ETHERNET + IPV4) else {
        return xdp_action::XDP_ABORTED;
    };
    // `bpf_sock_tuple` of IPv4: addresses and ports as they stand in the packet.
    let mut tuple = [inner.read::<u32, 12>(), inner.read::<u32, 16>(), inner.read::<u32, 20>()];
    // SAFETY: the tuple lives as long as the call, which is told its size; -1 is the packet's own namespace.
    let socket = unsafe { bpf_skc_lookup_tcp(ctx.ctx.cast(), (&raw mut tuple).cast(), 12, u64::MAX, 0) };
    if socket.is_null() {
        return xdp_action::XDP_DROP;
    }
    // SAFETY: just found, released once.
    unsafe { bpf_sk_release(socket.cast()) };
    xdp_action::XDP_PASS
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
