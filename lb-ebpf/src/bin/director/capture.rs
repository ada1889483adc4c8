//! Telling of packets, while `lb capture` runs: it puts a program of its own in the place of this one, which differs in these
//! constants. In the agent's program they are zero, and the verifier takes the rest out.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::btf_maps::PerfEventArray;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use lb_common::capture::Captured;
use lb_ebpf::packet::whole;

/// One of so many packets is told of; 0: none.
#[unsafe(no_mangle)]
static CAPTURE_EVERY: u32 = 0;

/// Reasons that are told of, a bit for each.
#[unsafe(no_mangle)]
static CAPTURE_REASONS: u64 = 0;

/// Bytes of a packet that are told, at most.
#[unsafe(no_mangle)]
static CAPTURE_BYTES: u32 = 0;

/// A buffer per CPU.
#[btf_map]
static CAPTURE: PerfEventArray = PerfEventArray::new();

/// Tells of a packet that has been treated, if it is to be told of.
#[inline(always)]
pub fn offer(ctx: &XdpContext, reason: u32, action: u32) {
    // SAFETY: a valid reference; volatile, since the value is not the one that the compiler sees.
    if unsafe { core::ptr::read_volatile(&raw const CAPTURE_EVERY) } != 0 {
        tell(ctx.ctx, reason, action);
    }
}

#[inline(never)]
fn tell(ctx: *mut xdp_md, reason: u32, action: u32) {
    // SAFETY: as above.
    let (every, reasons, most) = unsafe {
        (
            core::ptr::read_volatile(&raw const CAPTURE_EVERY),
            core::ptr::read_volatile(&raw const CAPTURE_REASONS),
            core::ptr::read_volatile(&raw const CAPTURE_BYTES),
        )
    };
    if reasons >> (reason & 63) & 1 == 0 {
        return;
    }
    // SAFETY: a helper without arguments.
    if every > 1 && unsafe { bpf_get_prandom_u32() } % every != 0 {
        return;
    }
    let ctx = XdpContext::new(ctx);
    let len = whole(&ctx) as u32;
    let captured = if len < most { len } else { most };
    // SAFETY: a helper without arguments; the context is valid for the whole program.
    let (time, ifindex) = unsafe { (bpf_ktime_get_ns(), (*ctx.ctx).ingress_ifindex) };
    CAPTURE.output(&ctx, &Captured { time, ifindex, reason, action, len, captured, pad: 0 }, captured);
}
