//! Which numbers of one sender were here: the newest, and the 64 before it.

/// What was seen in one epoch of a sender. What is more than 64 behind the newest counts as seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The epoch of the last number.
    pub epoch: u64,
    /// The newest number.
    pub newest: u32,
    before: u64,
}

impl Seen {
    /// Nothing of epoch 0, but number 0.
    pub const fn new() -> Self {
        Self { epoch: 0, newest: 0, before: 0 }
    }

    /// All of this epoch up to this number.
    pub const fn up_to(epoch: u64, newest: u32) -> Self {
        Self { epoch, newest, before: u64::MAX }
    }

    /// Notes a number; whether it is here for the first time. Another epoch begins anew.
    pub fn first(&mut self, epoch: u64, number: u32) -> bool {
        if epoch != self.epoch {
            *self = Self { epoch, newest: number, before: 0 };
            return true;
        }
        match number.checked_sub(self.newest) {
            Some(0) => false,
            Some(ahead) => {
                // The one that was the newest is now `ahead` before.
                self.before = self.before.checked_shl(ahead).unwrap_or(0);
                if ahead <= u64::BITS {
                    self.before |= 1 << (ahead - 1);
                }
                self.newest = number;
                true
            }
            None => {
                let behind = self.newest - number;
                // What is too old to tell counts as seen.
                let bit = 1u64.checked_shl(behind - 1).unwrap_or(0);
                let first = bit != 0 && self.before & bit == 0;
                self.before |= bit;
                first
            }
        }
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::node::mix;

    /// Against a set that forgets nothing.
    #[test]
    fn a_number_is_new_once() {
        for seed in 0..200 {
            let (mut seen, mut all, mut newest, mut random) =
                (Seen { epoch: 1, newest: 0, before: 0 }, BTreeSet::from([0]), 0u32, mix(seed));
            for _ in 0..500 {
                random = mix(random);
                let number = (newest + 3).saturating_sub((random % 90) as u32);
                let first = seen.first(1, number);
                newest = newest.max(number);
                let old = newest - number > u64::BITS;
                assert_eq!(first, all.insert(number) && !old, "seed {seed}: {number} of {newest}");
            }
            assert!(seen.first(2, newest), "another epoch begins anew");
        }
    }

    #[test]
    fn what_is_declared_seen_is() {
        let mut seen = Seen::up_to(3, 70);
        assert!((0..=70).all(|number| !seen.first(3, number)));
        assert!(seen.first(3, 71));
        assert_eq!((seen.epoch, seen.newest), (3, 71));
    }
}
