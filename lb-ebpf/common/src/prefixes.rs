//! VIPs that are prefixes of IPv6: how a program finds the longest one that holds an address.
//!
//! The directory of services knows a prefix by its first address and its length. Which length to ask for tells a trie:
//! it has an entry for each service whose VIP is a prefix, and beside those one for each such VIP and for its
//! fragments.

use crate::flow::Addr;
use crate::maps::ServiceKey;

/// Where the length of a prefix stands beside port and protocol; 0: the VIP is an address.
const LENGTH: u32 = 40;

/// Key of the trie, behind the length of its prefix: what is looked for, then the address, whose leading bits alone may
/// count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixKey {
    /// See [`ServiceKey::in_trie`].
    pub kind: u32,
    /// The address.
    pub address: Addr,
}

/// Bits of [`PrefixKey::kind`], which all count: they stand before those of the address.
pub const KIND_BITS: u32 = 32;
/// Bits of a whole [`PrefixKey`].
pub const PREFIX_KEY_BITS: u32 = KIND_BITS + 128;

/// Value of the trie: the prefix that is the VIP. Aligned to four bytes, as the kernel keeps it right behind a key of
/// twenty.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// Its first address.
    pub first: Addr,
    /// Its leading bits that count, 1 to 128.
    pub length: u32,
}

impl ServiceKey {
    /// The same for a VIP that is a prefix.
    #[inline(always)]
    pub const fn within(self, Prefix { first, length }: Prefix) -> Self {
        let (_, port_protocol) = self.parts();
        ServiceKey::from_parts(first.pairs(), port_protocol | (length as u64) << LENGTH)
    }

    /// The key by which the trie tells which prefix holds the VIP: port and protocol, and above them whether it is that
    /// of a VIP or of fragments.
    #[inline(always)]
    pub const fn in_trie(&self) -> PrefixKey {
        let (vip, port_protocol) = self.parts();
        let above = (port_protocol >> 32) as u32 & 3;
        PrefixKey { kind: port_protocol as u32 | above << 24, address: Addr::from_pairs(vip) }
    }

    /// From a key of the trie, with so many bits of its address.
    pub const fn from_trie(PrefixKey { kind, address }: PrefixKey, length: u32) -> Self {
        let port_protocol = kind as u64 & 0xff_ffff | (kind as u64 >> 24) << 32;
        ServiceKey::from_parts(address.pairs(), port_protocol).within(Prefix { first: address, length })
    }

    /// Bits of the prefix that is the VIP; none: the VIP is an address.
    pub const fn prefix(&self) -> Option<u8> {
        match (self.parts().1 >> LENGTH) as u8 {
            0 => None,
            length => Some(length),
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain data in C layout without implicit padding, as the test below asserts; any bytes are a value.
    unsafe impl aya::Pod for super::PrefixKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Prefix {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{align_of, offset_of, size_of};

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!((size_of::<PrefixKey>(), offset_of!(PrefixKey, address)), (20, 4));
        assert_eq!((size_of::<Prefix>(), offset_of!(Prefix, length), align_of::<Prefix>()), (20, 16, 4));
    }

    #[test]
    fn services_vips_and_fragments_of_a_prefix_are_told_apart() {
        let first = Addr::v6([1, 2, 3, 0]);
        let keys = [
            ServiceKey::new(first, 80, 6),
            ServiceKey::new(first, 80, 17),
            ServiceKey::new(first, 0, 6),
            ServiceKey::of_vip(first),
            ServiceKey::of_fragments(first, 6),
        ];
        let prefix = Prefix { first, length: 64 };
        for (at, key) in keys.iter().enumerate() {
            let within = key.within(prefix);
            assert_eq!((key.prefix(), within.prefix(), within.vip()), (None, Some(64), first));
            assert_eq!((within.port(), within.protocol()), (key.port(), key.protocol()));
            assert_eq!((within.is_vip(), within.is_service()), (key.is_vip(), key.is_service()));
            assert_ne!(within, key.within(Prefix { length: 65, ..prefix }));
            assert_eq!(ServiceKey::from_trie(within.in_trie(), 64), within);
            assert!(keys[..at].iter().all(|other| other.in_trie() != key.in_trie()));
        }
    }
}
