//! QUIC by connection id: a server id in the id names the host (draft-ietf-quic-load-balancers, in plain form), wherever the
//! client is by now.

use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::XdpContext;
use lb_common::extras::{Extras, ServerKey};
use lb_common::flow::{self, Flow};
use lb_common::maps::{Nexthop, Service, USABLE};
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_common::reasons::Director;
use lb_ebpf::packet::Frame;
use lb_ebpf::pools;

use crate::forward::{Choice, Packet, Sent, deliver, forward};

/// `BPF_F_NO_PREALLOC`: an entry takes memory only once it is there.
const NO_PREALLOC: usize = 1;

/// Host slots by server id. A group is whole before an entry of the extras names it, and stays so until none does.
#[btf_map]
static SERVER_IDS: HashMap<ServerKey, u32, 262144, NO_PREALLOC> = HashMap::new();

/// Bytes of a UDP header.
const UDP: usize = 8;
/// The header is a long one (RFC 8999).
const LONG: u8 = 0x80;
/// Where the connection id stands in a short header, and in a long one; before the latter its length.
const SHORT_ID: usize = 1;
const LONG_ID: usize = 6;
/// What is read of a connection id: its first byte, and as many as the longest server id has. What follows the id of a packet with
/// a short header is never shorter (RFC 9001, section 5.4.2).
const READ: usize = 9;
/// Config rotation bits of an id that names nobody.
const UNROUTABLE: u8 = 7;

/// What a packet says of where it wants to go.
enum Says {
    /// Nothing.
    Nothing,
    /// An id that is not understood.
    Unknown,
    /// To the host with this server id.
    Host(u64),
}

/// Sends a packet to the host that its connection id names, or else to that of its flow.
#[inline(always)]
pub fn forward_by_id(
    ctx: &XdpContext,
    flow: &Flow,
    service: &Service,
    extras: &Extras,
    packet: Packet,
) -> Result<Sent, Director> {
    let frame = Frame::xdp(ctx);
    let said = if flow.v6 {
        says::<{ ETHERNET + IPV6 + UDP }>(&frame, extras, packet.len)
    } else {
        says::<{ ETHERNET + IPV4 + UDP }>(&frame, extras, packet.len)
    };
    let reason = match said {
        Says::Nothing => Director::Forwarded,
        Says::Unknown => Director::UnknownId,
        Says::Host(id) => match host(id, extras, flow.v6) {
            Some((slot, nexthop)) => {
                let choice = Choice { slot, nexthop, hash: flow::hash(service.seed, flow) };
                return deliver(ctx, flow, service, choice, packet, Director::ById);
            }
            None => Director::UnknownId,
        },
    };
    forward(ctx, flow, service, packet, reason)
}

/// A host that takes packets: one that is drained keeps its connections.
#[inline(always)]
fn host(id: u64, extras: &Extras, v6: bool) -> Option<(u16, &'static Nexthop)> {
    let key = ServerKey { id, group: extras.group, pad: 0 };
    // SAFETY: a word, which is never changed while it can be found.
    let slot = *unsafe { SERVER_IDS.get(&key) }? as u16;
    let nexthop = pools::nexthop(slot, v6)?;
    (nexthop.state & USABLE == USABLE).then_some((slot, nexthop))
}

/// What the QUIC packet at `AT` says.
#[inline(always)]
fn says<const AT: usize>(frame: &Frame, extras: &Extras, len: u16) -> Says {
    let end = ETHERNET + len as usize;
    let Some(first) = frame.read::<u8>(AT).filter(|_| end > AT) else { return Says::Nothing };
    let id = if first & LONG == 0 {
        SHORT_ID
    } else {
        let (Some(version), Some(id_len)) = (frame.read::<u32>(AT + 1), frame.read::<u8>(AT + LONG_ID - 1))
        else {
            return Says::Nothing;
        };
        if end < AT + LONG_ID || opens(first, u32::from_be(version)) {
            return Says::Nothing;
        }
        if id_len < 1 + extras.id_len {
            return Says::Unknown;
        }
        LONG_ID
    };
    if end < AT + id + READ {
        return Says::Unknown;
    }
    let window =
        if id == SHORT_ID { frame.window::<READ>(AT + SHORT_ID) } else { frame.window::<READ>(AT + LONG_ID) };
    let Some(window) = window else { return Says::Unknown };
    let rotation = window.read::<u8, 0>() >> 5;
    if rotation == UNROUTABLE {
        return Says::Nothing;
    }
    if rotation != extras.rotation {
        return Says::Unknown;
    }
    Says::Host(u64::from_be(window.read::<u64, 1>()) >> ((8 - extras.id_len) & 7) * 8)
}

/// A packet that opens a connection, to an id that its client has made up; or one of a version whose types are not known.
#[inline(always)]
fn opens(first: u8, version: u32) -> bool {
    let kind = first >> 4 & 3;
    match version {
        // RFC 9000: Initial is 0, 0-RTT 1.
        1 => kind < 2,
        // RFC 9369: Initial is 1, 0-RTT 2.
        0x6b33_43cf => kind == 1 || kind == 2,
        _ => true,
    }
}
