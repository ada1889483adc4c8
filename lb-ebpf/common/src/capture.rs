//! What a director tells of a packet while packets are captured.

/// Stands before the bytes of the packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Nanoseconds of the kernel's monotonic clock.
    pub time: u64,
    /// The interface that it came by.
    pub ifindex: u32,
    /// Place of the reason in [`crate::reasons::Director::ALL`].
    pub reason: u32,
    /// What the program returned: `XDP_*`.
    pub action: u32,
    /// Bytes of the frame as it leaves.
    pub len: u32,
    /// Bytes of it that follow.
    pub captured: u32,
    /// Zero.
    pub pad: u32,
}

/// Bytes of a [`Captured`].
pub const CAPTURED_BYTES: usize = 32;

impl Captured {
    /// From the beginning of an event.
    pub fn from_bytes(bytes: &[u8; CAPTURED_BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let [a, b, c, d, e, f, g, h, ..] = *bytes;
        Captured {
            time: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            ifindex: word(8),
            reason: word(12),
            action: word(16),
            len: word(20),
            captured: word(24),
            pad: word(28),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::size_of;

    #[test]
    fn it_is_read_as_it_stands_in_memory() {
        let told = Captured { time: 1 << 40, ifindex: 2, reason: 3, action: 4, len: 5, captured: 6, pad: 0 };
        assert_eq!(size_of::<Captured>(), CAPTURED_BYTES);
        // SAFETY: plain data without padding.
        let bytes = unsafe { *(&raw const told).cast::<[u8; CAPTURED_BYTES]>() };
        assert_eq!(Captured::from_bytes(&bytes), told);
    }
}
