//! What waits for the device: changes in their order, one batch of them at a time on its way.
//!
//! A change that waits is charged to whoever made it, so that a slow device costs its users and nobody
//! else; an area that goes takes its changes with it. The batch on its way is the node's, like a packet in
//! a card's ring: nobody's end waits for a device.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::device::{Batch, DiskError, Writer};
use super::record::SECTOR;
use super::{Op, Owner};
use crate::account::Charge;

/// Changes of one area that may wait.
pub const MAX_WAITING: usize = 32;
/// Changes in all after which the whole store is written anew instead.
const MANY: usize = 256;
/// Sectors of one batch, about: 128 KiB.
const BATCH: u64 = 256;
/// So often in a row the device may fail.
const PATIENCE: u32 = 3;

struct Waiting {
    op: Op,
    _charge: Option<Charge>,
}

/// The changes that wait.
pub(super) struct Journal {
    waiting: VecDeque<Waiting>,
    /// Whether a batch is on its way.
    busy: bool,
    /// Sectors of a half, and how many of them are used.
    half: u64,
    used: u64,
    /// The next batch must hold everything.
    anew: bool,
    /// There is something that no waiting change stands for.
    dirty: bool,
    failures: u32,
}

impl Journal {
    pub fn new(writer: &Writer) -> Self {
        let half = writer.half();
        Self {
            waiting: VecDeque::new(),
            busy: false,
            half,
            used: half,
            anew: true,
            dirty: false,
            failures: 0,
        }
    }

    /// Sectors that may be live: with a quarter of a half to spare, writing everything anew is rare.
    pub fn room(&self) -> u64 {
        self.half / 4 * 3
    }

    pub fn waiting_of(&self, owner: &Owner) -> usize {
        self.waiting.iter().filter(|w| w.op.owner() == owner).count()
    }

    pub fn push(&mut self, op: Op, charge: Option<Charge>) {
        self.waiting.push_back(Waiting { op, _charge: charge });
    }

    /// The area is gone; what of it was or will be written is removed if that was ever begun.
    pub fn forget(&mut self, owner: &Owner, written: bool) {
        self.waiting.retain(|w| w.op.owner() != owner);
        if written {
            self.push(Op::RemoveArea { owner: *owner }, None);
        }
    }

    /// What to write next. `all` gives everything that is live now, waiting changes included.
    pub fn batch(&mut self, all: impl FnOnce() -> Vec<Op>) -> Option<Batch> {
        if self.busy || self.waiting.is_empty() && !self.dirty {
            return None;
        }
        self.busy = true;
        let (mut count, mut sectors) = (0, 0);
        for waiting in &self.waiting {
            let more = waiting.op.sectors();
            if count > 0 && sectors + more > BATCH {
                break;
            }
            (count, sectors) = (count + 1, sectors + more);
        }
        if self.anew || self.waiting.len() > MANY || self.used + sectors > self.half {
            self.waiting.clear();
            (self.anew, self.dirty) = (false, false);
            let ops = all();
            self.used = ops.iter().map(Op::sectors).sum();
            return Some(Batch::Rewrite(ops));
        }
        self.used += sectors;
        Some(Batch::Append(self.waiting.drain(..count).map(|w| w.op).collect()))
    }

    /// A batch was written, or not. `false`: the device failed too often and is given up.
    pub fn done(&mut self, result: &Result<(), DiskError>) -> bool {
        self.busy = false;
        match result {
            Ok(()) => self.failures = 0,
            Err(_) => {
                // What is on the device now nobody knows: everything is written again.
                self.failures += 1;
                (self.anew, self.dirty) = (true, true);
            }
        }
        self.failures < PATIENCE
    }

    /// Bytes of the device that the store can use.
    pub fn bytes(&self) -> u64 {
        self.room() * SECTOR as u64
    }
}
