//! What a platform lends to the core: time, a meter, an interrupter, entropy and sensors.
//!
//! The core never reads a clock or touches a device (D1). A platform hands in [`Now`] with each event;
//! these traits are all that the core may call on its own.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// A moment on the node's monotonic clock: microseconds since the node started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(pub u64);

impl Instant {
    /// The node's start.
    pub const ZERO: Self = Self(0);

    /// Microseconds since the node's start.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl From<Instant> for smoltcp::time::Instant {
    fn from(t: Instant) -> Self {
        Self::from_micros(i64::try_from(t.0).unwrap_or(i64::MAX))
    }
}

/// The time as a platform knows it at one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Instant,
    /// Seconds since 1970 (UTC), if the platform knows. Where it does not, validity checks fail
    /// closed unless policy says otherwise.
    pub wall: Option<u64>,
}

impl Now {
    /// A time of which only the monotonic part is known.
    pub const fn mono(mono: Instant) -> Self {
        Self { mono, wall: None }
    }
}

/// Counts the work a processor does: cycles on a real one, instructions in the simulator.
pub trait Meter: Send + Sync {
    /// Units of work since some fixed moment; never goes back.
    fn count(&self) -> u64;
    /// How many units make one microsecond.
    fn per_micro(&self) -> u64;
    /// Units for which the calling thread itself had a processor, since some fixed moment. A platform that shares its
    /// processors with others knows more than [`count`](Self::count) says; it may take as long as a system call.
    fn own(&self) -> u64 {
        self.count()
    }
}

/// Stops guest code that runs past its deadline (D5).
pub trait Interrupter: Send + Sync {
    /// From now on, if [`disarm`](Self::disarm) is not called within `after` units of the platform's [`Meter`], the
    /// guest code that runs on this shard is interrupted, and again every `after` until disarmed.
    fn arm(&self, after: u64);
    /// Guest code has returned.
    fn disarm(&self);
}

/// A source of random bytes that is fit for keys.
pub trait Entropy: Send + Sync {
    /// Fills `out`.
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError>;
}

/// The platform has no healthy source of random bytes; nothing may make a key or shake hands (D7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntropyError;

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no healthy entropy source: give the node RDSEED, RDRAND, virtio-rng or a seed in its configuration")
    }
}

impl core::error::Error for EntropyError {}

/// One value that a platform measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// What it is; after the last dash its unit, as in `hwmon/k10temp/temp1-millicelsius`.
    pub name: Box<str>,
    /// How much.
    pub value: i64,
}

/// What a machine measures of itself: temperatures, fans, load.
pub trait Sensors: Send + Sync {
    /// The newest readings at hand. Returns at once: a platform reads its devices elsewhere.
    fn readings(&self) -> Vec<Reading>;
}

/// A meter that stands still, a watchdog that never bites and a source without entropy, for tests in which no guest
/// runs for long.
#[derive(Debug, Clone, Copy)]
pub struct Still;

impl Meter for Still {
    fn count(&self) -> u64 {
        0
    }

    fn per_micro(&self) -> u64 {
        1000
    }
}

impl Interrupter for Still {
    fn arm(&self, _: u64) {}

    fn disarm(&self) {}
}

impl Entropy for Still {
    fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError)
    }
}

/// A machine that measures nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoSensors;

impl Sensors for NoSensors {
    fn readings(&self) -> Vec<Reading> {
        Vec::new()
    }
}
