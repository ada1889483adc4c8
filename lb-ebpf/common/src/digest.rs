//! A 64-bit digest of a table that a BPF program can compute as well as userspace.
//!
//! It detects disagreement between machines; it is not a defence against an adversary.

/// The state before the first value.
pub const START: u64 = 0x6c62_2d74_6162_6c65;

/// Folds one value into the state. Order matters: `step(step(s, a), b) != step(step(s, b), a)`.
#[inline(always)]
pub const fn step(state: u64, value: u64) -> u64 {
    let mixed = (state ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).rotate_left(23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_zeros_count() {
        assert_ne!(step(step(START, 1), 2), step(step(START, 2), 1));
        assert_ne!(step(START, 0), step(step(START, 0), 0));
    }
}
