//! Counts the processor's work by its time-stamp counter.

use nodeos::platform::Meter;

use crate::clock::{Clock, tsc};

/// Cycles of the time-stamp counter.
pub struct Cycles {
    per_micro: u64,
}

impl Cycles {
    /// A meter at the clock's frequency.
    pub fn new(clock: Clock) -> Self {
        Self { per_micro: clock.cycles(1).max(1) }
    }
}

impl Meter for Cycles {
    fn count(&self) -> u64 {
        tsc()
    }

    fn per_micro(&self) -> u64 {
        self.per_micro
    }
}
