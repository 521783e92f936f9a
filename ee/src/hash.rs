//! A hash for tables that are looked into with every capsule: a word at a time, multiplied and folded, in a tenth of
//! SipHash's instructions.
//!
//! The key is what keeps whoever chooses what is looked up from choosing what falls together. It is secret where
//! others also decide what is entered.

use std::hash::{BuildHasher, Hasher};

/// Makes hashes under a key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyed(pub u64);

/// A hash that is being made.
#[derive(Debug)]
pub(crate) struct Fold {
    hash: u64,
    /// Of the key, too: with a factor that is known, two words could be chosen that fall together under many keys.
    factor: u64,
}

impl Fold {
    #[inline]
    fn new(key: u64) -> Self {
        Self { hash: key, factor: (key.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15) | 1 }
    }
}

/// The hash of some bytes under a key.
pub(crate) fn of_bytes(key: u64, bytes: &[u8]) -> u64 {
    // The last word is filled up with zeros; the length tells it from one that ends in them.
    let mut fold = Fold::new(key);
    fold.hash = fold.hash.wrapping_add(bytes.len() as u64);
    fold.write(bytes);
    fold.hash
}

impl BuildHasher for Keyed {
    type Hasher = Fold;
    fn build_hasher(&self) -> Fold {
        Fold::new(self.0)
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.write_u64(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.write_u64(rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    #[inline]
    fn write_u16(&mut self, n: u16) {
        self.write_u64(n.into());
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        let product = u128::from(self.hash ^ n) * u128::from(self.factor);
        self.hash = (product as u64) ^ ((product >> 64) as u64);
    }

    #[inline]
    fn write_usize(&mut self, _: usize) {
        // The length of an array and the position of an enum's variant: whoever compares sees them.
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn the_key_decides_where_something_falls() {
        assert_ne!(of_bytes(1, &[0; 16]), of_bytes(2, &[0; 16]));
        for len in [1, 7, 8, 9, 16] {
            let low_bits: HashSet<u64> = (0..=255u8)
                .map(|byte| {
                    let mut bytes = vec![0; len];
                    bytes[len - 1] = byte;
                    of_bytes(1, &bytes) & 0xffff
                })
                .collect();
            assert!(low_bits.len() > 240, "{len} bytes: {}", low_bits.len());
        }
    }

    #[test]
    fn zeros_at_the_end_count() {
        let hashes: HashSet<u64> = (0..64).map(|len| of_bytes(7, &vec![0; len])).collect();
        assert_eq!(hashes.len(), 64);
    }

    proptest! {
        /// Whatever differs little falls apart under any key: no bit of a key that others choose moves a hash in a way
        /// that they know.
        #[test]
        fn one_bit_moves_many(key: u64, bytes in proptest::collection::vec(any::<u8>(), 1..40), bit: usize) {
            let mut other = bytes.clone();
            let bit = bit % (bytes.len() * 8);
            other[bit / 8] ^= 1 << (bit % 8);
            let moved = (of_bytes(key, &bytes) ^ of_bytes(key, &other)).count_ones();
            prop_assert!(moved >= 6, "{moved} bits");
        }
    }
}
