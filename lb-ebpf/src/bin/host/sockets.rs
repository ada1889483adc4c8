//! What this host's kernel knows of a flow: sockets of the network namespace that the program runs in.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp, bpf_tcp_check_syncookie};
use lb_common::flow::Flow;
use lb_ebpf::packet::{Frame, Ipv4, Ipv6, Tcp};

/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = -1i64 as u64;
/// `BPF_TCP_ESTABLISHED`, also of connected UDP sockets.
const ESTABLISHED: u32 = 1;
/// `BPF_TCP_LISTEN`.
const LISTEN: u32 = 10;

/// A TCP segment: where its IP header and its TCP header stand in the frame.
#[derive(Clone, Copy)]
pub struct Segment {
    /// Offset of the IP header, which has no options.
    pub ip: usize,
    /// Offset of the TCP header.
    pub tcp: usize,
}

/// A connection of this host: established or closing, half open, or in TIME-WAIT; or one that a SYN cookie of this host
/// opened, which the segment, if there is one, then proves.
#[inline(always)]
pub fn knows_tcp(ctx: *mut c_void, frame: &Frame, flow: &Flow, segment: Option<Segment>) -> bool {
    let sock = if flow.v6 {
        let mut tuple = tuple6(flow);
        // SAFETY: the tuple is of the size that names its family; the socket is released below.
        unsafe { bpf_skc_lookup_tcp(ctx, tuple.as_mut_ptr().cast(), 36, CURRENT_NETNS, 0) }
    } else {
        let mut tuple = tuple4(flow);
        // SAFETY: as above.
        unsafe { bpf_skc_lookup_tcp(ctx, tuple.as_mut_ptr().cast(), 12, CURRENT_NETNS, 0) }
    };
    if sock.is_null() {
        return false;
    }
    // SAFETY: a socket that is held; `state` may be read of any kind of it.
    let listens = unsafe { (*sock).state } == LISTEN;
    let known = !listens || segment.is_some_and(|segment| proves(sock, frame, flow.v6, segment));
    // SAFETY: once for the lookup above.
    unsafe { bpf_sk_release(sock.cast()) };
    known
}

/// A UDP socket that is connected to the client.
#[inline(always)]
pub fn knows_udp(ctx: *mut c_void, flow: &Flow) -> bool {
    let sock = if flow.v6 {
        let mut tuple = tuple6(flow);
        // SAFETY: as in `knows_tcp`.
        unsafe { bpf_sk_lookup_udp(ctx, tuple.as_mut_ptr().cast(), 36, CURRENT_NETNS, 0) }
    } else {
        let mut tuple = tuple4(flow);
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(ctx, tuple.as_mut_ptr().cast(), 12, CURRENT_NETNS, 0) }
    };
    if sock.is_null() {
        return false;
    }
    // SAFETY: a socket that is held.
    let connected = unsafe { (*sock).state } == ESTABLISHED;
    // SAFETY: once for the lookup above.
    unsafe { bpf_sk_release(sock.cast()) };
    connected
}

/// The segment acknowledges a SYN cookie of this listener.
#[inline(always)]
fn proves(listener: *mut bpf_sock, frame: &Frame, v6: bool, segment: Segment) -> bool {
    let Some(mut tcp) = frame.read::<Tcp>(segment.tcp) else { return false };
    let tcp = (&raw mut tcp).cast();
    let size = size_of::<Tcp>() as u32;
    if v6 {
        let Some(mut ip) = frame.read::<Ipv6>(segment.ip) else { return false };
        let ip_size = size_of::<Ipv6>() as u32;
        // SAFETY: the socket is held; headers are copies of the given sizes.
        unsafe { bpf_tcp_check_syncookie(listener.cast(), (&raw mut ip).cast(), ip_size, tcp, size) == 0 }
    } else {
        let Some(mut ip) = frame.read::<Ipv4>(segment.ip) else { return false };
        let ip_size = size_of::<Ipv4>() as u32;
        // SAFETY: as above.
        unsafe { bpf_tcp_check_syncookie(listener.cast(), (&raw mut ip).cast(), ip_size, tcp, size) == 0 }
    }
}

/// The parts of `struct bpf_sock_tuple` (include/uapi/linux/bpf.h): source, destination, both ports.
#[inline(always)]
fn tuple4(flow: &Flow) -> [u32; 3] {
    [flow.source.words()[3], flow.destination.words()[3], flow.ports]
}

#[inline(always)]
fn tuple6(flow: &Flow) -> [u32; 9] {
    let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (*flow.source.words(), *flow.destination.words());
    [s0, s1, s2, s3, d0, d1, d2, d3, flow.ports]
}
