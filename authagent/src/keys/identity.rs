//! A node's identity: what it is known by, and the key of its handshakes.

use alloc::vec::Vec;
use core::fmt;

use curve25519_dalek::MontgomeryPoint;

use super::{Ed25519Key, SigningKey};
use crate::{Entropy, NoEntropy, Secret, draw};

/// What a node's signature covers in front of its X25519 key.
pub const CERTIFICATE_CONTEXT: &[u8] = b"bees node 1";
/// Length of a certificate in bytes: the identity's public key, then its signature.
pub const CERTIFICATE_LEN: usize = 32 + 64;

/// What a node is known by, and the key of its handshakes.
pub struct NodeIdentity {
    key: SigningKey,
    handshake: Secret,
    certificate: [u8; CERTIFICATE_LEN],
}

impl NodeIdentity {
    /// Makes a handshake key for this start of the node, and certifies it.
    pub fn new(key: SigningKey, entropy: &dyn Entropy) -> Result<Self, NoEntropy> {
        let handshake = draw(entropy)?;
        let public = MontgomeryPoint::mul_base_clamped(*handshake).to_bytes();
        let mut certificate = [0; CERTIFICATE_LEN];
        let (identity, signature) = certificate.split_at_mut(32);
        identity.copy_from_slice(&key.public().to_bytes());
        signature.copy_from_slice(&key.sign(&certified(&public)));
        Ok(Self { key, handshake, certificate })
    }

    /// The identity's public key.
    pub fn public(&self) -> Ed25519Key {
        self.key.public()
    }

    /// The secret X25519 key of the node's handshakes.
    pub(crate) fn handshake(&self) -> &[u8; 32] {
        &self.handshake
    }

    /// What proves to others that the handshake key is this node's.
    pub(crate) fn certificate(&self) -> &[u8; CERTIFICATE_LEN] {
        &self.certificate
    }
}

impl fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeIdentity({})", self.public())
    }
}

/// The node whose `certificate` this is, if it is one for the X25519 key `handshake`.
pub(crate) fn certified_by(certificate: &[u8], handshake: &[u8]) -> Option<Ed25519Key> {
    let (identity, signature) = certificate.split_first_chunk::<32>()?;
    let identity = Ed25519Key::from_bytes(identity).ok()?;
    identity.verify(&certified(handshake), signature).ok()?;
    Some(identity)
}

fn certified(handshake: &[u8]) -> Vec<u8> {
    [CERTIFICATE_CONTEXT, handshake].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_for_one_key_and_from_one_node() {
        let entropy = |out: &mut [u8]| {
            out.iter_mut().zip(9..).for_each(|(b, i)| *b = i);
            Ok(())
        };
        let node = NodeIdentity::new(SigningKey::from_seed(&[1; 32]), &entropy).unwrap();
        let public = MontgomeryPoint::mul_base_clamped(*node.handshake()).to_bytes();
        assert_eq!(certified_by(node.certificate(), &public), Some(node.public()));
        assert_eq!(certified_by(node.certificate(), &[5; 32]), None);
        for bit in 0..CERTIFICATE_LEN * 8 {
            let mut bad = *node.certificate();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(certified_by(&bad, &public), None, "bit {bit}");
        }
        assert_eq!(certified_by(&node.certificate()[..95], &public), None);
        assert_eq!(certified_by(&[], &public), None);
        assert!(NodeIdentity::new(SigningKey::from_seed(&[1; 32]), &|_: &mut [u8]| Err(NoEntropy)).is_err());
    }
}
