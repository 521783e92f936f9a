//! A principal's public key, as text and as bytes.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use sha2::{Digest, Sha256};
use spki::der::asn1::BitStringRef;
use spki::der::pem::LineEnding;
use spki::der::{Decode, Document, Encode};
use spki::{AlgorithmIdentifierRef, ObjectIdentifier, SubjectPublicKeyInfoRef};
use wire::tuple::Scheme;

use super::{Ed25519Key, KeyError, RsaKey, SignatureError};

/// The longest text of a key, in bytes.
pub const MAX_KEY_TEXT: usize = 2048;

/// Ed25519 in a SubjectPublicKeyInfo (RFC 8410).
const ED25519: AlgorithmIdentifierRef<'static> =
    AlgorithmIdentifierRef { oid: ObjectIdentifier::new_unwrap("1.3.101.112"), parameters: None };
/// What stands in the first line of the PEM form.
const LABEL: &str = "PUBLIC KEY";

/// A principal's public key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublicKey {
    /// For [`Scheme::Ed25519`].
    Ed25519(Ed25519Key),
    /// For [`Scheme::RsaPssSha256`].
    Rsa(RsaKey),
}

impl PublicKey {
    /// Reads a key: 64 hex digits (Ed25519), or a SubjectPublicKeyInfo in PEM (RSA, Ed25519; RFC 7468).
    /// White space around it and around its lines does not count.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_TEXT {
            return Err(KeyError::TooLong);
        }
        let text = text.trim();
        if !text.starts_with("-----") {
            return Ok(text.parse::<Ed25519Key>()?.into());
        }
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let pem = lines.join("\n");
        let (label, document) = Document::from_pem(&pem).map_err(|_| KeyError::Pem)?;
        match label {
            LABEL => Self::from_spki(document.as_bytes()),
            label if label.ends_with("PRIVATE KEY") => Err(KeyError::Secret),
            _ => Err(KeyError::Pem),
        }
    }

    /// Reads a SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7).
    pub fn from_spki(der: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::Pem)?;
        let key = info.subject_public_key.as_bytes().ok_or(KeyError::Pem)?;
        match info.algorithm {
            ED25519 => {
                let bytes = key.try_into().map_err(|_| KeyError::NotAKey)?;
                Ok(Ed25519Key::from_bytes(bytes)?.into())
            }
            algorithm if algorithm == pkcs1::ALGORITHM_ID => Ok(RsaKey::from_pkcs1(key)?.into()),
            _ => Err(KeyError::Algorithm),
        }
    }

    /// The key as text: hex digits for Ed25519, PEM for RSA.
    pub fn to_text(&self) -> String {
        match self {
            Self::Ed25519(key) => key.to_string(),
            Self::Rsa(_) => self.to_pem(),
        }
    }

    /// The key as PEM, which other programs read too; ends with a line break.
    pub fn to_pem(&self) -> String {
        let document = Document::try_from(self.to_spki()).expect("a sequence");
        document.to_pem(LABEL, LineEnding::LF).expect("the label is one")
    }

    /// The key as a SubjectPublicKeyInfo in DER.
    pub fn to_spki(&self) -> Vec<u8> {
        let (algorithm, key) = match self {
            Self::Ed25519(key) => (ED25519, key.to_bytes().to_vec()),
            Self::Rsa(key) => (pkcs1::ALGORITHM_ID, key.to_pkcs1().into_vec()),
        };
        let encode = || {
            let subject_public_key = BitStringRef::from_bytes(&key)?;
            SubjectPublicKeyInfoRef { algorithm, subject_public_key }.to_der()
        };
        encode().expect("a key of bounded size can always be encoded")
    }

    /// A short name that no other key has.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.to_spki()).into())
    }

    /// The kind of key, in a word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ed25519",
            Self::Rsa(_) => "rsa",
        }
    }

    /// The size by which keys of its kind are compared, in bits.
    pub fn bits(&self) -> u32 {
        match self {
            Self::Ed25519(_) => 256,
            Self::Rsa(key) => key.bits(),
        }
    }

    /// The scheme that the key belongs to.
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Ed25519(_) => Scheme::Ed25519,
            Self::Rsa(_) => Scheme::RsaPssSha256,
        }
    }

    /// Checks a signature that claims to be made in this way. Slow; for RSA the larger key takes longer.
    pub fn verify(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
        match (self, scheme) {
            (Self::Ed25519(key), Scheme::Ed25519) => key.verify(message, signature),
            (Self::Rsa(key), Scheme::RsaPssSha256) => key.verify(message, signature),
            _ => Err(SignatureError::Scheme(scheme)),
        }
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_text(text)
    }
}

impl From<Ed25519Key> for PublicKey {
    fn from(key: Ed25519Key) -> Self {
        Self::Ed25519(key)
    }
}

impl From<RsaKey> for PublicKey {
    fn from(key: RsaKey) -> Self {
        Self::Rsa(key)
    }
}

/// The SHA-256 of a key's SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SHA256:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    // Made by openssl.
    pub const RSA_2048: &str = include_str!("testdata/rsa2048.pem");
    const RSA_4096: &str = include_str!("testdata/rsa4096.pem");
    const ED25519: &str = include_str!("testdata/ed25519.pem");
    /// What the private part of [`RSA_2048`] signed.
    pub const SIGNED: &[u8] = b"signed by openssl";
    pub const SIGNED_BY_2048: &[u8] = include_bytes!("testdata/rsa2048.sig");
    const HEX: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

    #[test]
    fn keys_of_openssl_come_back_as_they_were() {
        for (pem, kind, bits) in [(RSA_2048, "rsa", 2048), (RSA_4096, "rsa", 4096), (ED25519, "ed25519", 256)]
        {
            let key = PublicKey::from_text(pem).unwrap();
            assert_eq!((key.kind(), key.bits(), key.to_pem().as_str()), (kind, bits, pem));
            assert_eq!(PublicKey::from_text(&key.to_text()).as_ref(), Ok(&key));
            assert_eq!(PublicKey::from_spki(&key.to_spki()), Ok(key));
        }
        assert_eq!(PublicKey::from_text(ED25519).unwrap().to_text(), HEX);
        // openssl pkey -pubin -outform der | sha256sum
        assert_eq!(
            PublicKey::from_text(HEX).unwrap().fingerprint().to_string(),
            "SHA256:deb2ded39dc26fce0e6085b6fc34bf6b5941913bbfe2ea614113cff9e004c170"
        );
        let fingerprint = PublicKey::from_text(RSA_2048).unwrap().fingerprint().to_string();
        assert_eq!(fingerprint, "SHA256:712d7b47cff7d777e635a68f814dab6533f3ce145206d44d8d8a66239672458f");
    }

    #[test]
    fn indentation_and_foreign_line_ends_do_not_matter() {
        let key = PublicKey::from_text(RSA_2048);
        assert_eq!(PublicKey::from_text(&RSA_2048.replace('\n', "\r\n")), key);
        assert_eq!(PublicKey::from_text(&format!("\n    {}", RSA_2048.replace('\n', "\n    "))), key);
        assert_eq!(PublicKey::from_text(&format!(" {HEX}\n")), PublicKey::from_text(ED25519));
    }

    #[test]
    fn what_is_no_key_says_so() {
        let error = |text: &str| PublicKey::from_text(text).unwrap_err();
        assert_eq!(error(include_str!("testdata/rsa1024.pem")), KeyError::TooWeak { bits: 1024 });
        assert_eq!(error(include_str!("testdata/p256.pem")), KeyError::Algorithm);
        assert_eq!(error(&RSA_2048.replace("PUBLIC", "PRIVATE")), KeyError::Secret);
        assert_eq!(error(&RSA_2048.replace("PUBLIC KEY", "CERTIFICATE")), KeyError::Pem);
        assert_eq!(error(&RSA_2048.replace("END", "ENDE")), KeyError::Pem);
        assert_eq!(error(&ED25519.replace("MCow", "MCox")), KeyError::Pem);
        assert_eq!(error(""), KeyError::NotHex);
        assert_eq!(error("-----"), KeyError::Pem);
        assert_eq!(error(&"x".repeat(MAX_KEY_TEXT + 1)), KeyError::TooLong);
        // The neutral point, under which anyone could sign.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let weak = SubjectPublicKeyInfoRef {
            algorithm: super::ED25519,
            subject_public_key: BitStringRef::from_bytes(&neutral).unwrap(),
        };
        assert_eq!(PublicKey::from_spki(&weak.to_der().unwrap()), Err(KeyError::NotAKey));
        let short = SubjectPublicKeyInfoRef {
            algorithm: super::ED25519,
            subject_public_key: BitStringRef::from_bytes(&[9; 31]).unwrap(),
        };
        assert_eq!(PublicKey::from_spki(&short.to_der().unwrap()), Err(KeyError::NotAKey));
    }

    #[test]
    fn a_key_is_of_one_scheme() {
        let rsa = PublicKey::from_text(RSA_2048).unwrap();
        assert_eq!(rsa.verify(Scheme::RsaPssSha256, SIGNED, SIGNED_BY_2048), Ok(()));
        let wrong = Err(SignatureError::Scheme(Scheme::Ed25519));
        assert_eq!(rsa.verify(Scheme::Ed25519, SIGNED, SIGNED_BY_2048), wrong);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", pem in any::<bool>()) {
            let text = if pem { format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----") } else { text };
            let _ = PublicKey::from_text(&text);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(PublicKey::from_spki(&bytes).is_err());
        }

        /// A damaged key is refused, or is another key in its one encoding.
        #[test]
        fn a_key_has_one_encoding(rsa in any::<bool>(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut der = PublicKey::from_text(if rsa { RSA_2048 } else { ED25519 }).unwrap().to_spki();
            let at = at.index(der.len());
            der[at] = with;
            if let Ok(key) = PublicKey::from_spki(&der) {
                prop_assert_eq!(key.to_spki(), der);
            }
        }
    }
}
