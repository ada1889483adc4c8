//! What stands between an IP header and what it carries, looked through within bounds: IPv4 options and IPv6 extension headers.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::programs::XdpContext;
use lb_common::outer::{ETHERNET, IPV4, IPV6};
use lb_ebpf::packet::protocol::{DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
use lb_ebpf::packet::{ANY_FRAGMENT, Frame};

/// Most IPv6 extension headers that are looked behind: those of RFC 8200 §4.1, without authentication and encryption.
const EXTENSIONS: usize = 5;

/// Most IPv4 options, padding among them, that are looked behind.
const OPTIONS: usize = 16;
/// IPv4 options (RFC 791) that name routers to go by; RFC 7126 has them dropped.
const LOOSE_ROUTE: u8 = 131;
const STRICT_ROUTE: u8 = 137;

/// What the verifier takes for the largest place of what a packet carries: no five extension headers are longer.
pub const PLACES: usize = 0x3fff;

/// What a packet carries.
#[derive(Clone, Copy)]
pub struct Behind {
    /// IANA protocol number.
    pub protocol: u8,
    /// Where it begins in the frame.
    pub at: usize,
    /// It is all there: the packet is no fragment.
    pub whole: bool,
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

/// What an IPv4 packet carries.
#[inline(always)]
pub fn behind4(ctx: &XdpContext) -> Result<Behind, Odd> {
    unpacked(look4(ctx.ctx))
}

/// What an IPv6 packet carries that ends at `end`.
#[inline(always)]
pub fn behind6(ctx: &XdpContext, end: u32) -> Result<Behind, Odd> {
    unpacked(look6(ctx.ctx, end))
}

/// A function of its own: the verifier forgets its ways through options when it returns, and goes on once for all of them.
#[inline(never)]
fn look4(ctx: *mut xdp_md) -> u64 {
    packed(through4(&frame_of(ctx)))
}

/// See [`look4`].
#[inline(never)]
fn look6(ctx: *mut xdp_md, end: u32) -> u64 {
    packed(through6(&frame_of(ctx), end as usize))
}

/// The frame of a context that stays one: the compiler would have the caller pass what is read of it, which the verifier does not
/// take for a packet's ends.
#[inline(always)]
fn frame_of(mut ctx: *mut xdp_md) -> Frame {
    // SAFETY: changes nothing.
    unsafe { asm!("/* {0} */", inout(reg) ctx, options(nomem, nostack)) };
    Frame::xdp(&XdpContext::new(ctx))
}

/// In one register: place in 16 bits, protocol in 8, whole or not; above, why the packet is not looked into.
#[inline(always)]
fn packed(behind: Result<Behind, Odd>) -> u64 {
    match behind {
        Ok(Behind { protocol, at, whole }) => {
            let mut packed = at as u64 & 0xffff | u64::from(protocol) << 16 | u64::from(whole) << 24;
            // SAFETY: changes nothing. The compiler cannot compute the value for errors as well, of which it knows nothing.
            unsafe { asm!("/* {0} */", inout(reg) packed, options(nomem, nostack)) };
            packed
        }
        Err(odd) => (odd as u64 + 1) << 32,
    }
}

/// A value of which the verifier knows nothing any more: with what it knew it would follow one way more for each. It keeps what is
/// written to the stack as a whole, and forgets what is written in halves.
#[inline(always)]
fn forgotten(value: u64) -> u64 {
    let mut halves = core::mem::MaybeUninit::<u64>::uninit();
    let at = halves.as_mut_ptr();
    // SAFETY: both halves are written before the whole is read.
    unsafe {
        at.cast::<u32>().write_volatile(value as u32);
        at.cast::<u32>().add(1).write_volatile((value >> 32) as u32);
        at.read_volatile()
    }
}

#[inline(always)]
fn unpacked(packed: u64) -> Result<Behind, Odd> {
    let packed = forgotten(packed);
    match packed >> 32 {
        0 => {}
        1 => return Err(Odd::Cut),
        2 => return Err(Odd::Wrong),
        _ => return Err(Odd::Refused),
    }
    let at = packed as usize & PLACES;
    Ok(Behind { protocol: (packed >> 16) as u8, at, whole: packed >> 24 & 1 != 0 })
}

#[inline(always)]
fn through4(frame: &Frame) -> Result<Behind, Odd> {
    let [version_ihl, _, _, _, _, _, f0, f1, _, protocol] =
        frame.read_behind::<[u8; 10]>(ETHERNET).ok_or(Odd::Cut)?;
    let header = (version_ihl & 15) as usize * 4;
    if version_ihl >> 4 != 4 || header < IPV4 {
        return Err(Odd::Wrong);
    }
    options(frame, ETHERNET + IPV4, header - IPV4)?;
    let whole = u16::from_ne_bytes([f0, f1]) & ANY_FRAGMENT == 0;
    Ok(Behind { protocol, at: ETHERNET + header, whole })
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

#[inline(always)]
fn through6(frame: &Frame, end: usize) -> Result<Behind, Odd> {
    let mut protocol = frame.read_behind::<u8>(ETHERNET + 6).ok_or(Odd::Cut)?;
    let mut at = ETHERNET + IPV6;
    for number in 0..EXTENSIONS + 1 {
        match protocol {
            HOP_BY_HOP if number == 0 => {}
            ROUTING | DESTINATION | FRAGMENT => {}
            // Hop-by-hop options elsewhere, authentication, mobility, HIP, shim6, and the experimental two.
            HOP_BY_HOP | 51 | 135 | 139 | 140 | 253 | 254 => return Err(Odd::Refused),
            _ => return Ok(Behind { protocol, at, whole: true }),
        }
        if number == EXTENSIONS {
            break;
        }
        // SAFETY: as in `options`; five of the longest headers end before.
        unsafe { asm!("{0} &= 0x7fff", inout(reg) at, options(pure, nomem, nostack)) };
        let [next, len, a, b] = frame.read_behind::<[u8; 4]>(at).ok_or(Odd::Cut)?;
        if protocol == FRAGMENT {
            let fragment = u16::from_be_bytes([a, b]);
            at += 8;
            // But for a whole packet that somebody was told to put into one (RFC 6946).
            if fragment & 0xfff9 != 0 {
                return Ok(Behind { protocol: next, at, whole: false });
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
