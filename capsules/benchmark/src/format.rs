//! The header of all capsules, and the report; numbers are little endian.
//!
//! ```text
//! what (0 data, 1 last of its stream, 2 seek, 3 report), 0, 0, 0, counter (4), target (8), source (8),
//! stream (4), sequence (4)
//! report: the header, then received (4), duplicates (4), reordered (4), relays (4), time (8, microseconds)
//! ```
//!
//! A relay adds one to the counter. A node's number is the hash of its name.

use bees_sdk::bytes::{Reader, Writer};

/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 64;

/// What a capsule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Data,
    Last,
    Seek,
    Report,
}

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub what: What,
    /// Relays that it has passed; in a seek, hops.
    pub counter: u32,
    pub target: u64,
    pub source: u64,
    pub stream: u32,
    /// From 0; of the last capsule: how many came before it.
    pub sequence: u32,
}

/// What arrived of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub header: Header,
    pub received: u32,
    pub duplicates: u32,
    pub reordered: u32,
    /// Relays on the way.
    pub relays: u32,
    /// Between the first and the last capsule, in microseconds.
    pub us: u64,
}

impl Header {
    /// Its length, in bytes.
    pub const LEN: usize = 32;
    /// Where the counter is.
    pub const COUNTER: usize = 4;

    /// Reads a header.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut r = Reader::new(head);
        let [what, ..] = r.array::<4>()?;
        let what = match what {
            0 => What::Data,
            1 => What::Last,
            2 => What::Seek,
            3 => What::Report,
            _ => return None,
        };
        let (counter, target, source) = (r.u32()?, r.u64()?, r.u64()?);
        let h = Self { what, counter, target, source, stream: r.u32()?, sequence: r.u32()? };
        (h.counter < u32::MAX).then_some(h)
    }

    /// Its bytes.
    pub fn pack(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut w = Writer::new(&mut bytes);
        w.put(&[self.what as u8, 0, 0, 0]);
        w.u32(self.counter);
        w.u64(self.target);
        w.u64(self.source);
        w.u32(self.stream);
        w.u32(self.sequence);
        bytes
    }

    /// The number under which a flood is remembered.
    pub fn number(&self) -> u64 {
        u64::from(self.stream) << 32 | u64::from(self.sequence)
    }
}

impl Report {
    const LEN: usize = Header::LEN + 24;

    /// The answer to a seek.
    pub fn found(seek: &Header) -> Self {
        Self { header: *seek, received: 0, duplicates: 0, reordered: 0, relays: 0, us: 0 }
    }

    /// Reads a report.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let header = Header::parse(head)?;
        let mut r = Reader::new(head.get(Header::LEN..)?);
        let (received, duplicates, reordered, relays) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        Some(Self { header, received, duplicates, reordered, relays, us: r.u64()? })
    }

    /// Its bytes.
    pub fn pack(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut w = Writer::new(&mut bytes);
        w.put(&self.header.pack());
        for n in [self.received, self.duplicates, self.reordered, self.relays] {
            w.u32(n);
        }
        w.u64(self.us);
        bytes
    }
}
