//! The watchdog: one thread that interrupts guest code when its deadline has passed.
//!
//! Arming happens before every guest call, so it is two atomic accesses: store the deadline, and see
//! whether the watchdog will look in time. It usually will: while guests run it looks once per deadline
//! length, and a deadline armed since the last look lies behind the next one. Only after it found nothing
//! armed several times it sleeps until woken, and the next arming pays for a system call.
//!
//! Stored deadline before reading the watchdog's next look, and (in the watchdog) stored next look before
//! reading the deadline again: with sequentially consistent accesses one of the two always sees the other.
//!
//! An interruption may come too late, when the guest has just returned and another one has been armed.
//! Whoever is interrupted must therefore ask the meter whether its time is really up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nodeos::platform::{Interrupter, Meter};

use crate::meter::Cycles;

/// Nothing is armed, or no look is planned.
const NEVER: u64 = u64::MAX;
/// How many looks in a row find nothing armed before the watchdog sleeps.
const IDLE_LOOKS: u32 = 4;

/// Interrupts guest code that runs past its deadline.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    meter: Cycles,
    /// When the guest's time is up, in units of the meter, or [`NEVER`].
    deadline: AtomicU64,
    /// The last `after`, in units of the meter.
    after: AtomicU64,
    /// When the watchdog looks next, or [`NEVER`] when it sleeps.
    next_look: AtomicU64,
    stop: AtomicBool,
}

impl Watchdog {
    /// Starts the watchdog; `interrupt` is called on its thread.
    pub fn start(meter: Cycles, interrupt: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            meter,
            deadline: AtomicU64::new(NEVER),
            after: AtomicU64::new(0),
            next_look: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let watched = shared.clone();
        let thread = thread::Builder::new().name("watchdog".into()).spawn(move || {
            crate::wait::exact_timers();
            crate::wait::short_slices();
            watched.watch(&interrupt);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Interrupter for Watchdog {
    fn arm(&self, after: u64) {
        let shared = &*self.shared;
        let deadline = shared.meter.count().saturating_add(after).min(NEVER - 1);
        shared.after.store(after, Ordering::Relaxed);
        shared.deadline.store(deadline, Ordering::SeqCst);
        if deadline < shared.next_look.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn disarm(&self) {
        self.shared.deadline.store(NEVER, Ordering::Release);
    }
}

impl Shared {
    fn watch(&self, interrupt: &impl Fn()) {
        let mut idle = 0;
        while !self.stop.load(Ordering::Acquire) {
            let now = self.meter.count();
            let deadline = self.deadline.load(Ordering::SeqCst);
            let after = self.after.load(Ordering::Relaxed);
            let next = if deadline == NEVER {
                idle += 1;
                if idle > IDLE_LOOKS { NEVER } else { now.saturating_add(after) }
            } else if deadline > now {
                idle = 0;
                deadline
            } else {
                // Only the guest that was seen is interrupted, and again after the same time; if it has
                // returned since, there is nothing to do.
                let again = now.saturating_add(after).min(NEVER - 1);
                if self.deadline.compare_exchange(deadline, again, Ordering::SeqCst, Ordering::SeqCst).is_ok()
                {
                    interrupt();
                }
                continue;
            };
            self.next_look.store(next, Ordering::SeqCst);
            // What was armed before the store above was visible did not wake anyone: look again.
            let armed_meanwhile = self.deadline.load(Ordering::SeqCst) < next;
            if !armed_meanwhile {
                if next == NEVER {
                    thread::park();
                } else {
                    thread::park_timeout(self.meter.time(next.saturating_sub(self.meter.count())));
                }
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It ends by itself; a panic there has already ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    fn watchdog() -> (Watchdog, Cycles, Arc<AtomicU32>) {
        let fired = Arc::new(AtomicU32::new(0));
        let count = fired.clone();
        let meter = Cycles::new();
        let dog = Watchdog::start(meter, move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        (dog.unwrap(), meter, fired)
    }

    #[test]
    fn a_passed_deadline_fires_again_and_again() {
        let (dog, meter, fired) = watchdog();
        let start = Instant::now();
        dog.arm(5_000 * meter.per_micro());
        while fired.load(Ordering::SeqCst) < 3 {
            assert!(start.elapsed() < Duration::from_secs(10), "the watchdog does not fire");
            thread::sleep(Duration::from_micros(100));
        }
        assert!(start.elapsed() >= Duration::from_millis(15));
        dog.disarm();
        thread::sleep(Duration::from_millis(2));
        let so_far = fired.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
        assert_eq!(fired.load(Ordering::SeqCst), so_far);
    }

    #[test]
    fn short_calls_are_never_interrupted() {
        let (dog, meter, fired) = watchdog();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(100) {
            dog.arm(1_000_000 * meter.per_micro());
            dog.disarm();
        }
        assert_eq!(fired.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_short_deadline_after_a_long_one_and_after_sleep() {
        let (dog, meter, fired) = watchdog();
        dog.arm(3_600_000_000 * meter.per_micro());
        thread::sleep(Duration::from_millis(5));
        dog.disarm();
        for round in 1..=3 {
            // Long enough for the watchdog to have gone to sleep.
            thread::sleep(Duration::from_millis(20));
            let start = Instant::now();
            dog.arm(1_000 * meter.per_micro());
            while fired.load(Ordering::SeqCst) < round {
                assert!(start.elapsed() < Duration::from_secs(10), "the watchdog sleeps on");
            }
            dog.disarm();
            fired.store(round, Ordering::SeqCst);
        }
    }
}
