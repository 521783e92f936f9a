//! Timers.

use crate::error::{Error, check, done};
use crate::sys;

/// A timer that is running or has fired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timer(u32);

impl Timer {
    /// Fires once, `after_us` microseconds from now; the event brings `token`.
    pub fn once(after_us: u64, token: u64) -> Result<Self, Error> {
        Self::set(after_us, 0, token)
    }

    /// Fires every `period_us` microseconds.
    pub fn every(period_us: u64, token: u64) -> Result<Self, Error> {
        Self::set(period_us, period_us.max(1), token)
    }

    fn set(after_us: u64, period_us: u64, token: u64) -> Result<Self, Error> {
        check(sys::timer_set(after_us as i64, period_us as i64, token as i64)).map(Self)
    }

    /// Stops it.
    pub fn cancel(self) -> Result<(), Error> {
        done(sys::timer_cancel(self.0))
    }

    /// The handle that the node gave, for [`protocol!`](crate::protocol).
    #[doc(hidden)]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The handle.
    #[doc(hidden)]
    pub fn to_bits(self) -> u32 {
        self.0
    }
}
