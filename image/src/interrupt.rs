//! Stops guest code that runs past its deadline: an urgent thread, woken by the timer's interrupt,
//! ticks the wasm engine's epoch while the guest spins.
//!
//! Arming is two stores. The thread keeps its own pace: while guests run it wakes once per deadline's
//! length and sees whether the one that runs now is late; when a whole period has passed without a
//! guest it sleeps for good, and the next `arm` wakes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;
use std::{fmt, io};

use nodeos::platform::Interrupter;

use crate::clock::{Clock, tsc};
use crate::kernel::{self, Priority};

/// No guest runs.
const NEVER: u64 = u64::MAX;
/// Shorter deadlines would keep the thread awake all the time: microseconds.
const SHORTEST: u64 = 100;

/// The watchdog.
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    clock: Clock,
    /// When the guest is late, in cycles of the time-stamp counter.
    deadline: AtomicU64,
    /// What is allowed, in cycles.
    period: AtomicU64,
    /// [`SHORTEST`], in cycles.
    shortest: u64,
    /// How often a guest was started.
    starts: AtomicU64,
    /// How often a guest was late.
    ticks: AtomicU64,
    /// The thread sleeps until it is woken.
    asleep: AtomicBool,
}

impl Watchdog {
    /// Starts the thread. `tick` is called when a guest is late; it must be short and must not block.
    pub fn start(clock: Clock, tick: impl Fn() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            clock,
            deadline: AtomicU64::new(NEVER),
            period: AtomicU64::new(clock.cycles(SHORTEST)),
            shortest: clock.cycles(SHORTEST),
            starts: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let handle = thread::Builder::new().name("watchdog".into()).spawn(move || {
            kernel::set_priority(Priority::Urgent);
            watch(&theirs, tick);
        })?;
        // Let it come to its first sleep.
        thread::yield_now();
        Ok(Self { shared, thread: handle.thread().clone() })
    }

    /// How often a guest was late.
    pub fn ticks(&self) -> u64 {
        self.shared.ticks.load(Ordering::Relaxed)
    }
}

fn watch(shared: &Shared, tick: impl Fn()) {
    let mut starts = 0;
    loop {
        let deadline = shared.deadline.load(Ordering::Relaxed);
        let now = tsc();
        let period = shared.period.load(Ordering::Relaxed);
        let sleep = if deadline == NEVER {
            let seen = shared.starts.load(Ordering::Relaxed);
            if seen == starts {
                shared.asleep.store(true, Ordering::SeqCst);
                // A guest may have started on another processor before it could see that.
                if shared.deadline.load(Ordering::SeqCst) == NEVER {
                    thread::park();
                }
                shared.asleep.store(false, Ordering::Relaxed);
                continue;
            }
            starts = seen;
            period
        } else if now >= deadline {
            shared.ticks.fetch_add(1, Ordering::Relaxed);
            tick();
            shared.deadline.store(now.saturating_add(period).min(NEVER - 1), Ordering::Relaxed);
            period
        } else {
            deadline - now
        };
        thread::park_timeout(Duration::from_micros(shared.clock.micros(sleep) + 1));
    }
}

impl Interrupter for Watchdog {
    fn arm(&self, after: u64) {
        let shared = &self.shared;
        let period = after.max(shared.shortest);
        let deadline = tsc().saturating_add(period).min(NEVER - 1);
        shared.deadline.store(deadline, Ordering::SeqCst);
        // A shorter period than before must not wait for the end of the longer one.
        let shorter = period < shared.period.swap(period, Ordering::Relaxed);
        shared.starts.store(shared.starts.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if shared.asleep.load(Ordering::SeqCst) || shorter {
            // More urgent than we are, so it runs now, sets the timer and sleeps.
            self.thread.unpark();
        }
    }

    fn disarm(&self) {
        self.shared.deadline.store(NEVER, Ordering::Relaxed);
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watchdog({} ticks)", self.ticks())
    }
}
