//! What the simulator lends to a node in place of a machine's clock, watchdog and entropy.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nodeos::platform::{Entropy, EntropyError, Interrupter, Meter};

use crate::random::Random;

/// How many instructions a simulated processor executes in one microsecond.
pub const INSTRUCTIONS_PER_MICRO: u64 = 1000;

/// Virtual time as a meter: guests' work is counted as instructions by the engine (fuel), which converts
/// with this meter's rate; everything else takes no time.
#[derive(Debug, Default)]
pub struct VirtualMeter {
    now_us: AtomicU64,
}

impl VirtualMeter {
    /// The virtual time is now `now_us` microseconds.
    pub fn set(&self, now_us: u64) {
        self.now_us.store(now_us, Ordering::Relaxed);
    }
}

impl Meter for VirtualMeter {
    fn count(&self) -> u64 {
        self.now_us.load(Ordering::Relaxed).saturating_mul(INSTRUCTIONS_PER_MICRO)
    }

    fn per_micro(&self) -> u64 {
        INSTRUCTIONS_PER_MICRO
    }
}

/// Nothing to arm: counted instructions stop a guest, at the same one in every run.
#[derive(Debug, Clone, Copy)]
pub struct CountedOut;

impl Interrupter for CountedOut {
    fn arm(&self, _after: u64) {}
    fn disarm(&self) {}
}

/// Bytes from the simulation's seed.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<Random>);

impl SeededEntropy {
    /// Entropy that `random` makes up.
    pub fn new(random: Random) -> Self {
        Self(Mutex::new(random))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        self.0.lock().map_err(|_| EntropyError)?.fill(out);
        Ok(())
    }
}
