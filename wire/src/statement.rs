//! What keys sign beside tuples, logins and certificates: bytes for a guest, and the proof that opens a
//! sealed envelope.
//!
//! Every signature covers a context first and no context is the beginning of another (a tuple's body
//! begins with its format number, which is no letter), so none can be passed off as another.

use alloc::vec::Vec;

use crate::id::TupleHash;
use crate::tuple::{MAX_SIGNATURE, Scheme};

/// What a node's signature for a guest covers first.
pub const GUEST_CONTEXT: &[u8] = b"bees guest 1";
/// What a proof for an envelope covers first.
pub const ENVELOPE_CONTEXT: &[u8] = b"bees envelope 1";
/// The most bytes that a guest may have signed; of what is longer it signs a hash.
pub const MAX_GUEST: usize = 1024;
/// The longest [`Proof`], in bytes.
pub const MAX_PROOF: usize = 9 + MAX_SIGNATURE;

/// Names an envelope: 16 bytes that nobody guesses.
pub type EnvelopeId = [u8; 16];

/// What a node signs with its own key for a guest of the flow `flow` (seed 004, section II.B: the hash
/// of the tuple comes first, which binds the signature to the flow).
pub fn guest(flow: &TupleHash, bytes: &[u8]) -> Vec<u8> {
    [GUEST_CONTEXT, &flow.0, bytes].concat()
}

/// What opens one envelope, on one node, for one flow, until it expires; once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Until when it is good: seconds since 1970.
    pub expiry: u64,
    /// How it is signed.
    pub scheme: Scheme,
    /// The signature over [`Proof::statement`].
    pub signature: Vec<u8>,
}

impl Proof {
    /// What the holder of the envelope's key signs.
    pub fn statement(node: &[u8; 32], envelope: &EnvelopeId, flow: &TupleHash, expiry: u64) -> Vec<u8> {
        [ENVELOPE_CONTEXT, node, envelope, &flow.0, &expiry.to_le_bytes()].concat()
    }

    /// The bytes that a guest shows: expiry (8, little endian), scheme (1), signature.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.expiry.to_le_bytes().to_vec();
        bytes.push(self.scheme.number());
        bytes.extend(&self.signature);
        bytes
    }

    /// Reads what a guest shows; `None` where it is no proof.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (expiry, rest) = bytes.split_first_chunk::<8>()?;
        let (&scheme, signature) = rest.split_first()?;
        if signature.is_empty() || signature.len() > MAX_SIGNATURE {
            return None;
        }
        let (expiry, scheme) = (u64::from_le_bytes(*expiry), Scheme::of(scheme)?);
        Some(Self { expiry, scheme, signature: signature.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::LOGIN_CONTEXT;
    use proptest::prelude::*;

    #[test]
    fn no_context_begins_another() {
        let all = [GUEST_CONTEXT, ENVELOPE_CONTEXT, LOGIN_CONTEXT, b"bees node 1"];
        for (at, a) in all.iter().enumerate() {
            assert!(all.iter().enumerate().all(|(other, b)| at == other || !b.starts_with(a)));
        }
    }

    #[test]
    fn statements_differ_in_every_word() {
        let flow = TupleHash([3; 32]);
        let base = Proof::statement(&[1; 32], &[2; 16], &flow, 4);
        assert_ne!(base, Proof::statement(&[9; 32], &[2; 16], &flow, 4));
        assert_ne!(base, Proof::statement(&[1; 32], &[9; 16], &flow, 4));
        assert_ne!(base, Proof::statement(&[1; 32], &[2; 16], &TupleHash([9; 32]), 4));
        assert_ne!(base, Proof::statement(&[1; 32], &[2; 16], &flow, 9));
    }

    proptest! {
        #[test]
        fn anything_is_a_proof_in_one_way_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(proof) = Proof::decode(&bytes) {
                prop_assert_eq!(proof.encode(), bytes);
            }
        }

        #[test]
        fn what_is_written_is_read(expiry: u64, rsa: bool, signature in proptest::collection::vec(any::<u8>(), 1..=MAX_SIGNATURE)) {
            let scheme = if rsa { Scheme::RsaPssSha256 } else { Scheme::Ed25519 };
            let proof = Proof { expiry, scheme, signature };
            prop_assert_eq!(Proof::decode(&proof.encode()), Some(proof));
        }
    }
}
