//! Writing the outer header from a host's template.

use lb_common::maps::{HEADER_MAX, Nexthop};
use lb_common::outer::{ETHERNET, IPV4, IPV6, Mark, TTL, first_word6, patch4};

use crate::packet::Frame;

/// Writes Ethernet and outer IPv4 header before an inner packet of `len` bytes.
#[inline(always)]
pub fn write4(frame: &Frame, nexthop: &Nexthop, len: u16, mark: Mark) -> Option<()> {
    let head = frame.window::<{ ETHERNET + IPV4 }>(0)?;
    let h = &nexthop.header;
    let words: [u64; 4] = template(nexthop);
    let (length, id, checksum) = patch4(words[3] as u16, len, mark);
    // The fields that differ are put into the words that hold them, as little-endian memory has them: fewer writes. All but
    // checksum and time to live are zero in the template.
    head.write::<u64, 0>(words[0]);
    head.write::<u64, 8>(words[1] | u64::from(mark.tos) << 56);
    head.write::<u64, 16>(words[2] | u64::from(length) | u64::from(id) << 16);
    head.write::<u64, 24>(words[3] & !0xffff | u64::from(checksum) | u64::from(mark.source) << 32);
    head.write::<u16, 32>(u16::from_ne_bytes([h[32], h[33]]));
    if mark.ttl != TTL {
        head.write::<u8, { ETHERNET + 8 }>(mark.ttl);
    }
    Some(())
}

/// Writes Ethernet and outer IPv6 header before an inner packet of `len` bytes.
#[inline(always)]
pub fn write6(frame: &Frame, nexthop: &Nexthop, len: u16, mark: Mark) -> Option<()> {
    let head = frame.window::<{ ETHERNET + IPV6 }>(0)?;
    let h = &nexthop.header;
    let words: [u64; 6] = template(nexthop);
    head.write::<u64, 0>(words[0]);
    head.write::<u64, 8>(words[1]);
    head.write::<u64, 16>(words[2]);
    head.write::<u64, 24>(words[3]);
    head.write::<u64, 32>(words[4]);
    head.write::<u64, 40>(words[5]);
    head.write::<u32, 48>(u32::from_ne_bytes([h[48], h[49], h[50], h[51]]));
    head.write::<u16, 52>(u16::from_ne_bytes([h[52], h[53]]));
    head.write::<u32, ETHERNET>(first_word6(mark));
    head.write::<u16, { ETHERNET + 4 }>(len.to_be());
    if mark.ttl != TTL {
        head.write::<u8, { ETHERNET + 7 }>(mark.ttl);
    }
    if mark.source != 0 {
        let base = u16::from_ne_bytes([h[ETHERNET + 22], h[ETHERNET + 23]]);
        head.write::<u16, { ETHERNET + 22 }>(base | mark.source);
    }
    Some(())
}

/// The first `WORDS` eight-byte words of the template.
#[inline(always)]
fn template<const WORDS: usize>(nexthop: &Nexthop) -> [u64; WORDS] {
    const { assert!(WORDS * 8 <= HEADER_MAX) };
    // SAFETY: inside the header by the assertion; aligned, since it stands at offset 8 of a map value.
    unsafe { *nexthop.header.as_ptr().cast() }
}
