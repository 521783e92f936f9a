//! The header that `Seek` and `Echo` share; numbers are little endian.
//!
//! ```text
//! 0 or 1 (an answer), hops so far, hop limit, hops of the way there (in answers),
//! source (8), target (8), request (4), sequence (2), 0 (2), data
//! ```

use bees_sdk::bytes::{Reader, Writer};

/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 64;

/// The header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether it is on its way back.
    pub reply: bool,
    /// Hops that it has come.
    pub hops: u8,
    /// It goes no farther than this.
    pub limit: u8,
    /// In an answer: the hops there.
    pub there: u8,
    /// Who sent it.
    pub source: u64,
    /// For whom it is.
    pub target: u64,
    /// The request that it belongs to.
    pub job: u32,
    /// Which of its floods or echoes; in an answer 0: the target was found.
    pub seq: u16,
}

impl Header {
    /// Its length, in bytes.
    pub const LEN: usize = 28;

    /// Reads a header.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let mut r = Reader::new(head);
        let (reply, hops, limit, there) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?);
        let (source, target, job, seq, _) = (r.u64()?, r.u64()?, r.u32()?, r.u16()?, r.u16()?);
        (reply <= 1 && hops < limit).then_some(Self {
            reply: reply == 1,
            hops,
            limit,
            there,
            source,
            target,
            job,
            seq,
        })
    }

    /// Its bytes.
    pub fn pack(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let mut w = Writer::new(&mut bytes);
        w.put(&[u8::from(self.reply), self.hops, self.limit, self.there]);
        w.u64(self.source);
        w.u64(self.target);
        w.u32(self.job);
        w.u16(self.seq);
        bytes
    }

    /// The number under which a flood is remembered.
    pub fn number(&self) -> u64 {
        u64::from(self.job) << 16 | u64::from(self.seq)
    }
}
