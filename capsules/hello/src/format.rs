//! What floods and answers look like; numbers are little endian.
//!
//! ```text
//! flood:   1, hops of the sender, hop limit, search (8), round (2), sender (8), filter (256)
//! answers: 2, 0, 0, 0, search (8), entries
//! entry:   hops, neighbors heard, neighbors, round (2), sum of the neighbors heard (8),
//!          name, parent's name, tag: a length byte and at most 32 bytes each
//! ```
//!
//! A node's number is the hash of its name.

use bees_sdk::bytes::{Reader, Writer};
use bees_sdk::{Capsule, Error, node};

/// The longest name or tag, in bytes.
pub const MAX_NAME: usize = 32;

/// The longest entry, in bytes.
pub const MAX_ENTRY: usize = 13 + 3 * (1 + MAX_NAME);

bees_sdk::packed! {
    /// A flood's header.
    pub struct Flood: 1 {
        /// Hops from the origin to who sent this.
        pub hops: u8,
        /// Nodes at this many hops pass it on to nobody.
        pub limit: u8,
        /// Which search.
        pub run: u64,
        /// Which round of it, from 1.
        pub round: u16,
        /// Number of the node that sent this.
        pub sender: u64,
    }
}

impl Flood {
    /// Bytes before the filter.
    pub const HEADER: usize = Self::LEN;

    /// Reads a header; `None` when it is none.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let flood = Self::of(head)?;
        (flood.hops <= flood.limit && flood.limit < u8::MAX && flood.run != 0).then_some(flood)
    }

    /// Writes the header over a capsule's.
    pub fn write(&self, capsule: &mut Capsule) -> Result<(), Error> {
        capsule.write(0, &self.bytes())
    }
}

/// One node's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The node's name.
    pub name: &'a [u8],
    /// Its parent's name.
    pub via: &'a [u8],
    /// What its build says besides.
    pub tag: &'a [u8],
    /// Hops from the origin.
    pub hops: u8,
    /// How many neighbors it has heard in this search.
    pub heard: u8,
    /// How many neighbors should be heard; 255: too many to tell.
    pub neighbors: u8,
    /// The round in which it answered.
    pub round: u16,
    /// The sum of the numbers of the neighbors that it has heard.
    pub sum: u64,
}

impl<'a> Entry<'a> {
    /// The longest entry, in bytes.
    pub const MAX: usize = MAX_ENTRY;

    /// The number of the node that answers.
    pub fn id(&self) -> u64 {
        node::short_hash(self.name)
    }

    /// Reads one entry.
    pub fn parse(r: &mut Reader<'a>) -> Option<Self> {
        let (hops, heard, neighbors, round, sum) = (r.u8()?, r.u8()?, r.u8()?, r.u16()?, r.u64()?);
        let (name, via, tag) = (r.short(MAX_NAME)?, r.short(MAX_NAME)?, r.short(MAX_NAME)?);
        (!name.is_empty()).then_some(Self { name, via, tag, hops, heard, neighbors, round, sum })
    }

    /// Writes it.
    pub fn pack<'b>(&self, buffer: &'b mut [u8; MAX_ENTRY]) -> &'b [u8] {
        let mut w = Writer::new(buffer);
        w.put(&[self.hops, self.heard, self.neighbors]);
        w.u16(self.round);
        w.u64(self.sum);
        w.short(self.name);
        w.short(self.via);
        w.short(self.tag);
        w.finish().unwrap_or(&[])
    }
}

/// A capsule full of answers, being filled.
pub struct Answers {
    bytes: [u8; Self::MAX],
    len: usize,
    limit: usize,
}

impl Answers {
    /// The longest payload, in bytes; shorter where the next hop takes less.
    pub const MAX: usize = 1024;
    const HEADER: usize = 12;
    const TYPE: u8 = 2;

    /// None yet; at most `limit` bytes.
    pub fn new(run: u64, limit: usize) -> Self {
        let mut bytes = [0; Self::MAX];
        let mut w = Writer::new(&mut bytes);
        w.put(&[Self::TYPE, 0, 0, 0]);
        w.u64(run);
        Self { bytes, len: Self::HEADER, limit: limit.min(Self::MAX) }
    }

    /// Appends a packed entry; `false` when it does not fit.
    pub fn add(&mut self, entry: &[u8]) -> bool {
        let end = self.len + entry.len();
        if end > self.limit {
            return false;
        }
        self.bytes[self.len..end].copy_from_slice(entry);
        self.len = end;
        true
    }

    /// Forgets the entries.
    pub fn clear(&mut self) {
        self.len = Self::HEADER;
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == Self::HEADER
    }

    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The search and the entries of a payload; they end at the first that cannot be read.
    pub fn parse(payload: &[u8]) -> Option<(u64, impl Iterator<Item = Entry<'_>>)> {
        let mut r = Reader::new(payload);
        let [kind, ..] = r.array::<4>()?;
        let run = r.u64()?;
        (kind == Self::TYPE).then_some((run, core::iter::from_fn(move || Entry::parse(&mut r))))
    }
}
