//! Hashes that name things, and the formula that makes capsule identifiers.
//!
//! A flow tuple is named by the SHA-256 of its bytes ([`TupleHash`]), a part (module or data) by the
//! SHA-256 of its ([`PartHash`]). Capsules carry a 16-byte [`CapsuleId`], an MD5 as in the paper (seed
//! 004, section II.C): an identifier must be short and proves nothing. A receiver recomputes it from the
//! tuple before it believes an answer.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// SHA-256 over a flow tuple's bytes as received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TupleHash(pub [u8; 32]);

/// SHA-256 over the bytes of a module or a data part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartHash(pub [u8; 32]);

/// What binds a capsule to the code that processes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CapsuleId(pub [u8; 16]);

/// The place of a protocol in its tuple's tree: the position among its parent's companions at every
/// step from the main protocol, which has the empty path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Path(pub Vec<u8>);

/// SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// MD5 of `bytes`.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

impl TupleHash {
    /// The name of the tuple that has these bytes.
    pub fn of(tuple: &[u8]) -> Self {
        Self(sha256(tuple))
    }

    /// The well-known hash that stands for a system protocol's tuple: SHA-256 of its versioned name,
    /// for instance `bees/IDTranslationProtocol/1` (D12).
    pub fn well_known(name: &str) -> Self {
        Self(sha256(name.as_bytes()))
    }
}

impl PartHash {
    /// The name of the part that has these bytes.
    pub fn of(part: &[u8]) -> Self {
        Self(sha256(part))
    }
}

impl CapsuleId {
    /// The identifier of capsules of type `kind` of the protocol at `path` in the tuple `tuple`,
    /// coupled with the given hashes (seed 004, section V).
    ///
    /// MD5 over: the tuple hash; the path's length (1 byte) and bytes; the type (2 bytes, big endian);
    /// the number of coupled hashes (1 byte) and the hashes, 32 bytes each.
    ///
    /// # Panics
    /// With a path or a list of hashes longer than 255; [`crate::tuple`] bounds both far below.
    pub fn compute(tuple: &TupleHash, path: &Path, kind: u16, coupled: &[[u8; 32]]) -> Self {
        let count = |n: usize| [u8::try_from(n).expect("paths and couplings are short")];
        let mut h = Md5::new();
        h.update(tuple.0);
        h.update(count(path.0.len()));
        h.update(&path.0);
        h.update(kind.to_be_bytes());
        h.update(count(coupled.len()));
        for hash in coupled {
            h.update(hash);
        }
        Self(h.finalize().into())
    }
}

/// The text is not the hexadecimal form of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHash;

impl fmt::Display for NotAHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a hash in hexadecimal digits")
    }
}

impl core::error::Error for NotAHash {}

macro_rules! hex_form {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // `{:.8}` prints the first eight digits: enough for people.
                let digits = f.precision().unwrap_or(usize::MAX);
                let text: String =
                    self.0.iter().flat_map(|b| [b >> 4, b & 15]).map(hex_digit).take(digits).collect();
                f.write_str(&text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = NotAHash;
            fn from_str(s: &str) -> Result<Self, NotAHash> {
                let mut out = Self([0; _]);
                if s.len() != out.0.len() * 2 {
                    return Err(NotAHash);
                }
                for (byte, pair) in out.0.iter_mut().zip(s.as_bytes().chunks(2)) {
                    *byte = unhex(pair[0])? << 4 | unhex(pair[1])?;
                }
                Ok(out)
            }
        }
    };
}

hex_form!(TupleHash);
hex_form!(PartHash);
hex_form!(CapsuleId);

fn hex_digit(nibble: u8) -> char {
    char::from_digit(nibble.into(), 16).unwrap_or('?')
}

fn unhex(c: u8) -> Result<u8, NotAHash> {
    char::from(c).to_digit(16).map(|d| d as u8).ok_or(NotAHash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn every_input_of_the_formula_matters() {
        let (t, p) = (TupleHash::of(b"tuple"), Path(alloc::vec![1]));
        let base = CapsuleId::compute(&t, &p, 0, &[[7; 32]]);
        for other in [
            CapsuleId::compute(&TupleHash::of(b"tuplf"), &p, 0, &[[7; 32]]),
            CapsuleId::compute(&t, &Path(alloc::vec![2]), 0, &[[7; 32]]),
            CapsuleId::compute(&t, &Path(alloc::vec![]), 0, &[[7; 32]]),
            CapsuleId::compute(&t, &p, 1, &[[7; 32]]),
            CapsuleId::compute(&t, &p, 0, &[]),
            CapsuleId::compute(&t, &p, 0, &[[7; 32], [7; 32]]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn hex_round_trip() {
        let h = TupleHash::of(b"x");
        assert_eq!(format!("{h}").parse(), Ok(h));
        assert_eq!(format!("{h:.8}").len(), 8);
        assert_eq!("zz".parse::<CapsuleId>(), Err(NotAHash));
    }

    #[test]
    fn well_known_identifiers_never_change() {
        let id =
            CapsuleId::compute(&TupleHash::well_known(crate::system::TRANSLATION), &Path::default(), 0, &[]);
        assert_eq!(format!("{id}"), "8f638a442bc893e423ace699b1249ad5");
    }
}
