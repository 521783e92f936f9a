//! RSA public keys: checking of RSA-PSS signatures with SHA-256 (RFC 8017 section 8.1), a salt of 32 bytes.
//!
//! Only public operations, so that no secret's timing can leak (RUSTSEC-2023-0071 is about private keys).
//! The bounds on modulus and exponent bound what one check costs.

use alloc::boxed::Box;
use core::fmt;
use core::ops::RangeInclusive;

use pkcs1::der::{Decode, Encode, asn1::UintRef};
use rsa::pss::{Signature, VerifyingKey};
use rsa::signature::Verifier;
use rsa::traits::PublicKeyParts;
use rsa::{BoxedUint, RsaPublicKey};
use sha2::Sha256;

use super::{KeyError, SignatureError};

/// Sizes of an RSA modulus, in bits, that are neither too weak nor too slow.
pub const RSA_BITS: RangeInclusive<u32> = 2048..=4096;
/// Public exponents: the usual one is the least that no padding mistake makes weak; more bits cost time.
const EXPONENTS: RangeInclusive<u64> = 65_537..=(1 << 33) - 1;

/// An RSA public key of a size in [`RSA_BITS`].
#[derive(Clone, PartialEq)]
pub struct RsaKey(VerifyingKey<Sha256>);

impl Eq for RsaKey {}

impl RsaKey {
    /// A key from modulus and public exponent, both big-endian.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let modulus = trim(modulus);
        let bits = bits_of(modulus);
        if bits < *RSA_BITS.start() {
            return Err(KeyError::TooWeak { bits });
        }
        if bits > *RSA_BITS.end() {
            return Err(KeyError::TooLarge { bits });
        }
        let exponent = trim(exponent);
        if exponent.len() > size_of::<u64>() {
            return Err(KeyError::Exponent);
        }
        let exponent = exponent.iter().fold(0, |e: u64, b| e << 8 | u64::from(*b));
        if exponent % 2 == 0 || !EXPONENTS.contains(&exponent) {
            return Err(KeyError::Exponent);
        }
        let storage = 8 * modulus.len() as u32;
        let modulus = BoxedUint::from_be_slice(modulus, storage).map_err(|_| KeyError::NotAKey)?;
        let sizes = *RSA_BITS.start() as usize..=*RSA_BITS.end() as usize;
        let key = RsaPublicKey::new_with_size_limits(modulus, BoxedUint::from(exponent), sizes);
        Ok(Self(VerifyingKey::new(key.map_err(|_| KeyError::NotAKey)?)))
    }

    /// A key from an RSAPublicKey in DER (RFC 8017 appendix A.1.1).
    pub fn from_pkcs1(der: &[u8]) -> Result<Self, KeyError> {
        let key = pkcs1::RsaPublicKeyRef::from_der(der).map_err(|_| KeyError::NotAKey)?;
        Self::new(key.modulus.as_bytes(), key.public_exponent.as_bytes())
    }

    /// The key as an RSAPublicKey in DER.
    pub fn to_pkcs1(&self) -> Box<[u8]> {
        let (modulus, exponent) = (self.key().n_bytes(), self.key().e_bytes());
        let encode = || {
            let modulus = UintRef::new(&modulus)?;
            let public_exponent = UintRef::new(&exponent)?;
            pkcs1::RsaPublicKeyRef { modulus, public_exponent }.to_der()
        };
        encode().expect("two numbers of bounded size can always be encoded").into()
    }

    /// Size of the modulus in bits.
    pub fn bits(&self) -> u32 {
        bits_of(&self.key().n_bytes())
    }

    /// Checks a signature.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        let check = || self.0.verify(message, &Signature::try_from(signature)?);
        check().map_err(|_| SignatureError::Wrong)
    }

    fn key(&self) -> &RsaPublicKey {
        self.0.as_ref()
    }
}

impl fmt::Debug for RsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaKey({} bits)", self.bits())
    }
}

/// A big-endian number without leading zeros.
fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

fn bits_of(trimmed: &[u8]) -> u32 {
    trimmed.first().map_or(0, |first| 8 * trimmed.len() as u32 - first.leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::PublicKey;
    use crate::keys::public::tests::{RSA_2048, SIGNED, SIGNED_BY_2048};
    use alloc::vec;
    use proptest::prelude::*;

    fn key() -> RsaKey {
        match PublicKey::from_text(RSA_2048).unwrap() {
            PublicKey::Rsa(key) => key,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_signature_of_openssl_is_right_and_no_other() {
        let key = key();
        assert_eq!(key.verify(SIGNED, SIGNED_BY_2048), Ok(()));
        assert_eq!(key.verify(b"other", SIGNED_BY_2048), Err(SignatureError::Wrong));
        for bit in (0..8 * SIGNED_BY_2048.len()).step_by(37) {
            let mut bad = SIGNED_BY_2048.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(SIGNED, &bad), Err(SignatureError::Wrong), "bit {bit}");
        }
        for length in [0, 1, 255, 257, 512, 5000] {
            let mut bad = SIGNED_BY_2048.to_vec();
            bad.resize(length, 0);
            assert_eq!(key.verify(SIGNED, &bad), Err(SignatureError::Wrong), "{length} bytes");
        }
        // A zero in front, and the modulus itself and what is above it, are other forms of the same number.
        let modulus = key.key().n_bytes();
        for bad in [&[&[0], SIGNED_BY_2048].concat()[..], &modulus, &[0xff; 256], &[0; 256]] {
            assert_eq!(key.verify(SIGNED, bad), Err(SignatureError::Wrong));
        }
    }

    #[test]
    fn sizes_and_exponents_have_bounds() {
        let modulus = |bits: u32| {
            let mut n = vec![0xff; bits.div_ceil(8) as usize];
            n[0] >>= (8 - bits % 8) % 8;
            n
        };
        let e = [1, 0, 1];
        for bits in [2048, 2049, 3000, 3072, 4095, 4096] {
            assert_eq!(RsaKey::new(&modulus(bits), &e).unwrap().bits(), bits);
        }
        for bits in [1, 512, 1024, 2047] {
            assert_eq!(RsaKey::new(&modulus(bits), &e), Err(KeyError::TooWeak { bits }));
        }
        assert_eq!(RsaKey::new(&[], &e), Err(KeyError::TooWeak { bits: 0 }));
        for bits in [4097, 8192, 16_384] {
            assert_eq!(RsaKey::new(&modulus(bits), &e), Err(KeyError::TooLarge { bits }));
        }
        for e in [&[][..], &[0], &[1], &[3], &[17], &[1, 0, 0], &[1, 0, 2], &[2, 0, 0, 0, 1], &[0xff; 9]] {
            assert_eq!(RsaKey::new(&modulus(2048), e), Err(KeyError::Exponent), "{e:?}");
        }
        let mut even = modulus(2048);
        even[255] = 0xfe;
        assert_eq!(RsaKey::new(&even, &e), Err(KeyError::NotAKey));
        let padded = [&[0, 0], &modulus(2048)[..]].concat();
        assert_eq!(RsaKey::new(&padded, &[0, 1, 0, 1]), RsaKey::new(&modulus(2048), &e));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// A hostile key with a hostile signature: an answer, never a panic.
        #[test]
        fn any_key_checks_any_signature(
            modulus in proptest::collection::vec(any::<u8>(), 256..513), e in any::<[u8; 4]>(),
            signature in proptest::collection::vec(any::<u8>(), 0..600), fit in any::<bool>(),
        ) {
            if let Ok(key) = RsaKey::new(&modulus, &e) {
                let mut signature = signature;
                if fit { signature.resize(key.bits().div_ceil(8) as usize, 0) }
                prop_assert!(key.verify(b"m", &signature).is_err());
                prop_assert_eq!(RsaKey::from_pkcs1(&key.to_pkcs1()), Ok(key));
            }
        }
    }
}
