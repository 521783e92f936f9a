//! Principals' private keys: made, kept in files, and used to sign.
//!
//! A key's file is PKCS#8 in PEM, what `openssl pkey` reads and writes, for its owner only; a line
//! `principal: NAME` in front of it, which other programs skip, says whose it is. The administrator's
//! key of a lab is 64 hex digits. RSA signatures are made here and nowhere else: a node only checks
//! them, so that the known weakness of private operations (RUSTSEC-2023-0071, timing seen over a network)
//! would need someone who watches this process sign; the library blinds every operation besides.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use authagent::NoEntropy;
use authagent::keys::{PublicKey, RSA_BITS, RsaKey, Signer, SigningKey};
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::der::pem::LineEnding;
use pkcs8::der::{Decode, Encode};
use pkcs8::{AlgorithmIdentifierRef, EncodePrivateKey, ObjectIdentifier, PrivateKeyInfoRef, SecretDocument};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use rsa::RsaPrivateKey;
use rsa::pss;
use rsa::sha2::Sha256;
use rsa::signature::{RandomizedSigner, SignatureEncoding};
use rsa::traits::PublicKeyParts;
use wire::tuple::{MAX_NAME, Scheme};
use zeroize::Zeroizing;

use crate::exit::{Code, failure};
use crate::files;
use crate::output::progress;
use crate::remote::entropy;

/// Ed25519 in PKCS#8 (RFC 8410).
const ED25519: AlgorithmIdentifierRef<'static> =
    AlgorithmIdentifierRef { oid: ObjectIdentifier::new_unwrap("1.3.101.112"), parameters: None };
/// What stands in the first line of the PEM form.
const LABEL: &str = "PRIVATE KEY";
/// What begins the line in front of a key that says whose it is.
const PRINCIPAL: &str = "principal: ";
/// More than any key's file has, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// Kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Short and fast
    Ed25519,
    /// For those who have to
    Rsa,
}

/// A private key. Wiped from memory when dropped; its `Debug` form shows no secret.
#[derive(Clone)]
pub enum PrivateKey {
    /// For [`Scheme::Ed25519`].
    Ed25519(Box<SigningKey>),
    /// For [`Scheme::RsaPssSha256`].
    Rsa(Box<pss::SigningKey<Sha256>>),
}

/// What a key's file holds.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// The key.
    pub key: PrivateKey,
    /// Whose it is, if the file says so.
    pub principal: Option<String>,
}

impl PrivateKey {
    /// Makes a key; `bits` is the size of an RSA key.
    pub fn generate(kind: Kind, bits: u32) -> Result<Self> {
        match kind {
            Kind::Ed25519 => Ok(SigningKey::generate(&entropy)?.into()),
            Kind::Rsa if !RSA_BITS.contains(&bits) => {
                let text =
                    format!("an RSA key has {} to {} bits, not {bits}", RSA_BITS.start(), RSA_BITS.end());
                Err(failure(Code::Usage, text))
            }
            Kind::Rsa => Ok(RsaPrivateKey::new(&mut random()?, bits as usize)?.into()),
        }
    }

    /// Reads a key: PKCS#8 in PEM, or the 64 hex digits of an Ed25519 key's seed.
    pub fn from_text(text: &str) -> Result<Self> {
        let text = text.trim();
        if !text.starts_with("-----") {
            return Ok(SigningKey::from_hex(text)?.into());
        }
        let (label, document) =
            SecretDocument::from_pem(text).map_err(|e| anyhow::anyhow!("this is no key in PEM: {e}"))?;
        match label {
            LABEL => Self::from_pkcs8(document.as_bytes()),
            "PUBLIC KEY" => bail!("this is a public key; the private one belongs here"),
            "ENCRYPTED PRIVATE KEY" => {
                bail!("the key is encrypted; `openssl pkey -in FILE -out COPY` makes a copy that is not")
            }
            "OPENSSH PRIVATE KEY" => {
                bail!("the key is in OpenSSH's form; `ssh-keygen -p -m PKCS8 -f COPY` converts a copy of it")
            }
            other => bail!("this is a {other}; `openssl pkey -in FILE -out COPY` makes a PRIVATE KEY of it"),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self> {
        let unreadable = |e: pkcs8::Error| anyhow::anyhow!("the private key cannot be read: {e}");
        let info = PrivateKeyInfoRef::from_der(der).map_err(|e| unreadable(e.into()))?;
        if info.algorithm == ED25519 {
            let seed = <&OctetStringRef>::from_der(info.private_key.as_bytes());
            let seed = seed.ok().and_then(|s| <&[u8; 32]>::try_from(s.as_bytes()).ok());
            return Ok(SigningKey::from_seed(seed.context("this is no Ed25519 key")?).into());
        }
        if info.algorithm.oid != rsa::pkcs1::ALGORITHM_OID {
            bail!("the key is neither an RSA nor an Ed25519 key");
        }
        let key = RsaPrivateKey::try_from(info).map_err(unreadable)?;
        RsaKey::new(&key.n_bytes(), &key.e_bytes())?;
        Ok(key.into())
    }

    /// The key as PKCS#8 in PEM.
    pub fn to_pem(&self) -> Result<Zeroizing<String>> {
        let document = match self {
            Self::Ed25519(key) => {
                let seed = key.to_seed();
                let inner = Zeroizing::new(OctetStringRef::new(&*seed)?.to_der()?);
                SecretDocument::encode_msg(&PrivateKeyInfoRef::new(ED25519, OctetStringRef::new(&inner)?))?
            }
            Self::Rsa(key) => key.as_ref().to_pkcs8_der()?,
        };
        Ok(document.to_pem(LABEL, LineEnding::LF)?)
    }

    /// The key by which others check the signatures.
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Ed25519(key) => key.public().into(),
            Self::Rsa(key) => {
                let key: &RsaPrivateKey = (**key).as_ref();
                let public = RsaKey::new(&key.n_bytes(), &key.e_bytes());
                public.expect("its size was checked when it was made or read").into()
            }
        }
    }
}

impl From<RsaPrivateKey> for PrivateKey {
    fn from(key: RsaPrivateKey) -> Self {
        Self::Rsa(Box::new(key.into()))
    }
}

impl From<SigningKey> for PrivateKey {
    fn from(key: SigningKey) -> Self {
        Self::Ed25519(Box::new(key))
    }
}

impl Signer for PrivateKey {
    fn scheme(&self) -> Scheme {
        match self {
            Self::Ed25519(_) => Scheme::Ed25519,
            Self::Rsa(_) => Scheme::RsaPssSha256,
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, NoEntropy> {
        match self {
            Self::Ed25519(key) => Signer::sign(&**key, message),
            Self::Rsa(key) => {
                let signature = key.try_sign_with_rng(&mut random()?, message);
                // Nothing else can fail with a key that was checked and a hash that is shorter than it.
                Ok(signature.map_err(|_| NoEntropy)?.to_vec())
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public().fingerprint())
    }
}

impl KeyFile {
    /// Reads a key's file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(read_text(path)?);
        let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
        if mode & 0o077 != 0 {
            progress(format!(
                "warning: others may read the key {0}; `chmod 600 {0}` ends that",
                path.display()
            ));
        }
        let (principal, text) = split_comment(&text);
        let key = PrivateKey::from_text(text).with_context(|| path.display().to_string())?;
        Ok(Self { key, principal })
    }

    /// Writes the key's file. One that is there already is replaced only if `force` says so.
    pub fn save(&self, path: &Path, force: bool) -> Result<()> {
        let pem = self.key.to_pem()?;
        let comment = self.principal.as_ref().map(|p| format!("{PRINCIPAL}{p}\n")).unwrap_or_default();
        let text = Zeroizing::new([comment.as_bytes(), pem.as_bytes()].concat());
        if force { files::write_secret(path, &text) } else { files::create_secret(path, &text) }
    }
}

/// Reads a public key: its file, or the file of the private key that it belongs to, which says whose it is.
pub fn load_public(path: &Path) -> Result<(PublicKey, Option<String>)> {
    let text = Zeroizing::new(read_text(path)?);
    let (principal, key) = split_comment(&text);
    let key = match key.contains("PRIVATE KEY-----") {
        true => PrivateKey::from_text(key).map(|k| k.public()),
        false => PublicKey::from_text(key).map_err(Into::into),
    };
    Ok((key.with_context(|| path.display().to_string())?, principal))
}

/// A name that a principal can have.
pub fn check_principal(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(|b| b.is_ascii_graphic()) {
        let text = format!("a principal's name is 1 to {MAX_NAME} visible ASCII characters, not \"{name}\"");
        return Err(failure(Code::Usage, text));
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String> {
    let what = || format!("cannot read {}", path.display());
    let length = fs::metadata(path).map_err(|e| failure(Code::Missing, format!("{}: {e}", what())))?.len();
    if length > MAX_FILE {
        bail!("{} is no key: it has {length} bytes", path.display());
    }
    fs::read_to_string(path).with_context(what)
}

/// Whose key it is, and the rest of the text.
fn split_comment(text: &str) -> (Option<String>, &str) {
    match text.trim_start().strip_prefix(PRINCIPAL).and_then(|rest| rest.split_once('\n')) {
        Some((name, rest)) => (Some(name.trim().to_string()), rest),
        None => (None, text),
    }
}

/// A generator with a seed of the system's, for what needs many random bytes.
fn random() -> Result<ChaCha20Rng, NoEntropy> {
    let mut seed = Zeroizing::new([0; 32]);
    entropy(&mut *seed)?;
    Ok(ChaCha20Rng::from_seed(*seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::Scratch;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    #[test]
    fn keys_come_back_from_their_files_with_their_owner() {
        let scratch = Scratch::new("private-keys");
        for kind in [Kind::Ed25519, Kind::Rsa] {
            let path = scratch.0.join(format!("{kind:?}"));
            let key = PrivateKey::generate(kind, 2048).unwrap();
            let file = KeyFile { key, principal: Some("joe".into()) };
            file.save(&path, false).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let loaded = KeyFile::load(&path).unwrap();
            assert_eq!(loaded.principal.as_deref(), Some("joe"));
            assert_eq!(loaded.key.public(), file.key.public());
            assert_eq!(load_public(&path).unwrap(), (file.key.public(), Some("joe".into())));
            let signature = loaded.key.sign(b"m").unwrap();
            assert_eq!(file.key.public().verify(loaded.key.scheme(), b"m", &signature), Ok(()));
            assert!(file.key.public().verify(loaded.key.scheme(), b"n", &signature).is_err());

            let before = fs::read(&path).unwrap();
            let other = KeyFile { key: PrivateKey::generate(Kind::Ed25519, 0).unwrap(), principal: None };
            let error = other.save(&path, false).unwrap_err();
            assert!(error.to_string().contains("is there already"), "{error:#}");
            assert_eq!(fs::read(&path).unwrap(), before, "a key was overwritten");
            other.save(&path, true).unwrap();
            assert_eq!(KeyFile::load(&path).unwrap().key.public(), other.key.public());
            let text = format!("{:?}", loaded);
            assert!(text.contains("SHA256:") && text.len() < 200, "{text}");
        }
        assert!(
            KeyFile::load(&scratch.0.join("none")).is_err_and(|e| crate::exit::code(&e) == Code::Missing)
        );
    }

    #[test]
    fn the_seed_in_hex_is_the_same_key() {
        let key = SigningKey::from_seed(&[7; 32]);
        let read = PrivateKey::from_text(&format!("{}\n", key.to_hex().as_str())).unwrap();
        assert_eq!(read.public(), key.public().into());
        assert_eq!(PrivateKey::from_text(&read.to_pem().unwrap()).unwrap().public(), read.public());
    }

    #[test]
    fn what_is_no_private_key_says_what_it_is() {
        let key = PrivateKey::generate(Kind::Ed25519, 0).unwrap();
        let pem = key.to_pem().unwrap();
        let error = |text: &str| PrivateKey::from_text(text).err().unwrap().to_string();
        assert!(error(&key.public().to_pem()).contains("this is a public key"));
        for label in ["ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY", "RSA PRIVATE KEY"] {
            assert!(error(&pem.replace(LABEL, label)).contains("COPY"));
        }
        assert!(error("hello").contains("64 hex digits"));
        assert!(error(&pem[..pem.len() - 30]).contains("no key in PEM"));
        for bits in [0, 1024, 2047, 4097, 16_384] {
            assert!(
                PrivateKey::generate(Kind::Rsa, bits).is_err_and(|e| crate::exit::code(&e) == Code::Usage)
            );
        }
        assert!(check_principal("joe@example.org").is_ok());
        for name in ["", "two words", "zoë", &"x".repeat(65)] {
            assert!(check_principal(name).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,200}", pem in any::<bool>()) {
            let text =
                if pem { format!("-----BEGIN {LABEL}-----\n{text}\n-----END {LABEL}-----\n") } else { text };
            let _ = PrivateKey::from_text(&text);
            let _ = split_comment(&text);
        }

        /// A damaged key is refused, or is a key.
        #[test]
        fn a_damaged_key_is_read_or_refused(at in any::<prop::sample::Index>(), with in any::<u8>(), rsa in any::<bool>()) {
            static KEYS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
                [Kind::Ed25519, Kind::Rsa].map(|kind| {
                    let pem = PrivateKey::generate(kind, 2048).unwrap().to_pem().unwrap();
                    SecretDocument::from_pem(&pem).unwrap().1.as_bytes().to_vec()
                })
            });
            let mut der = KEYS[usize::from(rsa)].clone();
            let at = at.index(der.len());
            der[at] = with;
            if let Ok(key) = PrivateKey::from_pkcs8(&der) {
                let signature = key.sign(b"m").unwrap();
                prop_assert!(key.public().verify(key.scheme(), b"m", &signature).is_ok());
            }
        }
    }
}
