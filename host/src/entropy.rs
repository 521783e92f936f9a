//! Random bytes from the kernel.

use nodeos::platform::{Entropy, EntropyError};

/// getrandom(2).
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Entropy for Kernel {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(out).map_err(|_| EntropyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_and_differ() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        Kernel.fill(&mut a).unwrap();
        Kernel.fill(&mut b).unwrap();
        assert_ne!(a, [0; 32]);
        assert_ne!(a, b);
    }
}
