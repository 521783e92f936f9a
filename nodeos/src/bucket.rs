//! Token buckets in tc's vocabulary: a rate in bytes per second and a burst in bytes (tc-tbf(8)).
//!
//! A bucket starts full. Tokens are kept in millionths of a byte, and time comes in microseconds, so that
//! refilling is exact: nothing is lost to rounding however often the bucket is looked at.

use crate::platform::Instant;
use core::time::Duration;

/// Tokens per byte.
const SCALE: u64 = 1_000_000;
/// The largest burst, in bytes: what the counter of tokens has room for.
pub const MAX_BURST: u64 = u64::MAX / SCALE;

/// Lets `rate` bytes per second pass, and up to `burst` bytes at once.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: u64,
    /// In tokens, as the rest.
    burst: u64,
    tokens: u64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket. `rate` in bytes per second; `burst` in bytes, at most [`MAX_BURST`].
    pub const fn new(rate: u64, burst: u64) -> Self {
        let burst = if burst < MAX_BURST { burst * SCALE } else { MAX_BURST * SCALE };
        Self { rate, burst, tokens: burst, at: Instant::ZERO }
    }

    /// An empty bucket.
    pub(crate) const fn empty(now: Instant, rate: u64, burst: u64) -> Self {
        Self { tokens: 0, at: now, ..Self::new(rate, burst) }
    }

    /// Goes on with this rate and burst; what the bucket held beyond the new burst is gone.
    pub fn set(&mut self, now: Instant, rate: u64, burst: u64) {
        self.refill(now);
        let Self { rate, burst, .. } = Self::new(rate, burst);
        (self.rate, self.burst, self.tokens) = (rate, burst, self.tokens.min(burst));
    }

    /// Takes `bytes` if there are as many, else nothing. What is longer than the burst never passes.
    #[inline]
    pub fn take(&mut self, now: Instant, bytes: usize) -> bool {
        // Of what is sent together only the first finds that time has passed.
        if now > self.at {
            self.refill(now);
        }
        match tokens(bytes).and_then(|wanted| self.tokens.checked_sub(wanted)) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// Undoes a [`take`](Self::take).
    pub(crate) fn put_back(&mut self, bytes: usize) {
        self.tokens = self.tokens.saturating_add(tokens(bytes).unwrap_or(0)).min(self.burst);
    }

    /// Bytes that could be taken.
    pub fn available(&self, now: Instant) -> u64 {
        self.tokens_at(now) / SCALE
    }

    /// The first moment, not before `now`, at which `bytes` can be taken; `None` if that never comes.
    pub fn when(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let wanted = tokens(bytes).filter(|&wanted| wanted <= self.burst)?;
        let missing = wanted.saturating_sub(self.tokens_at(now));
        if missing == 0 {
            return Some(now);
        }
        if self.rate == 0 {
            return None;
        }
        // A clock that went back refills nothing before it has caught up.
        let from = now.max(self.at);
        Some(from + Duration::from_micros(missing.div_ceil(self.rate)))
    }

    /// Bytes per second.
    pub const fn rate(&self) -> u64 {
        self.rate
    }

    /// Bytes.
    pub const fn burst(&self) -> u64 {
        self.burst / SCALE
    }

    fn refill(&mut self, now: Instant) {
        self.tokens = self.tokens_at(now);
        self.at = self.at.max(now);
    }

    fn tokens_at(&self, now: Instant) -> u64 {
        // Bytes per second are tokens per microsecond.
        let elapsed = now.0.saturating_sub(self.at.0);
        self.tokens.saturating_add(self.rate.saturating_mul(elapsed)).min(self.burst)
    }
}

fn tokens(bytes: usize) -> Option<u64> {
    u64::try_from(bytes).ok()?.checked_mul(SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lower_rate_takes_what_was_saved() {
        let mut bucket = TokenBucket::new(1000, 5000);
        bucket.set(Instant::ZERO, 100, 200);
        assert_eq!((bucket.rate(), bucket.burst(), bucket.available(Instant::ZERO)), (100, 200, 200));
        assert!(bucket.take(Instant::ZERO, 200) && !bucket.take(Instant(999_999), 100));
        assert!(bucket.take(Instant(1_000_000), 100));
    }

    #[test]
    fn burst_then_rate() {
        let mut bucket = TokenBucket::new(1000, 100);
        let t = Instant(5_000_000);
        assert!(bucket.take(t, 100));
        assert!(!bucket.take(t, 1));
        assert_eq!(bucket.when(t, 1), Some(Instant(5_001_000)));
        assert!(!bucket.take(Instant(5_000_999), 1));
        assert!(bucket.take(Instant(5_001_000), 1));
        assert_eq!(bucket.when(t, 101), None);
        assert!(!bucket.take(Instant(u64::MAX), 101));
        assert_eq!(bucket.available(Instant(u64::MAX)), 100);
    }

    #[test]
    fn extremes_do_not_overflow() {
        let mut bucket = TokenBucket::new(u64::MAX, u64::MAX);
        assert!(bucket.take(Instant(1), usize::try_from(MAX_BURST).unwrap()));
        assert!(!bucket.take(Instant(1), usize::MAX));
        assert!(bucket.take(Instant(u64::MAX), 1));
        let mut closed = TokenBucket::new(0, 10);
        assert!(closed.take(Instant(1), 10));
        assert_eq!(closed.when(Instant(2), 1), None);
    }

    proptest! {
        /// Over any stretch of time no more passes than the burst and the rate allow, and a sender that
        /// always waits until `when` gets all of it.
        #[test]
        fn what_passes_is_bounded(
            rate in 1u64..2_000_000_000, burst in 1600u64..100_000,
            steps in proptest::collection::vec((0u64..3000, 1usize..1600), 1..200),
        ) {
            let mut bucket = TokenBucket::new(rate, burst);
            let (mut now, mut passed) = (0u64, 0u128);
            for (pause, bytes) in steps {
                now += pause;
                if bucket.take(Instant(now), bytes) {
                    passed += bytes as u128;
                } else {
                    let at = bucket.when(Instant(now), bytes).unwrap();
                    prop_assert!(at.0 > now);
                    prop_assert!(!bucket.clone().take(Instant(at.0 - 1), bytes));
                    prop_assert!(bucket.clone().take(at, bytes));
                }
                let most = u128::from(burst) * 1_000_000 + u128::from(rate) * u128::from(now);
                prop_assert!(passed * 1_000_000 <= most);
            }
        }

        /// Looking often does not lose tokens.
        #[test]
        fn refilling_is_exact(rate in 1u64..1000, looks in proptest::collection::vec(1u64..50, 1..200)) {
            let mut bucket = TokenBucket::new(rate, 1 << 30);
            let all = 1usize << 30;
            prop_assert!(bucket.take(Instant(0), all));
            let mut now = 0;
            for step in looks {
                now += step;
                bucket.take(Instant(now), all);
            }
            prop_assert_eq!(bucket.available(Instant(now)), rate * now / 1_000_000);
        }
    }
}
