//! `random`: random bytes of the team's own.
//!
//! SHA-256 over a secret seed and a counter. The node gives each team a seed out of its entropy (in the
//! simulator, out of the run's seed), so that what one team sees tells nothing about another's.

use sha2::{Digest, Sha256};
use wasmtime::Linker;

use super::memory::GuestSlice;
use super::{Guest, hashed, touching};
use crate::abi::{Error, MODULE};
use crate::sandbox::TeamState;

/// The team's source.
pub(crate) struct Random {
    seed: [u8; 32],
    counter: u64,
}

impl Random {
    pub const fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    pub fn fill(&mut self, out: &mut [u8]) {
        for piece in out.chunks_mut(32) {
            self.counter += 1;
            let block =
                Sha256::new().chain_update(self.seed).chain_update(self.counter.to_le_bytes()).finalize();
            piece.copy_from_slice(&block[..piece.len()]);
        }
    }
}

pub(super) fn link(l: &mut Linker<TeamState>) -> wasmtime::Result<()> {
    l.func_wrap(MODULE, "random", |g: Guest<'_>, ptr: u32, len: u32| {
        touching(g, 2 * hashed(len), |s, memory| {
            let random = s.random.as_mut().ok_or(Error::Unavailable)?;
            random.fill(GuestSlice::new(ptr, len).write(memory)?);
            Ok(0)
        })
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_repeat_and_depends_on_the_seed() {
        let take = |random: &mut Random| {
            let mut out = [0; 40];
            random.fill(&mut out);
            out
        };
        let (mut a, mut b, mut c) = (Random::new([1; 32]), Random::new([1; 32]), Random::new([2; 32]));
        let first = take(&mut a);
        assert_eq!(first, take(&mut b));
        assert_ne!(first, take(&mut a));
        assert_ne!(first, take(&mut c));
        assert_ne!(first[..8], first[32..]);
    }
}
