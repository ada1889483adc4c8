//! The second chance: a packet of a connection that this host knows nothing of goes to the next owner of its row.
//!
//! [`lb_common::chance`] decides who that is; here stands what is known of packet, sockets and owners.

use core::arch::asm;
use core::ffi::c_void;

use lb_common::chance::{self, NOBODY, Next, Owner, Turn};
use lb_common::flow::{self, Addr, Flow};
use lb_common::maps::{HEALTHY, KEEP, NO_OWNER, Nexthop, OWNERS, RESOLVED, Row, Service, USABLE};
use lb_common::outer::{ETH_IPV4, ETHERNET, IPV4, IPV6, Mark};
use lb_common::reasons::Host;
use lb_ebpf::packet::{
    ACK, ANY_FRAGMENT, Frame, Ipv4, Ipv6, L4, SYN, Tcp, V4_NO_OPTIONS, icmp_type, protocol,
};
use lb_ebpf::{pools, quote};

use crate::judge::Inner;
use crate::maps;
use crate::sockets::{self, Segment};

/// What the hook can do with a packet.
#[derive(Clone, Copy)]
pub struct Hook {
    /// The context, for socket lookups.
    pub ctx: *mut c_void,
    /// Outer headers may change their length, and with it their family.
    pub resizes: bool,
    /// The kernel merged the packet from several.
    pub merged: bool,
}

/// What becomes of a packet that may be unwrapped.
pub enum Decision {
    /// It is given to the kernel.
    Keep(Host),
    /// It goes to another host.
    PassOn(&'static Nexthop, Mark),
}

/// What kind of packet of its flow it is.
enum Kind {
    /// Opens a TCP connection.
    Syn,
    /// Any other TCP segment.
    Segment(Segment),
    /// UDP.
    Datagram,
    /// An ICMP error that quotes the flow.
    Error,
}

/// Decides and accounts.
#[inline(always)]
pub fn decide(frame: &Frame, inner: &Inner, hook: Hook) -> Result<Decision, Host> {
    let Some((flow, kind)) = parse(frame, inner) else { return Ok(Decision::Keep(Host::Local)) };
    let Some(service) = pools::service_of(&flow) else { return Ok(Decision::Keep(Host::Local)) };
    let keeps = service.flags & KEEP != 0 || matches!(kind, Kind::Syn);
    if keeps || is_known(frame, &flow, &kind, hook.ctx) {
        return Ok(Decision::Keep(accept(service, inner.mark)));
    }
    let tcp = flow.protocol == protocol::TCP;
    let Some((nexthop, hop)) = next(service, &flow, inner, tcp, hook.resizes)? else {
        account(service, inner.mark, |account| &mut account.last_resort);
        return Ok(Decision::Keep(Host::LastResort));
    };
    if inner.len > nexthop.mtu.saturating_sub(u16::from(nexthop.outer_len)) {
        return Err(Host::TooBig);
    }
    // Split again on its way out, its parts would get outer identifications that count up: other hops.
    if hook.merged && nexthop.outer_len == IPV4 as u8 {
        return Err(Host::Merged);
    }
    let ttl = inner.mark.ttl.saturating_sub(1);
    if ttl == 0 {
        return Err(Host::Expired);
    }
    if !maps::afford() {
        account(service, inner.mark, |account| &mut account.over_budget);
        return Err(Host::OverBudget);
    }
    account(service, inner.mark, |account| &mut account.passed_on);
    Ok(Decision::PassOn(nexthop, Mark { hop, ttl, ..inner.mark }))
}

/// The flow of the inner packet. What cannot belong to one is the kernel's: fragments, options, other protocols.
#[inline(always)]
fn parse(frame: &Frame, inner: &Inner) -> Option<(Flow, Kind)> {
    let at = ETHERNET + inner.outer_len;
    let (source, destination, next, ip_len, v6) = if inner.ethertype == ETH_IPV4 {
        let ip = frame.read::<Ipv4>(at)?;
        if ip.version_ihl != V4_NO_OPTIONS || ip.fragment & ANY_FRAGMENT != 0 {
            return None;
        }
        (Addr::v4(ip.source), Addr::v4(ip.destination), ip.protocol, IPV4, false)
    } else {
        let ip = frame.read::<Ipv6>(at)?;
        (Addr::v6(ip.source), Addr::v6(ip.destination), ip.next_header, IPV6, true)
    };
    let len = (inner.len as usize).checked_sub(ip_len)?;
    let l4 = at + ip_len;
    match next {
        protocol::TCP if len >= size_of::<Tcp>() => {
            let tcp = frame.read::<Tcp>(l4)?;
            let syn = tcp.flags & (SYN | ACK) == SYN;
            let kind = if syn { Kind::Syn } else { Kind::Segment(Segment { ip: at, tcp: l4 }) };
            Some((Flow { source, destination, ports: tcp.ports, protocol: next, v6 }, kind))
        }
        protocol::UDP if len >= size_of::<L4>() => {
            let udp = frame.read::<L4>(l4)?;
            Some((Flow { source, destination, ports: udp.first, protocol: next, v6 }, Kind::Datagram))
        }
        protocol::ICMP if !v6 => {
            let kind = icmp_type(frame.read::<L4>(l4)?.first);
            of_error(destination, quote::flow4(frame, l4, len).filter(|_| quote::is_error4(kind)))
        }
        protocol::ICMPV6 if v6 => {
            let kind = icmp_type(frame.read::<L4>(l4)?.first);
            of_error(destination, quote::flow6(frame, l4, len).filter(|_| quote::is_error6(kind)))
        }
        _ => None,
    }
}

#[inline(always)]
fn of_error(destination: Addr, flow: Option<Flow>) -> Option<(Flow, Kind)> {
    flow.filter(|flow| flow.destination == destination).map(|flow| (flow, Kind::Error))
}

#[inline(always)]
fn is_known(frame: &Frame, flow: &Flow, kind: &Kind, ctx: *mut c_void) -> bool {
    if flow.protocol == protocol::UDP {
        return sockets::knows_udp(ctx, flow);
    }
    let segment = match kind {
        Kind::Segment(segment) => Some(*segment),
        _ => None,
    };
    sockets::knows_tcp(ctx, frame, flow, segment)
}

/// Counts an accepted packet by the hop it came with.
#[inline(always)]
fn accept(service: &Service, mark: Mark) -> Host {
    account(service, mark, |account| match mark.hop & 7 {
        0 => &mut account.local,
        1 => &mut account.rescued[0],
        2 => &mut account.rescued[1],
        3 => &mut account.rescued[2],
        _ => &mut account.rescued[3],
    });
    if mark.hop == 0 { Host::Local } else { Host::Rescued }
}

#[inline(always)]
fn account(service: &Service, mark: Mark, packet: impl FnOnce(&mut lb_common::maps::Account) -> &mut u64) {
    maps::account(service.id, service.table, mark.generation, packet);
}

/// The owner of the row that gets the packet next, and the hop that it gets it with; none if it is kept.
#[inline(always)]
fn next(
    service: &Service,
    flow: &Flow,
    inner: &Inner,
    tcp: bool,
    resizes: bool,
) -> Result<Option<(&'static Nexthop, u8)>, Host> {
    let Some((own, row, owners)) = owners(service, flow, inner, resizes) else { return Ok(None) };
    match chance::next(&owners, own, inner.mark.hop, !tcp) {
        Next::Keep => Ok(None),
        Next::Wait => Err(Host::Waits),
        Next::PassOn { place, hop } => {
            // In a register: the compiler would index the stack by `|`, which no verifier allows.
            let slots = row.iter().rev().fold(0, |slots, slot| slots << 16 | u64::from(*slot));
            let nexthop = pools::nexthop((slots >> (place * 16)) as u16, flow.v6);
            Ok(nexthop.map(|nexthop| (nexthop, hop)))
        }
    }
}

/// Own id, row, and its owners as they are seen here.
///
/// Without branches but those that end it: the verifier walks every path, and there would be as many as there are
/// combinations of what four owners may be.
#[inline(always)]
fn owners(
    service: &Service,
    flow: &Flow,
    inner: &Inner,
    resizes: bool,
) -> Option<(u64, Row, [Owner; OWNERS])> {
    let own = maps::view(service.table)?.own;
    let row = flow::row(flow::hash(service.seed, &flow.part(service.flags)), service.rows);
    let row = *pools::row(service.table, row)?;
    let mut owners = [NOBODY; OWNERS];
    for (owner, slot) in owners.iter_mut().zip(row) {
        if slot == NO_OWNER {
            break;
        }
        let nexthop = pools::nexthop(slot, flow.v6)?;
        // One bit tells 20 from 40.
        let other_length = (nexthop.outer_len ^ inner.outer_len as u8) >> 2 & u8::from(!resizes);
        let turn = TURNS[below_eight(nexthop.state & USABLE | other_length << 2)];
        *owner = Owner { id: pools::host_id(slot)?, turn };
    }
    Some((own, row, owners))
}

/// Bounds that the compiler knows and an older verifier does not (6.1): it forgets those of `a | b`.
#[inline(always)]
fn below_eight(value: u8) -> usize {
    let mut index = u64::from(value);
    // SAFETY: changes a register of ours. Hidden from the compiler, which would leave out what changes nothing.
    unsafe { asm!("{0} &= 7", inout(reg) index, options(pure, nomem, nostack)) };
    (index & 7) as usize
}

/// By the bits of [`Nexthop::state`], and one for an outer header that this hook cannot make.
static TURNS: [Turn; 8] = {
    let mut turns = [Turn::Never; 8];
    turns[USABLE as usize] = Turn::InOrder;
    turns[RESOLVED as usize] = Turn::Last;
    turns[HEALTHY as usize] = Turn::NoWay;
    turns
};
