//! Waiting for frames: look at the rings for a while, then sleep until an interrupt or a deadline.
//!
//! Under load nothing is ever asleep and no device interrupts. An idle node halts its processor. In
//! between, a thread of lower priority (a compilation) has the processor, and an arriving frame takes
//! it back at once.

use nodeos::platform::Instant;

use crate::clock::Clock;
use crate::kernel;
use crate::nic::Nic;

/// How often the rings are looked at before the node sleeps.
const LOOKS: u32 = 64;

/// What there was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// A frame has arrived.
    Frame,
    /// The deadline has come, a job is done, or nothing in particular: look at everything.
    Other,
}

/// Waits for frames and remembers how often it slept.
#[derive(Debug, Default)]
pub struct Idle {
    sleeps: u64,
}

impl Idle {
    /// Returns when a frame has arrived, a job is done ([`kernel::notify`]), or at `deadline`.
    /// `busy` says that a job runs: then there is no point in looking at the rings again and again.
    pub fn wait(&mut self, nics: &mut [Nic], clock: &Clock, deadline: Option<Instant>, busy: bool) -> Wake {
        let looks = if busy { 1 } else { LOOKS };
        for _ in 0..looks {
            if nics.iter().any(Nic::pending) {
                return Wake::Frame;
            }
            std::hint::spin_loop();
        }
        // Read the count first: an interrupt between here and the sleep changes it.
        let seen = kernel::interrupt_count();
        for nic in nics.iter_mut() {
            nic.reap();
            nic.listen();
        }
        if !nics.iter().any(Nic::pending) {
            let micros = deadline.map(|at| at.micros().saturating_sub(clock.mono().micros()));
            if micros != Some(0) {
                self.sleeps += 1;
                kernel::wait_for_interrupt(seen, micros);
            }
        }
        for nic in nics.iter_mut() {
            nic.quiet();
        }
        if nics.iter().any(Nic::pending) {
            Wake::Frame
        } else {
            Wake::Other
        }
    }

    /// How often the node has slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }
}
