//! Ed25519 keys (RFC 8032); as text 64 hex digits.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use wire::tuple::Scheme;
use zeroize::Zeroizing;

use super::{KeyError, SignatureError, Signer};
use crate::{Entropy, NoEntropy, draw};

/// An Ed25519 key that can sign. Wiped from memory when dropped; its `Debug` form shows no secret.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes a new key.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, NoEntropy> {
        Ok(Self::from_seed(&*draw(entropy)?))
    }

    /// The key that this seed stands for.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// The key whose seed this is in hex.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Ok(Self::from_seed(&Zeroizing::new(unhex(text)?)))
    }

    /// The secret seed.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The secret seed in hex.
    pub fn to_hex(&self) -> Zeroizing<String> {
        let seed = self.to_seed();
        let mut text = Zeroizing::new(String::with_capacity(64));
        hex(&seed, &mut *text).expect("a string takes every character");
        text
    }

    /// The key by which others check the signatures.
    pub fn public(&self) -> Ed25519Key {
        Ed25519Key(self.0.verifying_key().to_bytes())
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.public())
    }
}

impl Signer for SigningKey {
    fn scheme(&self) -> Scheme {
        Scheme::Ed25519
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NoEntropy> {
        Ok(Self::sign(self, message).into())
    }
}

/// An Ed25519 public key: a valid point, and not one under which signatures prove nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ed25519Key([u8; 32]);

impl Ed25519Key {
    /// Reads a key.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, KeyError> {
        match VerifyingKey::from_bytes(bytes) {
            Ok(key) if !key.is_weak() => Ok(Self(*bytes)),
            _ => Err(KeyError::NotAKey),
        }
    }

    /// The key's bytes.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Checks a signature, by the strict rules (RFC 8032 section 5.1.7, without the cofactor).
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let check =
            || VerifyingKey::from_bytes(&self.0)?.verify_strict(message, &Signature::from_slice(signature)?);
        check().map_err(|_| SignatureError::Wrong)
    }
}

impl FromStr for Ed25519Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&unhex(text)?)
    }
}

impl fmt::Display for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ed25519Key({self})")
    }
}

fn hex(bytes: &[u8; 32], out: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(out, "{b:02x}"))
}

fn unhex(text: &str) -> Result<[u8; 32], KeyError> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return Err(KeyError::NotHex);
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(KeyError::NotHex);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PublicKey;
    use alloc::string::ToString as _;
    use std::format;

    /// RFC 8032 section 7.1, test 2.
    const SEED: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

    #[test]
    fn signs_as_the_rfc_says() {
        let key = SigningKey::from_hex(SEED).unwrap();
        assert_eq!(key.public().to_string(), PUBLIC);
        assert_eq!(*key.to_hex(), SEED);
        let signature = key.sign(&[0x72]);
        let text: String = signature.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(text, SIGNATURE);
        assert!(!format!("{key:?}").contains(&SEED[..8]));
        let public = PublicKey::from(PUBLIC.parse::<Ed25519Key>().unwrap());
        assert_eq!(public.verify(Scheme::Ed25519, &[0x72], &signature), Ok(()));
        assert_eq!(public.verify(Scheme::Ed25519, &[0x73], &signature), Err(SignatureError::Wrong));
        assert_eq!(public.verify(Scheme::Ed25519, &[0x72], &signature[..63]), Err(SignatureError::Wrong));
        let rsa = Scheme::RsaPssSha256;
        assert_eq!(public.verify(rsa, &[0x72], &signature), Err(SignatureError::Scheme(rsa)));
    }

    #[test]
    fn a_flipped_bit_anywhere_ruins_a_signature() {
        let key = SigningKey::from_seed(&[7; 32]);
        let good = key.sign(b"m");
        for bit in 0..512 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(key.public().verify(b"m", &bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", "0", &PUBLIC[1..], &format!("{PUBLIC}0"), &PUBLIC.replace('3', "g"), &"é".repeat(32)]
        {
            assert_eq!(text.parse::<Ed25519Key>(), Err(KeyError::NotHex), "{text}");
            assert!(SigningKey::from_hex(text).is_err());
        }
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        assert_eq!(Ed25519Key::from_bytes(&identity_point), Err(KeyError::NotAKey));
        assert_eq!(Ed25519Key::from_bytes(&[0; 32]), Err(KeyError::NotAKey), "a point of order 4");
    }
}
