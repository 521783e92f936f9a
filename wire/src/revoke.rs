//! A signed revocation of a flow: "this flow may not run any more", as the Auth Agents of neighbors tell it
//! each other (seed 004, section IV; D11), and as a client hands it to a node.
//!
//! Who may revoke is the policy of the agent that hears it: the agent `source-based` listens to its
//! policy's revokers, and to the principal that signed the flow. A revocation names until when it is to be
//! remembered, so that nobody has to remember it for ever.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::id::TupleHash;
use crate::tuple::{MAX_NAME, MAX_SIGNATURE, Scheme};

/// What a revocation's signature covers in front of what it says.
pub const REVOKE_CONTEXT: &[u8] = b"bees revoke 1";
/// The longest revocation, in bytes.
pub const MAX_LEN: usize = 32 + 10 + 2 + MAX_NAME + 1 + 2 + MAX_SIGNATURE;

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The flow that may not run any more.
    pub flow: TupleHash,
    /// Until when that holds: seconds since 1970 (UTC).
    pub until: u64,
    /// The principal that signs, which must be the flow's; `None`: a revoker of the policy.
    pub by: Option<String>,
    /// How the signature is made.
    pub scheme: Scheme,
    /// The signature over [`Revocation::statement`].
    pub signature: Vec<u8>,
}

/// These bytes are no revocation. Whoever made them erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is no revocation")
    }
}

impl core::error::Error for Malformed {}

impl Revocation {
    /// What the signature of such a revocation covers.
    pub fn statement(flow: &TupleHash, until: u64, by: Option<&str>) -> Vec<u8> {
        [REVOKE_CONTEXT, &crate::system::encode(&(flow, until, by))].concat()
    }

    /// What this revocation's signature covers.
    pub fn signed(&self) -> Vec<u8> {
        Self::statement(&self.flow, self.until, self.by.as_deref())
    }

    /// The revocation's bytes.
    pub fn encode(&self) -> Vec<u8> {
        crate::system::encode(self)
    }

    /// Reads a revocation.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_LEN {
            return Err(Malformed);
        }
        let revocation: Self = crate::system::decode(bytes).ok_or(Malformed)?;
        let name = |n: &String| (1..=MAX_NAME).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_graphic());
        let fits = revocation.signature.len() <= MAX_SIGNATURE && revocation.by.as_ref().is_none_or(name);
        if fits { Ok(revocation) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn longest() -> Revocation {
        Revocation {
            flow: TupleHash([7; 32]),
            until: u64::MAX,
            by: Some("x".repeat(MAX_NAME)),
            scheme: Scheme::RsaPssSha256,
            signature: vec![1; MAX_SIGNATURE],
        }
    }

    #[test]
    fn the_longest_fits_and_the_next_does_not() {
        let r = longest();
        assert_eq!(Revocation::decode(&r.encode()), Ok(r.clone()));
        assert!(r.encode().len() <= MAX_LEN);
        for bad in [
            Revocation { signature: vec![0; MAX_SIGNATURE + 1], ..r.clone() },
            Revocation { by: Some("x".repeat(MAX_NAME + 1)), ..r.clone() },
            Revocation { by: Some("a\nb".into()), ..r.clone() },
            Revocation { by: Some(String::new()), ..r },
        ] {
            assert_eq!(Revocation::decode(&bad.encode()), Err(Malformed));
        }
    }

    #[test]
    fn every_word_is_signed() {
        let r = longest();
        for other in [
            Revocation { flow: TupleHash([8; 32]), ..r.clone() },
            Revocation { until: 1, ..r.clone() },
            Revocation { by: None, ..r.clone() },
        ] {
            assert_ne!(other.signed(), r.signed());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            if let Ok(r) = Revocation::decode(&bytes) {
                prop_assert_eq!(Revocation::decode(&r.encode()), Ok(r));
            }
        }
    }
}
