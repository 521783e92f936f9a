//! What can be wrong with a key or a signature.

use core::fmt;

use wire::control::Erred;
use wire::tuple::Scheme;

use super::{MAX_KEY_TEXT, RSA_BITS};

/// Something is no key, or none that may be used. Whoever configured it erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// Not 64 hex digits.
    NotHex,
    /// No public key, or one under which signatures prove nothing.
    NotAKey,
    /// More text than any key has.
    TooLong,
    /// Not a SubjectPublicKeyInfo in PEM.
    Pem,
    /// A private key where a public one belongs.
    Secret,
    /// Neither an Ed25519 nor an RSA key.
    Algorithm,
    /// An RSA key that is too easily broken.
    TooWeak {
        /// Size of its modulus.
        bits: u32,
    },
    /// An RSA key that takes too long to check with.
    TooLarge {
        /// Size of its modulus.
        bits: u32,
    },
    /// The public exponent of an RSA key is even, below 65537 or above 2^33.
    Exponent,
}

impl KeyError {
    /// Who is to blame.
    pub fn erred(&self) -> Erred {
        Erred::Operator
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        match self {
            Self::NotHex => f.write_str("a key is 64 hex digits (Ed25519), or PEM (RSA, Ed25519)"),
            Self::NotAKey => {
                f.write_str("this is no public key, or one under which signatures prove nothing")
            }
            Self::TooLong => write!(f, "a key is at most {MAX_KEY_TEXT} bytes of text"),
            Self::Pem => f.write_str("this is no public key in PEM (\"BEGIN PUBLIC KEY\")"),
            Self::Secret => f.write_str("this is a private key; only the public part belongs here"),
            Self::Algorithm => f.write_str("the key is neither an RSA nor an Ed25519 key"),
            Self::TooWeak { bits } => write!(f, "RSA key of {bits} bits is too weak; {least} are the least"),
            Self::TooLarge { bits } => write!(f, "RSA key of {bits} bits is too large; {most} are the most"),
            Self::Exponent => f.write_str("the RSA key's public exponent is even, below 65537 or above 2^33"),
        }
    }
}

impl core::error::Error for KeyError {}

/// A signature does not prove what it should. Whoever signed erred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureError {
    /// The key is not of this scheme.
    Scheme(Scheme),
    /// Not this key's signature over the message.
    Wrong,
}

impl SignatureError {
    /// Who is to blame.
    pub fn erred(&self) -> Erred {
        Erred::Principal
    }
}

impl fmt::Display for SignatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme(scheme) => write!(f, "signed with {scheme:?}, which is not the key's scheme"),
            Self::Wrong => f.write_str("the signature is wrong"),
        }
    }
}

impl core::error::Error for SignatureError {}
