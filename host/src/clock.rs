//! Time since the node started, and the time of day.

use std::time::{Instant as StdInstant, SystemTime, UNIX_EPOCH};

use nodeos::platform::{Instant, Now};

/// A node's clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: StdInstant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { start: StdInstant::now() }
    }

    /// The monotonic time.
    pub fn mono(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The monotonic time and the time of day.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs());
        Now { mono: self.mono(), wall }
    }
}
