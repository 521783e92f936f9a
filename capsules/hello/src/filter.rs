//! Which answers the origin has: a Bloom filter that travels with the flood. It acknowledges all answers at
//! once, and needs no state on the way. Bits depend on the round, so an answer that happens to look
//! acknowledged does so in one round only.

use bees_sdk::node::mix;

/// The filter.
pub struct Filter {
    bytes: [u8; Self::LEN],
}

impl Filter {
    /// Its length, in bytes: with 500 answers in it one in seven looks acknowledged by chance.
    pub const LEN: usize = 256;

    /// Empty.
    pub const fn new() -> Self {
        Self { bytes: [0; Self::LEN] }
    }

    /// Notes that the answer of node `id` that had heard so many neighbors has come.
    pub fn add(&mut self, id: u64, heard: u8, round: u16) {
        for bit in bits(id, heard, round) {
            self.bytes[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// Whether that answer has come, or looks so.
    pub fn has(&self, id: u64, heard: u8, round: u16) -> bool {
        bits(id, heard, round).iter().all(|bit| self.bytes[bit / 8] & (1 << (bit % 8)) != 0)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; Self::LEN] {
        &self.bytes
    }

    /// Its bytes, to be read into.
    pub fn bytes_mut(&mut self) -> &mut [u8; Self::LEN] {
        &mut self.bytes
    }
}

/// Two bits per answer: best for 500 to 1000 answers in 2048 bits.
fn bits(id: u64, heard: u8, round: u16) -> [usize; 2] {
    let h = mix(id ^ mix(u64::from(heard) << 16 | u64::from(round)));
    let bit = |n: u64| n as usize % (Filter::LEN * 8);
    [bit(h), bit(h >> 32)]
}
