//! The digest of a table: one 64-bit fold that userspace and BPF programs compute alike.
//!
//! Rows are folded in order, and in each row its owners in order, each by its host id (a hash of the host's name;
//! [`NO_HOST`] for an unused place). So the digest says nothing about slots, which differ between directors, and two
//! tables with the same digest send every flow to the same host.

/// State before the first value.
pub const START: u64 = 0x6c62_5f74_6162_6c65;

/// What an unused place among a row's owners counts as.
pub const NO_HOST: u64 = 0;

/// Folds the next value in.
///
/// For a given state this is a bijection of the value, and the other way round: a single difference always shows.
#[inline(always)]
pub const fn step(state: u64, value: u64) -> u64 {
    let mut x = state ^ value;
    x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 32;
    x = x.wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^ (x >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_has_its_golden_values() {
        assert_eq!(step(START, NO_HOST), 0x3cc2_4c60_897e_c4ee);
        assert_eq!(step(step(START, 1), 2), 0x1f84_9b36_09bb_843b);
    }

    #[test]
    fn order_matters() {
        assert_ne!(step(step(START, 1), 2), step(step(START, 2), 1));
    }
}
