//! Time: the processor's time-stamp counter, whose frequency the loader has measured, and the
//! battery-backed clock, which the kernel has read once.

use std::arch::x86_64::_rdtsc;
use std::time::{SystemTime, UNIX_EPOCH};

use nodeos::platform::{Instant, Meter, Now};

use crate::kernel;

/// A wall clock before this (1 January 2025, UTC) has never been set.
const PLAUSIBLE: u64 = 1_735_689_600;

/// The node's clock; a copy is as good as the original.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: u64,
    khz: u64,
    /// Seconds since 1970 at the start.
    wall: Option<u64>,
}

impl Clock {
    /// Starts the node's clock at zero.
    pub fn start() -> Self {
        let measured =
            std::env::var("BEES_TSC_KHZ").ok().and_then(|khz| khz.parse().ok()).filter(|khz| *khz >= 1000);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        Self {
            start: tsc(),
            khz: measured.unwrap_or_else(|| u64::from(kernel::megahertz()) * 1000),
            wall: wall.filter(|seconds| *seconds >= PLAUSIBLE),
        }
    }

    /// Microseconds since the start.
    pub fn mono(&self) -> Instant {
        Instant(self.micros(tsc().wrapping_sub(self.start)))
    }

    /// The time as the core wants it.
    pub fn now(&self) -> Now {
        let mono = self.mono();
        let wall = self.wall.map(|wall| wall + mono.micros() / 1_000_000);
        Now { mono, wall }
    }

    /// How long `cycles` of the counter are, in microseconds.
    pub fn micros(&self, cycles: u64) -> u64 {
        (u128::from(cycles) * 1000 / u128::from(self.khz)) as u64
    }

    /// How long the processor had been running when the clock started, in microseconds.
    pub fn since_reset(&self) -> u64 {
        self.micros(self.start)
    }

    /// Cycles of the counter in `micros`.
    pub fn cycles(&self, micros: u64) -> u64 {
        (u128::from(micros) * u128::from(self.khz) / 1000).min(u128::from(u64::MAX)) as u64
    }
}

impl Meter for Clock {
    fn count(&self) -> u64 {
        tsc()
    }

    fn per_micro(&self) -> u64 {
        (self.khz + 500) / 1000
    }
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // Safety: every 64-bit processor has it.
    unsafe { _rdtsc() }
}
