//! What the capsules carry; numbers are little endian.
//!
//! ```text
//! header: phase (1), hops so far, hop limit, hops without a record, origin (8), target (8), request (4), round (2)
//! record: name: a length byte and at most 24 bytes, arrived (8), stay (4), frames waiting (2; 65535: not known),
//!         next: a length byte and at most 24 bytes
//! ```
//!
//! Records stand behind the header of a trace, in the order of its way.

use bees_sdk::bytes::{Reader, Writer};

/// The longest name of a node in a record, in bytes; the rest is cut off.
pub const MAX_NAME: usize = 24;
/// The longest capsule, in bytes: what every link takes.
pub const MAX: usize = 1200;
/// Frames waiting, where the node does not tell.
pub const UNKNOWN: u16 = u16::MAX;

/// Where a capsule is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// A flood that looks for the target.
    Seek = 0,
    /// The target's answer to it.
    Found = 1,
    /// A trace on its way to the target.
    There = 2,
    /// A trace on its way back.
    Back = 3,
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Where it is on its way.
    pub phase: Phase,
    /// Hops that it has come.
    pub hops: u8,
    /// It goes no farther than this.
    pub limit: u8,
    /// Hops whose records found no room.
    pub missed: u8,
    /// The number of the node that asks.
    pub origin: u64,
    /// The number of the node that is meant.
    pub target: u64,
    /// Which of the asking node's requests.
    pub request: u32,
    /// Which round of it.
    pub round: u16,
}

impl Header {
    /// Its length, in bytes.
    pub const LEN: usize = 26;

    /// Reads a header; `None` when it is none, or has gone far enough.
    pub fn parse(r: &mut Reader<'_>) -> Option<Self> {
        let phase = match r.u8()? {
            0 => Phase::Seek,
            1 => Phase::Found,
            2 => Phase::There,
            3 => Phase::Back,
            _ => return None,
        };
        let (hops, limit, missed) = (r.u8()?, r.u8()?, r.u8()?);
        let (origin, target, request, round) = (r.u64()?, r.u64()?, r.u32()?, r.u16()?);
        (hops < limit).then_some(Self { phase, hops, limit, missed, origin, target, request, round })
    }

    /// Its bytes.
    pub fn pack(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut w = Writer::new(&mut bytes);
        w.put(&[self.phase as u8, self.hops, self.limit, self.missed]);
        w.u64(self.origin);
        w.u64(self.target);
        w.u32(self.request);
        w.u16(self.round);
        bytes
    }

    /// Tells the floods of one node apart.
    pub fn number(&self) -> u64 {
        u64::from(self.request) << 16 | u64::from(self.round)
    }
}

/// What one node says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// When the capsule arrived there, in microseconds of that node's clock.
    pub arrived: u64,
    /// Microseconds until it was sent on.
    pub stay: u32,
    /// Frames that waited for the link by which it went on; [`UNKNOWN`].
    pub waiting: u16,
    /// The neighbor that it was sent to; nothing at the end of the way.
    pub next: &'a [u8],
}

impl<'a> Record<'a> {
    /// The longest record, in bytes.
    pub const MAX: usize = 2 + 2 * MAX_NAME + 14;

    /// Reads the next record.
    pub fn parse(r: &mut Reader<'a>) -> Option<Self> {
        let name = r.short(MAX_NAME)?;
        let (arrived, stay, waiting) = (r.u64()?, r.u32()?, r.u16()?);
        Some(Self { name, arrived, stay, waiting, next: r.short(MAX_NAME)? })
    }

    /// Its bytes.
    pub fn pack<'b>(&self, buffer: &'b mut [u8; Record::MAX]) -> &'b [u8] {
        let mut w = Writer::new(buffer);
        w.short(self.name);
        w.u64(self.arrived);
        w.u32(self.stay);
        w.u16(self.waiting);
        w.short(self.next);
        w.finish().unwrap_or(&[])
    }
}
