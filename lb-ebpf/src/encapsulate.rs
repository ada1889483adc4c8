//! Writing the outer header from a host's template.

use lb_common::maps::{HEADER_MAX, Nexthop};
use lb_common::outer::{ETHERNET, first_word6, patch4};

use crate::packet::Frame;

/// What the outer header says besides the way: which view its sender had, and how far the packet has come.
#[derive(Clone, Copy)]
pub struct Mark {
    /// Generation that the director went by.
    pub generation: u16,
    /// See [`lb_common::chance`].
    pub hop: u8,
}

/// Writes Ethernet and outer IPv4 header before an inner packet of `len` bytes.
#[inline(always)]
pub fn write4(frame: &Frame, nexthop: &Nexthop, len: u16, mark: Mark) -> Option<()> {
    let h = &nexthop.header;
    let base = u16::from_ne_bytes([h[ETHERNET + 10], h[ETHERNET + 11]]);
    let (length, id, checksum) = patch4(base, len, mark.generation, mark.hop);
    frame.write(0, template::<4>(nexthop))?;
    frame.write(32, u16::from_ne_bytes([h[32], h[33]]))?;
    frame.write(ETHERNET + 2, length)?;
    frame.write(ETHERNET + 4, id)?;
    frame.write(ETHERNET + 10, checksum)
}

/// Writes Ethernet and outer IPv6 header before an inner packet of `len` bytes.
#[inline(always)]
pub fn write6(frame: &Frame, nexthop: &Nexthop, len: u16, mark: Mark) -> Option<()> {
    let h = &nexthop.header;
    frame.write(0, template::<6>(nexthop))?;
    frame.write(48, u32::from_ne_bytes([h[48], h[49], h[50], h[51]]))?;
    frame.write(52, u16::from_ne_bytes([h[52], h[53]]))?;
    frame.write(ETHERNET, first_word6(mark.generation, mark.hop))?;
    frame.write(ETHERNET + 4, len.to_be())
}

/// Copies `WORDS` eight-byte words of the template, from its start.
#[inline(always)]
fn template<const WORDS: usize>(nexthop: &Nexthop) -> [u64; WORDS] {
    const { assert!(WORDS * 8 <= HEADER_MAX) };
    // SAFETY: inside the header by the assertion; aligned, since it stands at offset 8 of a map value.
    unsafe { *nexthop.header.as_ptr().cast() }
}
