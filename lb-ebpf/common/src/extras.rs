//! What a service may ask of directors beyond a table: who may use it, how much, and where its connection ids lead.
//!
//! All of it is off by default. A service that asks for any of it has a bit in its flags, which is tested once, on a word that
//! is there already; and the place of its [`Extras`], which are never changed while an entry of the directory names them.

use crate::flow::Addr;

/// Bit of [`crate::maps::Service::flags`]: only some sources may use the service.
pub const SOURCES: u16 = 1 << 15;
/// Bit of [`crate::maps::Service::flags`]: each source may use the service only so much.
pub const LIMITED: u16 = 1 << 14;
/// Bit of [`crate::maps::Service::flags`]: QUIC connection ids name hosts.
pub const BY_ID: u16 = 1 << 13;
/// All bits that send a packet the longer way.
pub const EXTRA: u16 = SOURCES | LIMITED | BY_ID;

/// What a service asks for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extras {
    /// Nanoseconds that a packet of a source takes, in the long run; see [`crate::limit`].
    pub interval: u64,
    /// Nanoseconds that a source may be ahead.
    pub tolerance: u64,
    /// Number of its list of sources; see [`SourceKey`].
    pub list: u32,
    /// Number of its group of server ids; see [`ServerKey`].
    pub group: u32,
    /// Leading bits of an address that make a source, of which IPv4-mapped ones have 128 as well.
    pub prefix: u8,
    /// Not 0: only what opens a connection counts.
    pub connections: u8,
    /// Config rotation bits of connection ids that name hosts.
    pub rotation: u8,
    /// Bytes of a server id, 1 to 8.
    pub id_len: u8,
    /// Zero.
    pub pad: u32,
}

/// A server id in a group.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerKey {
    /// The id, as a number.
    pub id: u64,
    /// Number of the group.
    pub group: u32,
    /// Zero.
    pub pad: u32,
}

/// A source in a list: key of a trie, behind the length of its prefix. Each list has an entry that is as long as its number
/// alone, for sources that none of its prefixes holds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceKey {
    /// Number of the list.
    pub list: u32,
    /// The address.
    pub address: Addr,
}

/// Bits of [`SourceKey::list`], which stand before those of the address.
pub const LIST_BITS: u32 = 32;
/// Bits of a whole [`SourceKey`].
pub const SOURCE_BITS: u32 = LIST_BITS + 128;
/// Value of the trie: these sources may.
pub const ALLOWED: u32 = 1;
/// Value of the trie: these may not.
pub const DENIED: u32 = 0;

#[cfg(feature = "user")]
mod pod {
    // SAFETY: plain data in C layout without implicit padding, as the test below asserts; any bytes are a value.
    unsafe impl aya::Pod for super::Extras {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SourceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ServerKey {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{offset_of, size_of};

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!((size_of::<Extras>(), offset_of!(Extras, pad)), (32, 28));
        assert_eq!((size_of::<ServerKey>(), offset_of!(ServerKey, pad)), (16, 12));
        assert_eq!((size_of::<SourceKey>(), offset_of!(SourceKey, address)), (20, 4));
    }
}
