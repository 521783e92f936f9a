//! Cryptography by the node, with keys of the protocol's own. Digests are in [`node`](crate::node).

use crate::error::{Error, check, done};
use crate::sys;

/// Bytes that [`seal`] adds.
pub const TAG: usize = 16;

/// How a signature is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheme {
    /// Ed25519, a key of 32 bytes.
    Ed25519 = 0,
    /// RSA-PSS with SHA-256.
    RsaPssSha256 = 1,
}

/// HMAC with SHA-256.
pub fn hmac_sha256(key: &[u8], bytes: &[u8]) -> Result<[u8; 32], Error> {
    let mut mac = [0; 32];
    done(sys::hmac_sha256(key, bytes, &mut mac))?;
    Ok(mac)
}

/// Whether `signature` is the key's over `bytes`; [`Error::WrongProof`] if not.
pub fn verify(scheme: Scheme, key: &[u8], bytes: &[u8], signature: &[u8]) -> Result<(), Error> {
    done(sys::signature_check(scheme as i32, key, bytes, signature))
}

/// Encrypts the front of `buffer` with ChaCha20-Poly1305; its last [`TAG`] bytes become the tag. What is
/// `beside` (at most 256 bytes) is authenticated only. A key never takes the same nonce twice.
pub fn seal(key: &[u8; 32], nonce: &[u8; 12], beside: &[u8], buffer: &mut [u8]) -> Result<(), Error> {
    done(sys::aead_seal(&both(key, nonce), beside, buffer))
}

/// Turns that back; gives the text. What was not sealed so is [`Error::WrongProof`] and wiped.
pub fn open<'a>(
    key: &[u8; 32],
    nonce: &[u8; 12],
    beside: &[u8],
    buffer: &'a mut [u8],
) -> Result<&'a mut [u8], Error> {
    let n = check(sys::aead_open(&both(key, nonce), beside, buffer))? as usize;
    buffer.get_mut(..n).ok_or(Error::Unavailable)
}

fn both(key: &[u8; 32], nonce: &[u8; 12]) -> [u8; 44] {
    let mut both = [0; 44];
    both[..32].copy_from_slice(key);
    both[32..].copy_from_slice(nonce);
    both
}
