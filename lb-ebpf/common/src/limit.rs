//! Rate limits per source, as buckets that leak.
//!
//! A bucket is a moment: that at which the source will have spent nothing. Each packet moves it on by an interval, and a packet
//! that finds it too far ahead is refused. One that has passed says nothing, so its place can be taken without loss.

use crate::flow::{Addr, C1, C2};

/// Buckets that share a place: a cache line.
pub const WAYS: usize = 4;
/// Places: 65 536 buckets, a mebibyte.
pub const SETS: u32 = 1 << 14;

/// The bucket of a source of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Whose it is; see [`tag`].
    pub tag: u64,
    /// The moment at which it is empty, in nanoseconds of the kernel's monotonic clock.
    pub empty_at: u64,
}

/// Buckets that share a place.
pub type Buckets = [Bucket; WAYS];

/// Tells the source of a service, of which `bits` leading bits count (IPv4 as IPv4-mapped), from others. Never 0.
#[inline(always)]
pub const fn tag(seed: u64, service: u32, source: Addr, bits: u8) -> u64 {
    let [high, low] = source.pairs();
    // Pairs are little-endian words, addresses big-endian.
    let (high, low) = (high.swap_bytes(), low.swap_bytes());
    let (high, low) = if bits > 64 {
        (high, low & u64::MAX << ((128 - bits) & 63))
    } else if bits > 0 {
        (high & u64::MAX << ((64 - bits) & 63), 0)
    } else {
        (0, 0)
    };
    let mixed = (seed ^ high).wrapping_mul(C1);
    let mixed = (mixed ^ (mixed >> 32) ^ low).wrapping_mul(C1);
    let mixed = (mixed ^ (mixed >> 32) ^ service as u64).wrapping_mul(C2);
    (mixed ^ (mixed >> 31)) | 1
}

/// The place of a bucket.
#[inline(always)]
pub const fn set(tag: u64) -> u32 {
    (tag >> 32) as u32 & (SETS - 1)
}

/// When a bucket will be empty after one packet more; `None`: the packet is too much.
#[inline(always)]
pub const fn after(empty_at: u64, now: u64, interval: u64, tolerance: u64) -> Option<u64> {
    let from = if empty_at > now { empty_at } else { now };
    if from - now > tolerance { None } else { Some(from + interval) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;
    use core::net::IpAddr;

    fn tag_of(address: &str, bits: u8) -> u64 {
        tag(7, 3, address.parse::<IpAddr>().unwrap().into(), bits)
    }

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!((size_of::<Bucket>(), size_of::<Buckets>()), (16, 64));
    }

    #[test]
    fn sources_of_one_prefix_share_a_bucket() {
        assert_eq!(tag_of("203.0.113.7", 96 + 24), tag_of("203.0.113.200", 96 + 24));
        assert_ne!(tag_of("203.0.113.7", 96 + 24), tag_of("203.0.112.7", 96 + 24));
        assert_ne!(tag_of("203.0.113.7", 128), tag_of("203.0.113.6", 128));
        assert_eq!(tag_of("2001:db8::1", 64), tag_of("2001:db8::2:0:0:1", 64));
        assert_ne!(tag_of("2001:db8::1", 64), tag_of("2001:db8:0:1::1", 64));
        assert_eq!(tag_of("2001:db8:aaaa::1", 33), tag_of("2001:db8:bbbb::1", 33));
        assert_ne!(tag_of("2001:db8:aaaa::1", 33), tag_of("2001:db8:2bbb::1", 33));
        assert_eq!(tag_of("2001:db8::1", 0), tag_of("fe80::1", 0));
    }

    #[test]
    fn a_burst_passes_and_then_one_packet_per_interval() {
        let (interval, tolerance) = (10, 20);
        let mut empty_at = 0;
        let mut take = |now| match after(empty_at, now, interval, tolerance) {
            Some(next) => {
                empty_at = next;
                true
            }
            None => false,
        };
        assert_eq!([100, 100, 100, 100].map(&mut take), [true, true, true, false]);
        assert_eq!([109, 110, 110, 119, 120].map(&mut take), [false, true, false, false, true]);
        assert_eq!([900, 900, 900, 900].map(&mut take), [true, true, true, false]);
    }
}
