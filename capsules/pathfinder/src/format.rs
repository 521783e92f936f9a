//! What capsules look like; numbers are little endian.
//!
//! ```text
//! configuration: 1, hops of the sender, epoch (8), sequence (4), age in ms (4), interval in ms (4)
//! sink:          2, hops travelled, bytes for the root's main protocol
//! multicast:     3, hops travelled, epoch (8), number (4), bytes for every main protocol
//! ```

use bees_sdk::bytes::{Pack, Reader, Writer};

/// Nodes this far from the root pass on nothing.
pub const MAX_HOPS: u8 = 250;
/// Bytes before those of a sink capsule.
pub const SINK_HEAD: usize = 2;
/// Bytes before those of a multicast capsule.
pub const MULTICAST_HEAD: usize = 14;
/// Where the hops stand.
pub const HOPS: usize = 1;

/// What the root says once an interval, and every node after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configuration {
    /// Hops from the root to who sends this.
    pub hops: u8,
    /// Which root, and which of its lives: a greater one is newer.
    pub epoch: u64,
    /// How often that root has spoken.
    pub sequence: u32,
    /// Milliseconds since it spoke.
    pub age_ms: u32,
    /// Milliseconds between its words.
    pub interval_ms: u32,
}

/// What stands before the bytes of a multicast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Multicast {
    /// Hops travelled.
    pub hops: u8,
    /// The root's epoch.
    pub epoch: u64,
    /// Its multicasts are counted from 1.
    pub number: u32,
}

impl Pack for Configuration {
    fn pack(&self, to: &mut Writer<'_>) {
        to.put(&[1, self.hops]);
        to.u64(self.epoch);
        to.u32(self.sequence);
        to.u32(self.age_ms);
        to.u32(self.interval_ms);
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        let kind = from.u8()?;
        let read = Self {
            hops: from.u8()?,
            epoch: from.u64()?,
            sequence: from.u32()?,
            age_ms: from.u32()?,
            interval_ms: from.u32()?,
        };
        (kind == 1 && read.hops < MAX_HOPS && from.rest().is_empty()).then_some(read)
    }
}

impl Pack for Multicast {
    fn pack(&self, to: &mut Writer<'_>) {
        to.put(&[3, self.hops]);
        to.u64(self.epoch);
        to.u32(self.number);
    }

    fn unpack(from: &mut Reader<'_>) -> Option<Self> {
        let kind = from.u8()?;
        let read = Self { hops: from.u8()?, epoch: from.u64()?, number: from.u32()? };
        (kind == 3 && read.hops < MAX_HOPS).then_some(read)
    }
}

/// The hops that a sink capsule has travelled.
pub fn sink_hops(head: &[u8]) -> Option<u8> {
    match head {
        [2, hops, ..] if *hops < MAX_HOPS => Some(*hops),
        _ => None,
    }
}
