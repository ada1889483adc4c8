//! What stands between an IP header and what it carries, looked through within bounds: IPv4 options and IPv6 extension headers.

use core::arch::asm;

use lb_common::outer::{IPV4, IPV6};

use crate::packet::protocol::{DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
use crate::packet::{ANY_FRAGMENT, Frame, LATER_FRAGMENT};

/// Most IPv6 extension headers that are looked behind: those of RFC 8200 §4.1, without authentication and encryption.
pub const EXTENSIONS: usize = 5;

/// Most IPv4 options, padding among them, that are looked behind.
pub const OPTIONS: usize = 16;
/// IPv4 options (RFC 791) that name routers to go by; RFC 7126 has them dropped.
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;

/// What a packet carries.
#[derive(Clone, Copy)]
pub struct Behind {
    /// IANA protocol number.
    pub protocol: u8,
    /// Where it begins in the frame.
    pub at: usize,
    /// Whether all of it is there.
    pub part: Part,
}

/// How much of what it carries a packet has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All.
    Whole,
    /// The beginning, with the ports.
    First,
    /// Something else than the beginning.
    Later,
}

/// Why a packet is not looked into.
#[derive(Clone, Copy)]
pub enum Odd {
    /// What is at hand of it ends before its headers do.
    Cut,
    /// Its version or its lengths contradict themselves.
    Wrong,
    /// It has options or extension headers that are refused.
    Refused,
}

/// What the IPv4 packet at `at` carries.
#[inline(always)]
pub fn behind4(frame: &Frame, at: usize) -> Result<Behind, Odd> {
    let [version_ihl, _, _, _, _, _, f0, f1, _, protocol] =
        frame.read_behind::<[u8; 10]>(at).ok_or(Odd::Cut)?;
    let words = (version_ihl & 15) as usize;
    if version_ihl >> 4 != 4 || words * 4 < IPV4 {
        return Err(Odd::Wrong);
    }
    options(frame, at + IPV4, words * 4 - IPV4)?;
    let fragment = u16::from_ne_bytes([f0, f1]);
    let part = match (fragment & ANY_FRAGMENT, fragment & LATER_FRAGMENT) {
        (0, _) => Part::Whole,
        (_, 0) => Part::First,
        _ => Part::Later,
    };
    Ok(Behind { protocol, at: at + words * 4, part })
}

/// Looks through so many bytes of options, one after the other.
#[inline(always)]
fn options(frame: &Frame, at: usize, bytes: usize) -> Result<(), Odd> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    let mut place: usize = 0;
    for number in 0..OPTIONS + 1 {
        // SAFETY: changes a register of ours, and not its value. The verifier then has one state for each option, where it would
        // follow every combination of lengths.
        unsafe { asm!("{0} &= 63", inout(reg) place, options(pure, nomem, nostack)) };
        if place >= bytes {
            break;
        }
        if number == OPTIONS {
            return Err(Odd::Refused);
        }
        match frame.read_behind::<u8>(at + place).ok_or(Odd::Cut)? {
            END => break,
            NOTHING => place += 1,
            LOOSE_ROUTE | STRICT_ROUTE => return Err(Odd::Refused),
            _ if place + 1 >= bytes => return Err(Odd::Refused),
            _ => {
                let len = frame.read_behind::<u8>(at + place + 1).ok_or(Odd::Cut)? as usize;
                if len < 2 || place + len > bytes {
                    return Err(Odd::Refused);
                }
                place += len;
            }
        }
    }
    // All of the header is there, whatever the list says.
    match bytes {
        0 => Ok(()),
        _ => frame.read_behind::<u8>(at + bytes - 1).map(|_| ()).ok_or(Odd::Cut),
    }
}

/// What the IPv6 packet at `at` carries, which ends at `end`.
#[inline(always)]
pub fn behind6(frame: &Frame, at: usize, end: usize) -> Result<Behind, Odd> {
    let mut protocol = frame.read_behind::<u8>(at + 6).ok_or(Odd::Cut)?;
    let mut at = at + IPV6;
    for number in 0..EXTENSIONS + 1 {
        match protocol {
            HOP_BY_HOP if number == 0 => {}
            ROUTING | DESTINATION | FRAGMENT => {}
            // Hop-by-hop options elsewhere, authentication, mobility, HIP, shim6, and the experimental two.
            HOP_BY_HOP | 51 | 135 | 139 | 140 | 253 | 254 => return Err(Odd::Refused),
            _ => return Ok(Behind { protocol, at, part: Part::Whole }),
        }
        if number == EXTENSIONS {
            break;
        }
        // SAFETY: as in `options`; five of the longest headers, and five quoted ones, end before.
        unsafe { asm!("{0} &= 0x7fff", inout(reg) at, options(pure, nomem, nostack)) };
        let [next, len, a, b] = frame.read_behind::<[u8; 4]>(at).ok_or(Odd::Cut)?;
        if protocol == FRAGMENT {
            let fragment = u16::from_be_bytes([a, b]);
            at += 8;
            match (fragment & 0xfff9, fragment & 0xfff8) {
                // A whole packet that somebody was told to put into one (RFC 6946).
                (0, _) => {}
                (_, 0) => return Ok(Behind { protocol: next, at, part: Part::First }),
                _ => return Ok(Behind { protocol: next, at, part: Part::Later }),
            }
        } else {
            // A way that the packet has not gone to its end (and type 0 is deprecated: RFC 5095).
            if protocol == ROUTING && b != 0 {
                return Err(Odd::Refused);
            }
            at += (len as usize + 1) * 8;
        }
        // The shortest of all that may follow.
        if at + 8 > end {
            return Err(Odd::Wrong);
        }
        protocol = next;
    }
    Err(Odd::Refused)
}
