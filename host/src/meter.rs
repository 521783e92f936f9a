//! Counts work in cycles of the processor's time-stamp counter where it runs at a constant rate on all
//! cores, and in nanoseconds elsewhere.

use std::time::{Duration, Instant};

use nodeos::platform::Meter;

/// How long the counter is compared with the clock at start.
#[cfg(target_arch = "x86_64")]
const CALIBRATION: Duration = Duration::from_millis(5);

/// A counter of work.
#[derive(Debug, Clone, Copy)]
pub enum Cycles {
    /// The time-stamp counter.
    #[cfg(target_arch = "x86_64")]
    Tsc {
        /// Ticks in one microsecond.
        per_micro: u64,
    },
    /// CLOCK_MONOTONIC in nanoseconds.
    Clock {
        /// Where counting starts.
        start: Instant,
    },
}

impl Cycles {
    /// The best counter that this machine has. Takes some milliseconds.
    pub fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        if has_constant_tsc() {
            let (clock, ticks) = (Instant::now(), tsc());
            std::thread::sleep(CALIBRATION);
            let (elapsed, ticks) = (clock.elapsed(), tsc() - ticks);
            let per_micro = u128::from(ticks) * 1000 / elapsed.as_nanos().max(1);
            return Self::Tsc { per_micro: u64::try_from(per_micro).unwrap_or(u64::MAX).max(1) };
        }
        Self::Clock { start: Instant::now() }
    }

    /// How long `units` take.
    pub fn time(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * 1000 / u128::from(self.per_micro());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Default for Cycles {
    fn default() -> Self {
        Self::new()
    }
}

impl Meter for Cycles {
    fn count(&self) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc { .. } => tsc(),
            Self::Clock { start } => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn per_micro(&self) -> u64 {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Tsc { per_micro } => *per_micro,
            Self::Clock { .. } => 1000,
        }
    }

    fn own(&self) -> u64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // Safety: the kernel writes to the timespec and to nothing else.
        let known = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } == 0;
        let (Ok(seconds), Ok(nanos)) = (u128::try_from(time.tv_sec), u128::try_from(time.tv_nsec)) else {
            return self.count();
        };
        let units = (seconds * 1_000_000_000 + nanos) * u128::from(self.per_micro()) / 1000;
        if known { u64::try_from(units).unwrap_or(u64::MAX) } else { self.count() }
    }
}

#[cfg(target_arch = "x86_64")]
fn tsc() -> u64 {
    // Safety: the instruction reads a register and touches no memory; every x86-64 has it, and Linux
    // lets programs use it unless they forbid it themselves (prctl PR_SET_TSC).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The kernel's judgement: the counter neither stops nor changes its rate.
#[cfg(target_arch = "x86_64")]
fn has_constant_tsc() -> bool {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let Some(flags) = cpuinfo.lines().find(|l| l.starts_with("flags")) else { return false };
    ["constant_tsc", "nonstop_tsc"].iter().all(|wanted| flags.split_whitespace().any(|f| f == *wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps_time(meter: Cycles) {
        let (clock, count) = (Instant::now(), meter.count());
        std::thread::sleep(Duration::from_millis(20));
        let (counted, elapsed) = (meter.time(meter.count() - count), clock.elapsed());
        let off = counted.abs_diff(elapsed);
        assert!(off < Duration::from_millis(2), "{meter:?}: {counted:?} for {elapsed:?}");
    }

    #[test]
    fn both_counters_keep_time() {
        keeps_time(Cycles::new());
        keeps_time(Cycles::Clock { start: Instant::now() });
    }

    #[test]
    fn time_that_others_have_is_not_the_threads_own() {
        let meter = Cycles::new();
        let (own, clock) = (meter.own(), Instant::now());
        while meter.own() - own < 2000 * meter.per_micro() {
            assert!(clock.elapsed() < Duration::from_secs(20), "it works, and gets no time");
        }
        let (own, count) = (meter.own(), meter.count());
        std::thread::sleep(Duration::from_millis(50));
        let (own, count) = (meter.time(meter.own() - own), meter.time(meter.count() - count));
        assert!(
            own < Duration::from_millis(10) && count >= Duration::from_millis(50),
            "{own:?} of {count:?}"
        );
    }

    #[test]
    fn units_are_so_many_in_a_microsecond() {
        let meter = Cycles::Clock { start: Instant::now() };
        assert_eq!(meter.time(1234 * meter.per_micro()), Duration::from_micros(1234));
        assert_eq!(meter.time(u64::MAX), Duration::from_nanos(u64::MAX));
    }
}
