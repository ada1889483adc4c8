//! ICMP errors follow the flow they quote (RFC 792, RFC 4443).
//!
//! An error quotes what a host sent from the VIP to a client: reversed, that is the client's flow. Eight bytes behind
//! the quoted IP header are enough, since ports come first.

use lb_common::flow::{Addr, Flow};
use lb_common::outer::{IPV4, IPV6};

use crate::packet::{Frame, LATER_FRAGMENT, V4_NO_OPTIONS, protocol};

const ICMP: usize = 8;
/// Destination unreachable, time exceeded, parameter problem; source quench is deprecated, redirects are not for us.
const ERRORS4: [u8; 3] = [3, 11, 12];
/// Destination unreachable, packet too big, time exceeded, parameter problem.
const ERRORS6: core::ops::RangeInclusive<u8> = 1..=4;

/// The ICMP type is that of an error.
#[inline(always)]
pub fn is_error4(kind: u8) -> bool {
    ERRORS4.contains(&kind)
}

/// The ICMPv6 type is that of an error.
#[inline(always)]
pub fn is_error6(kind: u8) -> bool {
    ERRORS6.contains(&kind)
}

/// The flow of the ICMP error at `at`, which has `len` bytes; none if the quotation is too short or names no port, or
/// has options.
#[inline(always)]
pub fn flow4(frame: &Frame, at: usize, len: usize) -> Option<Flow> {
    let quote = frame.window::<{ IPV4 + 8 }>(at + ICMP)?;
    let protocol = quote.read::<u8, 9>();
    let ports = matches!(protocol, protocol::TCP | protocol::UDP);
    let usable = quote.read::<u8, 0>() == V4_NO_OPTIONS && quote.read::<u16, 6>() & LATER_FRAGMENT == 0;
    if !usable || !ports || len < ICMP + IPV4 + 8 {
        return None;
    }
    let quoted = Flow {
        source: Addr::v4(quote.read::<u32, 12>()),
        destination: Addr::v4(quote.read::<u32, 16>()),
        ports: quote.read::<u32, 20>(),
        protocol,
        v6: false,
    };
    Some(quoted.reversed())
}

/// The flow of the ICMPv6 error at `at`, which has `len` bytes; none if the quotation is too short or names no port, or
/// has options.
#[inline(always)]
pub fn flow6(frame: &Frame, at: usize, len: usize) -> Option<Flow> {
    let quote = frame.window::<{ IPV6 + 8 }>(at + ICMP)?;
    let protocol = quote.read::<u8, 6>();
    let ports = matches!(protocol, protocol::TCP | protocol::UDP);
    if quote.read::<u8, 0>() >> 4 != 6 || !ports || len < ICMP + IPV6 + 8 {
        return None;
    }
    let quoted = Flow {
        source: Addr::from_pairs([quote.read::<u64, 8>(), quote.read::<u64, 16>()]),
        destination: Addr::from_pairs([quote.read::<u64, 24>(), quote.read::<u64, 32>()]),
        ports: quote.read::<u32, 40>(),
        protocol,
        v6: true,
    };
    Some(quoted.reversed())
}
