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
    /// The deadline has come, a job is done, sent frames have made room, or nothing in particular: look at everything.
    Other,
}

/// Waits for frames and remembers how often it slept.
#[derive(Debug, Default)]
pub struct Idle {
    sleeps: u64,
    /// The count of interrupts before the caller last looked for work.
    seen: u32,
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
        if nics.iter_mut().map(Nic::reap).sum::<usize>() > 0 {
            // There is room again for frames that the core could not send.
            return Wake::Other;
        }
        nics.iter_mut().for_each(Nic::listen);
        if !nics.iter().any(Nic::pending) {
            let micros = deadline.map(|at| at.micros().saturating_sub(clock.mono().micros()));
            if micros != Some(0) {
                self.sleeps += 1;
                // Whatever came since the caller began to look has changed the count.
                kernel::wait_for_interrupt(self.seen, micros);
            }
        }
        self.seen = kernel::interrupt_count();
        nics.iter_mut().for_each(Nic::quiet);
        if nics.iter().any(Nic::pending) { Wake::Frame } else { Wake::Other }
    }

    /// How often the node has slept.
    pub fn sleeps(&self) -> u64 {
        self.sleeps
    }
}
