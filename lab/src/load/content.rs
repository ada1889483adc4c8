//! What transfers carry: bytes that follow from a seed, so that both ends know them and no two transfers are alike.

use ring::digest::{Context, Digest, SHA256};

use super::scramble;

/// The bytes of a transfer in order, without end.
#[derive(Clone, Debug)]
pub struct Content {
    seed: u64,
    offset: u64,
}

impl Content {
    /// From the beginning.
    pub fn new(seed: u64) -> Self {
        Self { seed, offset: 0 }
    }

    /// The next bytes, as many as `buffer` holds.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = scramble(self.seed.wrapping_add(self.offset / 8)).to_le_bytes();
            let inside = usize::try_from(self.offset % 8).unwrap_or_default();
            let count = rest.len().min(8 - inside);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[inside..inside + count]);
            self.offset += count as u64;
            rest = later;
        }
    }
}

/// Hashes what was received, and beside it what should have been.
pub struct Verifier {
    received: Context,
    expected: Context,
    content: Content,
    scratch: Vec<u8>,
}

impl Verifier {
    /// Expects the content of `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            received: Context::new(&SHA256),
            expected: Context::new(&SHA256),
            content: Content::new(seed),
            scratch: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) {
        self.scratch.resize(bytes.len(), 0);
        self.content.fill(&mut self.scratch);
        self.received.update(bytes);
        self.expected.update(&self.scratch);
    }

    /// Whether all that was taken was as expected.
    pub fn is_right(self) -> bool {
        self.received.finish().as_ref() == self.expected.finish().as_ref()
    }
}

/// A hash as answers and comparisons spell it.
pub fn hexadecimal(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, pieces: &[usize]) -> Vec<u8> {
        let mut content = Content::new(seed);
        let piece = |length: &usize| {
            let mut buffer = vec![0; *length];
            content.fill(&mut buffer);
            buffer
        };
        pieces.iter().flat_map(piece).collect()
    }

    #[test]
    fn content_does_not_depend_on_how_it_is_cut() {
        assert_eq!(bytes(7, &[100]), bytes(7, &[1, 0, 12, 3, 84]));
        assert_ne!(bytes(7, &[100]), bytes(8, &[100]));
    }

    #[test]
    fn one_wrong_byte_one_missing_and_one_twice_are_wrong() {
        let good = bytes(3, &[1000]);
        let is_right = |bytes: &[u8]| {
            let mut verifier = Verifier::new(3);
            bytes.chunks(77).for_each(|chunk| verifier.take(chunk));
            verifier.is_right()
        };
        assert!(is_right(&good));
        let mut wrong = good.clone();
        wrong[500] ^= 1;
        assert!(!is_right(&wrong));
        assert!(!is_right(&[&good[..500], &good[501..]].concat()));
        assert!(!is_right(&[&good[..500], &good[499..]].concat()));
    }
}
