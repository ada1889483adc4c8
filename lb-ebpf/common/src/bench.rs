//! What `lb bench` and its BPF programs share.

/// Bytes at the start of a packet that are restored before every repeat.
pub const HEAD: usize = 128;

/// A packet to run a program on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Bytes of the packet; at least [`HEAD`].
    pub len: u32,
    /// Flows are two to this power; 0: one flow.
    pub flows: u32,
    /// Where in the packet, below [`HEAD`], the word lies that tells flows apart.
    pub vary_at: u32,
    /// Its bits that stay, as they stand in the packet.
    pub vary_from: u32,
    /// The start of the packet.
    pub head: [u64; HEAD / 8],
}

#[cfg(feature = "user")]
// SAFETY: plain data in C layout without padding: four words before an array of eight-byte words.
unsafe impl aya::Pod for Case {}
