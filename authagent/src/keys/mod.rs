//! Keys: who signs, who checks, and what a node is known by.
//!
//! | module       | what it holds                                                              |
//! |--------------|----------------------------------------------------------------------------|
//! | `public`     | [`PublicKey`]: a principal's, of either kind; its text and its fingerprint   |
//! | `ed25519`    | [`SigningKey`], [`Ed25519Key`] (RFC 8032)                                    |
//! | `rsa`        | [`RsaKey`]: RSA-PSS with SHA-256 (RFC 8017), checking only                   |
//! | `identity`   | [`NodeIdentity`]: an Ed25519 key that certifies the key of its handshakes    |
//! | `error`      | [`KeyError`], [`SignatureError`]                                             |
//!
//! A node's identity is an Ed25519 key; it certifies the X25519 key of the node's Noise handshakes, which
//! the node makes anew at every start and which never leaves its memory. Nodes hold no RSA key:
//! principals' RSA signatures are made outside, behind [`Signer`], and only checked here.
//!
//! Every signature covers a context first, and no context is the beginning of another:
//! [`CERTIFICATE_CONTEXT`], [`wire::control::LOGIN_CONTEXT`]; a tuple's body begins with its format
//! number, which is no letter. So none can be passed off as another.

mod ed25519;
mod error;
mod identity;
mod public;
mod rsa;

use alloc::vec::Vec;

use wire::tuple::Scheme;

pub use ed25519::{Ed25519Key, SigningKey};
pub use error::{KeyError, SignatureError};
pub use identity::{CERTIFICATE_CONTEXT, CERTIFICATE_LEN, NodeIdentity};
pub use public::{Fingerprint, MAX_KEY_TEXT, PublicKey};
pub use rsa::{RSA_BITS, RsaKey};

pub(crate) use identity::certified_by;

use crate::NoEntropy;

/// Whoever can sign for a principal: a key at hand, an agent program, a smart card.
pub trait Signer: Send {
    /// How the signatures are made.
    fn scheme(&self) -> Scheme;
    /// Signs. A signature is at most [`wire::tuple::MAX_SIGNATURE`] bytes long. Fails only where a
    /// signature needs random bytes and there are none.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NoEntropy>;
}
