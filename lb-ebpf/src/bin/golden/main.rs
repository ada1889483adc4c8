//! For tests only: computes flow hash, row and table digest in the kernel, so that tests can compare.
//!
//! A request is the packet; the answer is written into it.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::digest;
use lb_common::flow::{self, Addr, Flow};
use lb_common::maps::NO_OWNER;
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;

/// Flow in, hash and row out.
#[repr(C)]
#[derive(Clone, Copy)]
struct HashRequest {
    seed: u64,
    source: [u32; 4],
    destination: [u32; 4],
    ports: u32,
    protocol: u32,
    v6: u32,
    rows: u32,
    hash: u32,
    row: u32,
}

#[xdp]
pub fn golden_hash(ctx: XdpContext) -> u32 {
    let frame = Frame::xdp(&ctx);
    let Some(mut request) = frame.read::<HashRequest>(0) else {
        return xdp_action::XDP_ABORTED;
    };
    let flow = Flow {
        source: Addr::v6(request.source),
        destination: Addr::v6(request.destination),
        ports: request.ports,
        protocol: request.protocol as u8,
        v6: request.v6 != 0,
    };
    request.hash = flow::hash(request.seed, &flow);
    request.row = flow::row(request.hash, request.rows);
    match frame.write(0, request) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

/// Rows per run: the verifier walks every iteration.
const CHUNK: u32 = 128;

/// State and first row in, state after at most [`CHUNK`] rows out.
#[repr(C)]
#[derive(Clone, Copy)]
struct DigestRequest {
    state: u64,
    table: u32,
    first: u32,
    rows: u32,
    done: u32,
}

#[xdp]
pub fn golden_digest(ctx: XdpContext) -> u32 {
    let frame = Frame::xdp(&ctx);
    let Some(mut request) = frame.read::<DigestRequest>(0) else {
        return xdp_action::XDP_ABORTED;
    };
    for i in 0..CHUNK {
        let index = request.first + i;
        if index >= request.rows {
            break;
        }
        let Some(row) = pools::row(request.table, index) else {
            return xdp_action::XDP_ABORTED;
        };
        for slot in row.iter().copied() {
            let id = if slot == NO_OWNER { 0 } else { pools::host_id(slot).unwrap_or(0) };
            request.state = digest::step(request.state, id);
        }
        request.done += 1;
    }
    match frame.write(0, request) {
        Some(()) => xdp_action::XDP_PASS,
        None => xdp_action::XDP_ABORTED,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
