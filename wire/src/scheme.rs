//! How signatures are made: of tuples, revocations, logins and proofs.

use serde::{Deserialize, Serialize};

/// Signature schemes (D7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// RSA-PSS with SHA-256 (RFC 8017).
    RsaPssSha256,
}

impl Scheme {
    /// The scheme of this number, as guests and proofs write it.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Ed25519),
            1 => Some(Self::RsaPssSha256),
            _ => None,
        }
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Ed25519 => 0,
            Self::RsaPssSha256 => 1,
        }
    }
}
