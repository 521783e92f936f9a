//! Who may do what on a node, and how a node and its users prove who they are.
//!
//! | module         | what it holds                                                              |
//! |----------------|----------------------------------------------------------------------------|
//! | [`agent`]      | the Auth Agent's interface: events in, actions out                         |
//! | [`everything`] | the agent for friendly settings: grants what is asked for                  |
//! | [`source_based`] | the agent that lets known principals' signed flows in, by a policy       |
//! | [`policy`]     | the policy file: who may do what                                           |
//! | [`access`]     | who may use the control protocol, and for what                             |
//! | [`keys`]       | signing and public keys, a node's identity                                 |
//! | [`channel`]    | the control channel: Noise over a byte stream, then a principal's login    |
//! | [`link`]       | protected links: Noise over frames, between neighbors                      |
//!
//! Nothing here touches a clock, a socket or a random source of its own: time and bytes are arguments,
//! and random bytes come from whoever implements [`Entropy`]. What all this protects against, and what
//! it does not, is in `docs/security.md`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

use core::fmt;

use zeroize::Zeroizing;

pub mod access;
pub mod agent;
pub mod channel;
pub mod everything;
pub mod keys;
pub mod link;
pub mod policy;
pub mod source_based;

/// A source of random bytes that is fit for keys; a platform's own, or a test's.
///
/// Every `Fn(&mut [u8]) -> Result<(), NoEntropy>` is one.
pub trait Entropy {
    /// Fills `out`, or says that the source is not healthy.
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy>;
}

impl<F: Fn(&mut [u8]) -> Result<(), NoEntropy>> Entropy for F {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        self(out)
    }
}

/// There is no healthy source of random bytes: no key is made and no hand is shaken (D7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoEntropy;

impl fmt::Display for NoEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no healthy source of random bytes")
    }
}

impl core::error::Error for NoEntropy {}

/// The bytes of one secret key.
type Secret = Zeroizing<[u8; 32]>;

/// Draws a secret. A source that repeats one byte is broken, whatever it says of itself.
fn draw(entropy: &dyn Entropy) -> Result<Secret, NoEntropy> {
    let mut secret = Secret::default();
    entropy.fill(&mut secret[..])?;
    if secret.iter().all(|b| *b == secret[0]) { Err(NoEntropy) } else { Ok(secret) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_or_failing_source_gives_no_secret() {
        assert_eq!(draw(&|_: &mut [u8]| Err(NoEntropy)), Err(NoEntropy));
        assert_eq!(draw(&|_: &mut [u8]| Ok(())), Err(NoEntropy));
        let stuck = |out: &mut [u8]| {
            out.fill(0xa5);
            Ok(())
        };
        assert_eq!(draw(&stuck), Err(NoEntropy));
        let counting = |out: &mut [u8]| {
            out.iter_mut().zip(1..).for_each(|(b, i)| *b = i);
            Ok(())
        };
        assert_eq!(draw(&counting).unwrap()[31], 32);
    }
}
